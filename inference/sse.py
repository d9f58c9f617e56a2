"""Server-sent events, the form in which servers stream: bytes in, cut anywhere; whole events out."""

import re
from collections.abc import Iterator

from .errors import EngineError

MAX_EVENT_BYTES = 4 * 2**20
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventParser:
    """Puts events together from the pieces in which they arrive.

    Comments and keep-alives are no events. A field named "error", which llama-server writes in place of "data" where
    something broke, counts as data.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """Yield the data of each event that `piece` completes.

        Raises:
            EngineError: an event does not come to an end within reason.
        """
        ends_line = self._buffer.endswith(b"\r") or b"\n" in piece or b"\r" in piece
        self._buffer += piece
        if ends_line:
            *lines, self._buffer = self._lines()
            for line in lines:
                yield from self._take(line)
        if self._size + len(self._buffer) > MAX_EVENT_BYTES:
            raise EngineError(
                f"the server sent an event of more than {MAX_EVENT_BYTES:,} bytes; this is no chat server"
            )

    def end(self) -> Iterator[str]:
        """Yield what the stream ended with, where the empty line after the last event is missing."""
        yield from self.feed(b"\n\n")

    def _lines(self) -> list[bytes]:
        # A \r at the very end may be half of a \r\n, so it waits for what comes next.
        held = b"\r" if self._buffer.endswith(b"\r") else b""
        lines = _LINE_END.split(self._buffer.removesuffix(held))
        lines[-1] += held
        return lines

    def _take(self, line: bytes) -> Iterator[str]:
        if not line:
            data, self._data, self._size = b"\n".join(self._data), [], 0
            if data:
                yield data.decode("utf-8", errors="replace")
            return
        name, _, value = line.partition(b":")
        if name in (b"data", b"error", b"\xef\xbb\xbfdata"):
            self._data.append(value.removeprefix(b" "))
            self._size += len(value) + 1
