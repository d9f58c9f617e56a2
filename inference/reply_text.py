"""The text of a reply while it grows: bytes of tokens go in, whole characters come out, and no stop string does."""

import codecs
from collections.abc import Iterable


class ReplyText:
    """What may be shown of the tokens so far.

    A character may be spread over several tokens: it comes out when it is whole, and bytes that are no UTF-8 become
    U+FFFD. Text that could be the beginning of one of the `stops` is held back until it is known to be none; the
    first stop string ends the text (`stopped`) and does not come out. Space before the first word is left out, unless
    the reply goes `on` with one that has begun.

    `ready` is what can be taken. `settled` counts the tokens whose text has come out whole, and `ends_settled` tells
    whether nothing else has: only then do these tokens stand for the text.
    """

    def __init__(self, stops: Iterable[str] = (), *, on: bool = False) -> None:
        self._stops = [stop for stop in stops if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._begun = on
        self._held = ""
        self._tokens = 0
        self._length = self._settled_length = 0  # of the text that has come out
        self.ready = ""
        self.settled = 0
        self.stopped = False

    def add(self, piece: bytes) -> None:
        """Add the bytes of the next token; nothing comes out after a stop string."""
        if self.stopped:
            return
        self._tokens += 1
        self._append(self._decoder.decode(piece))
        unfinished = len(self._decoder.getstate()[0])
        if not (self.stopped or self._held) and unfinished in (0, len(piece)):
            self._settle(self._tokens if not unfinished else self._tokens - 1)

    def close(self) -> None:
        """Let out what was held back: the reply is complete."""
        if self.stopped:
            return
        self._append(self._decoder.decode(b"", final=True))
        if not self.stopped:
            self._let_out(self._held)
            self._held = ""
            self._settle(self._tokens)

    @property
    def ends_settled(self) -> bool:
        """Whether the settled tokens stand for all of the text that has come out."""
        return self._length == self._settled_length

    def take(self) -> str:
        """Return what is ready, once."""
        text, self.ready = self.ready, ""
        return text

    def _append(self, text: str) -> None:
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        if not self._stops:
            self._let_out(text)
            return
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            self._let_out(text[: min(found)])
            return
        held = max(_overlap(text, stop) for stop in self._stops)
        self._let_out(text[: len(text) - held])
        self._held = text[len(text) - held :]

    def _let_out(self, text: str) -> None:
        self.ready += text
        self._length += len(text)

    def _settle(self, tokens: int) -> None:
        self.settled, self._settled_length = tokens, self._length


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of the text could be the beginning of the stop string."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
