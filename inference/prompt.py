"""The token ids of a prompt, such that a conversation that goes on continues the ids already in the context."""

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple, Protocol

from .chat_template import ChatTemplate
from .engine import Message
from .folding import leave_out

REMEMBERED_REPLIES = 4096
TOKENIZED_CHARACTERS = 4_000_000  # of the texts whose ids are kept, so that a turn tokenizes only what is new


class Vocabulary(Protocol):
    """What turning pieces into ids needs of a model."""

    add_bos: bool
    bos: int
    control_ids: dict[str, int]

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of plain text."""
        ...


class ReplyKey(NamedTuple):
    """Which reply it is: digests of all that stands `before` the text that it ends and of that text (`text`), whose
    first characters, `opening` many, are not the reply's.
    """

    before: str
    opening: int
    text: str


class Span(NamedTuple):
    """Where in a row of ids a remembered reply stands, the text that opens it included."""

    key: ReplyKey
    start: int
    length: int


@dataclass(frozen=True)
class Prompt:
    """The ids of a prompt, and where in them replies stand as they were sampled (`replies`).

    What the model is to go on with is `tail`, the text after the last control token: its ids begin at `tail_start`,
    a digest of all that stands `before` it tells where it belongs, and its first characters, `opening` many, are not
    the reply's own.
    """

    ids: list[int]
    replies: list[Span]
    before: str
    tail: str
    tail_start: int
    opening: int


class PromptEncoder:
    """Turns conversations into ids with one model's template and vocabulary.

    It remembers the ids of the replies that the model itself wrote. The text of a reply, tokenized afresh, often
    gives other ids than those sampled; with these put back, the next turn evaluates only what is new. This holds for
    every branch of a conversation, and for replies that were cut short.
    """

    def __init__(self, template: ChatTemplate, vocabulary: Vocabulary) -> None:
        self.template, self.vocabulary = template, vocabulary
        self._replies: OrderedDict[ReplyKey, array] = OrderedDict()
        self._openings: dict[str, dict[int, int]] = {}  # before → opening → how many of the replies have both
        self._tokenized: OrderedDict[str, array] = OrderedDict()
        self._tokenized_characters = 0

    def encode(self, messages: Sequence[Message], folded: int = 0) -> Prompt:
        """Return the prompt, with exactly one beginning-of-sequence token if the model wants one.

        `folded` messages after the system message are left out. Where the last message is the assistant's, the
        prompt ends with its content.

        Raises:
            InputError: the template refuses the conversation.
        """
        messages = leave_out(messages, folded)
        pieces = self.template.pieces(messages)
        begun = messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else ""
        bos, controls = self.vocabulary.bos, self.vocabulary.control_ids
        ids: list[int] = []
        if self.vocabulary.add_bos and bos >= 0 and not (pieces[:1] and controls.get(pieces[0].text) == bos):
            ids.append(bos)
        replies: list[Span] = []
        digest, before, tail, tail_start = blake2b(digest_size=16), "", "", len(ids)
        for index, (text, is_control) in enumerate(pieces):
            last = index == len(pieces) - 1
            if is_control:
                ids.append(controls[text])
            else:
                before, tail_start = digest.hexdigest(), len(ids)
                key = self._find(before, text, exact=last)
                known = self._replies[key] if key else self._tokenize(text)
                if key:
                    replies.append(Span(key, len(ids), len(known)))
                ids.extend(known)
            digest.update(f"{is_control:d}{len(text)} {text}".encode(errors="replace"))
            if last and is_control:
                before, tail_start = digest.hexdigest(), len(ids)
            elif last:
                tail = text
        return Prompt(ids, replies, before, tail, tail_start, len(tail.removesuffix(begun)))

    def remember(self, prompt: Prompt, reply: str, ids: Sequence[int]) -> list[Span]:
        """Keep the `ids` sampled after the prompt, which stand for the `reply`; return where they stand behind it."""
        text, ids = prompt.tail + reply, [*prompt.ids[prompt.tail_start :], *ids]
        keys = {_key(prompt.before, prompt.opening, text, exact) for exact in (False, True)}
        spans = [Span(key, prompt.tail_start, len(ids)) for key in sorted(keys)]
        for key in keys:
            self._keep(key, ids)
        return spans

    def restore(self, ids: Sequence[int], replies: Iterable[Span]) -> None:
        """Remember again the replies that stand in these ids, as they were when the ids were put away."""
        for key, start, length in replies:
            if key not in self._replies:
                self._keep(key, ids[start : start + length])

    def _keep(self, key: ReplyKey, ids: Sequence[int]) -> None:
        lengths = self._openings.setdefault(key.before, {})
        if key not in self._replies:
            lengths[key.opening] = lengths.get(key.opening, 0) + 1
        self._replies[key] = array("i", ids)
        self._replies.move_to_end(key)
        while len(self._replies) > REMEMBERED_REPLIES:
            old, _ = self._replies.popitem(last=False)
            lengths = self._openings[old.before]
            lengths[old.opening] -= 1
            if not lengths[old.opening]:
                del lengths[old.opening]
            if not lengths:
                del self._openings[old.before]

    def _find(self, before: str, text: str, exact: bool) -> ReplyKey | None:
        """Return the key of the remembered reply that this text ends with."""
        for opening in self._openings.get(before, ()):
            key = _key(before, opening, text, exact)
            if key in self._replies:
                self._replies.move_to_end(key)
                return key
        return None

    def _tokenize(self, text: str) -> array:
        ids = self._tokenized.pop(text, None)
        if ids is None:
            ids = array("i", self.vocabulary.tokenize(text))
            self._tokenized_characters += len(text)
        self._tokenized[text] = ids
        while self._tokenized_characters > TOKENIZED_CHARACTERS and len(self._tokenized) > 1:
            old, _ = self._tokenized.popitem(last=False)
            self._tokenized_characters -= len(old)
        return ids


def _key(before: str, opening: int, text: str, exact: bool) -> ReplyKey:
    # A template writes a finished reply with or without the space around it. One that goes on must end as it did.
    mark, reply = ("goes on", text[opening:].lstrip()) if exact else ("finished", text[opening:].strip())
    content = f"{mark}\0{text[:opening]}\0{reply}".encode(errors="replace")
    return ReplyKey(before, opening, blake2b(content, digest_size=16).hexdigest())
