"""From a conversation to a prompt: the model's own Jinja template, split at its control tokens.

The danger is a control token that a person typed, or pasted: tokenized as one, `</s>` in a message would end it.
So the prompt is not one string. It is a list of pieces, and only those control tokens are marked as such that
the template itself wrote. To tell them apart, every control token inside a message is masked before rendering
and restored after the split; and since a template may cut or join its messages in odd ways, the control tokens of
the result must be those of a second rendering with opaque messages.

The text is split nowhere else: a SentencePiece tokenizer puts a space before each piece.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .engine import Message
from .errors import InputError
from .template_sandbox import Template, TemplateFailure

# A private plane of Unicode that holds no assigned character.
MASKS = range(0x10FFFD, 0x100000, -1)


class Piece(NamedTuple):
    """A part of a prompt: one control token (its name in the vocabulary), or plain text."""

    text: str
    is_control: bool


class ChatTemplate:
    """A compiled chat template together with the control tokens of its model.

    `special_tokens` are the names that a template may use, such as bos_token and eos_token, each with its text.

    Raises:
        InputError: the template is not valid Jinja, or takes too long or too much memory to compile.
    """

    def __init__(self, source: str, control_tokens: Iterable[str], special_tokens: Mapping[str, str]) -> None:
        self.special_tokens = dict(special_tokens)
        longest_first = sorted({token for token in control_tokens if token}, key=len, reverse=True)
        self._source, self._controls = source, longest_first
        self._control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        try:
            self._template = Template(source)
        except TemplateFailure as failure:
            raise InputError(f"the model's chat template is not valid Jinja: {failure}") from failure

    def pieces(self, messages: Sequence[Message], *, continue_final: bool = True, **variables: Any) -> list[Piece]:
        """Return the prompt that asks for the next reply to `messages`, as pieces in their order.

        Where the last message is the assistant's, the prompt asks to go on with it: it begins as the prompt for that
        reply did and ends with its content. With `continue_final=False` it asks for another reply after it.
        Neighbouring pieces are never both text. `variables` go to the template as they are.

        Raises:
            InputError: the template refuses the conversation, or takes too long or too much memory.
        """
        if continue_final and messages and messages[-1]["role"] == "assistant":
            return self._unfinished(messages, variables)
        return self._pieces(messages, variables)

    def _unfinished(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> list[Piece]:
        """Return the prompt that ends with the content of the last message.

        How the template writes a finished reply is only a hint: it may leave out the model's thoughts, trim, or repeat.
        What the model saw when it began is the prompt for this reply, and its text was kept without the white space
        that templates put before it. A template without such a prompt opens the reply only where it writes one.
        """
        *earlier, last = messages
        opened = self._before_reply(messages, variables) if last["content"] else None
        try:
            asked = self._pieces(earlier, variables)
        except InputError:
            if opened is None:
                raise
            asked = opened
        added = None if opened is None else _after(asked, opened)
        if added and (
            not "".join(piece.text for piece in added).strip()
            or asked == self._pieces(earlier, variables, generation_prompt=False)
        ):
            asked = opened
        return _with_text(asked, last["content"])

    def _before_reply(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> list[Piece] | None:
        """Return what the template writes before the content of the last message; None where it does not write it."""
        stand_in = self._unused(messages)
        try:
            pieces = self._pieces(
                [*messages[:-1], {**messages[-1], "content": stand_in}], variables, generation_prompt=False
            )
        except InputError:
            return None
        for index in range(len(pieces) - 1, -1, -1):
            if stand_in in pieces[index].text:
                return _with_text(pieces[:index], pieces[index].text.rpartition(stand_in)[0])
        return None

    def _pieces(
        self, messages: Sequence[Message], variables: Mapping[str, Any], generation_prompt: bool = True
    ) -> list[Piece]:
        mask = self._unused(messages)
        numbers = {token: number for number, token in enumerate(self._controls)}
        variables = {**self.special_tokens, **variables, "add_generation_prompt": generation_prompt}

        def hide(match: re.Match[str]) -> str:
            return f"{mask}{numbers[match[0]]}{mask}"

        masked = [{**message, "content": self._control.sub(hide, message["content"])} for message in messages]
        pieces = self._split(self._render(masked, variables))
        opaque = [
            {**message, "content": f"{mask}{number}{mask}"} if message["content"] else message
            for number, message in enumerate(messages)
        ]
        reference = self._split(self._render(opaque, variables))
        if [piece.text for piece in pieces if piece.is_control] == [
            piece.text for piece in reference if piece.is_control
        ]:
            originals = self._controls
        else:
            pieces, originals = reference, [message["content"] for message in messages]
        hidden = re.compile(f"{mask}([0-9]+){mask}")
        return [
            piece if piece.is_control else Piece(hidden.sub(lambda found: originals[int(found[1])], piece.text), False)
            for piece in pieces
        ]

    def _unused(self, messages: Sequence[Message]) -> str:
        """Return a character that stands neither in the template nor in a message."""
        texts = [self._source, *(message["content"] for message in messages)]
        return next(chr(code) for code in MASKS if not any(chr(code) in text for text in texts))

    def _render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        try:
            return self._template.render(messages, **variables)
        except TemplateFailure as failure:
            raise InputError(f"the model's chat template refuses this conversation: {failure}") from failure

    def _split(self, text: str) -> list[Piece]:
        pieces, position = [], 0
        for match in self._control.finditer(text):
            if match.start() > position:
                pieces.append(Piece(text[position : match.start()], False))
            pieces.append(Piece(match[0], True))
            position = match.end()
        if position < len(text):
            pieces.append(Piece(text[position:], False))
        return pieces


def _with_text(pieces: Sequence[Piece], text: str) -> list[Piece]:
    """Return the pieces with the plain text after them."""
    if not text:
        return list(pieces)
    if pieces and not pieces[-1].is_control:
        return [*pieces[:-1], Piece(pieces[-1].text + text, False)]
    return [*pieces, Piece(text, False)]


def _after(beginning: Sequence[Piece], pieces: Sequence[Piece]) -> list[Piece] | None:
    """Return what comes in `pieces` after the `beginning`, or None where they begin otherwise."""
    if not beginning:
        return list(pieces)
    last = len(beginning) - 1
    if len(pieces) <= last or list(pieces[:last]) != list(beginning[:last]):
        return None
    known, found = beginning[last], pieces[last]
    if known == found:
        return list(pieces[last + 1 :])
    if known.is_control or found.is_control or not found.text.startswith(known.text):
        return None
    return [Piece(found.text[len(known.text) :], False), *pieces[last + 1 :]]
