"""An Ollama Modelfile whose Go template gives the prompts that the model's Jinja template gives.

Ollama does not read the Jinja template in a GGUF but wants one in Go's language. Go's is derived from what the Jinja
template *does*: conversations without their contents are rendered, cut into what stands around a user's and an
assistant's content, and written down again. The result must then give the same prompts as the Jinja template.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from datasets_cfg.prompt import Blanks, skeleton

_TURNS = 4
"""Questions in the longest conversation that is compared."""
_SPLIT_FILE = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


class NoModelfile(Exception):
    """There is no Go template that gives the same prompts, or none was found; the message says why."""


@dataclass(frozen=True)
class _Parts:
    """What a template writes around the contents of a conversation.

    Attributes:
        opening: before the first message where there is no system message.
        system: before and after a system message, instead of `opening`; None where the template refuses one.
        user: before and after a question.
        answer: what asks for an answer, what stands between that and an answer of the past, and what follows it.
    """

    opening: str
    system: tuple[str, str] | None
    user: tuple[str, str]
    answer: tuple[str, str, str]


def modelfile(
    gguf_name: str,
    template: str,
    special_tokens: Mapping[str, str],
    *,
    add_bos: bool,
    stop_strings: Collection[str] = (),
) -> str:
    """The text of a Modelfile that stands beside the GGUF.

    Args:
        gguf_name: name of the GGUF in the same folder.
        template: the model's chat template in Jinja.
        special_tokens: the template's variables `bos_token` and `eos_token`.
        add_bos: what the GGUF says in `tokenizer.ggml.add_bos_token`. If true, Ollama puts that token before every
            prompt by itself, so the Go template leaves it out.
        stop_strings: texts that end an answer, beside the GGUF's own end tokens.

    Raises:
        NoModelfile: no Go template was found that gives the same prompts for conversations of one to four questions.
    """
    if _SPLIT_FILE.search(gguf_name):
        raise NoModelfile("Ollama does not load a GGUF in several files; merge them with llama-gguf-split --merge")
    for text in (gguf_name, *stop_strings):
        if not text.isprintable():
            raise NoModelfile(f"a Modelfile cannot hold the characters of {text!r}")
    parts = _find_parts(template, special_tokens)
    _check(parts, template, special_tokens)
    if add_bos:
        parts = _without_bos(parts, special_tokens.get("bos_token"))
    lines = [
        "# For Ollama: `ollama create NAME -f Modelfile`, then `ollama run NAME`.",
        "# The template gives the prompts that the model was trained on; another one would make it worse.",
        *([] if parts.system else ["# This model knows no system message, so Ollama leaves one out."]),
        f"FROM ./{gguf_name}",
        f'TEMPLATE """{_go_template(parts)}"""',
        *(f'PARAMETER stop "{text}"' for text in stop_strings),
    ]
    return "\n".join(lines) + "\n"


def _find_parts(template: str, special_tokens: Mapping[str, str]) -> _Parts:
    from jinja2 import TemplateError

    def texts(roles: Sequence[str], *, ask: bool = True) -> list[str]:
        return _texts(template, special_tokens, roles, ask=ask)

    try:
        start, between, again, end = texts(("user", "assistant", "user"))
    except TemplateError as error:
        raise NoModelfile(f"the chat template refuses a plain conversation: {error}") from error
    try:
        before_system, behind, *_ = texts(("system", "user"))
    except TemplateError:
        before_system = behind = None
    # Cut inside a token, "<s>" and "</s>" would share their ends.
    atoms = re.compile("|".join([*map(re.escape, filter(None, special_tokens.values())), "."]), re.DOTALL).findall
    before_questions = [text for text in (start, again, behind) if text is not None]
    before_user = "".join(reversed(_common_start(*(atoms(text)[::-1] for text in before_questions))))
    opening, after_answer = start.removesuffix(before_user), again.removesuffix(before_user)
    system = None if behind is None else (before_system, behind.removesuffix(before_user))
    after_user = "".join(_common_start(atoms(between), atoms(end)))
    try:
        # Where the template can leave the question unanswered it shows what belongs to the question.
        unanswered = texts(("user",), ask=False)[1]
        if after_user.startswith(unanswered):
            after_user = unanswered
    except TemplateError:
        pass
    asks, before_answer = end.removeprefix(after_user), between.removeprefix(after_user)
    if not before_answer.startswith(asks):
        raise NoModelfile(
            f"the template writes {between!r} between a question and its answer, but {end!r} where it asks for one"
        )
    gap = before_answer.removeprefix(asks)
    return _Parts(opening, system, (before_user, after_user), (asks, gap, after_answer))


def _texts(template: str, special_tokens: Mapping[str, str], roles: Sequence[str], *, ask: bool) -> list[str]:
    """The stretches of text around the contents of a conversation, one more than there are contents."""
    messages = [{"role": role, "content": ""} for role in roles]
    bones = skeleton(template, messages, special_tokens, control_tokens=(), add_generation_prompt=ask)
    parts = [part for blanks in bones if isinstance(blanks, Blanks) for part in blanks.parts]
    texts, order = [""], []
    for part in parts:
        if isinstance(part, str):
            texts[-1] += part
        elif not isinstance(part, bool):  # where loss begins and ends is nothing to a prompt
            order.append(part)
            texts.append("")
    if order != list(range(len(roles))):
        raise NoModelfile("the template leaves a message out, repeats it or moves it")
    return texts


def _common_start(*sequences: Sequence[str]) -> list[str]:
    return [items[0] for items in takewhile(lambda items: len(set(items)) == 1, zip(*sequences, strict=False))]


def _check(parts: _Parts, template: str, special_tokens: Mapping[str, str]) -> None:
    """Raise `NoModelfile` unless the parts give the template's prompts for conversations of one to four questions."""
    for turns in range(1, _TURNS + 1):
        conversation = ["user", "assistant"] * turns
        for roles in (conversation[:-1], ["system", *conversation[:-1]])[: 2 if parts.system else 1]:
            if _assembled(parts, roles) != _texts(template, special_tokens, roles, ask=True):
                raise NoModelfile(
                    f"the template treats the messages of a conversation with {turns} question(s) in ways that depend "
                    "on more than their roles"
                )


def _assembled(parts: _Parts, roles: Sequence[str]) -> list[str]:
    """What the Go template writes around the contents of such a conversation."""
    asks, gap, after_answer = parts.answer
    around = {"user": parts.user, "assistant": (asks + gap, after_answer), "system": parts.system}
    texts = [parts.opening if roles[0] != "system" else ""]
    for role in roles:
        before, after = around[role]
        texts[-1] += before
        texts.append(after)
    texts[-1] += asks
    return texts


def _without_bos(parts: _Parts, bos: str | None) -> _Parts:
    before_first = (parts.opening, parts.system[0]) if parts.system else (parts.opening,)
    if not bos or not all(text.startswith(bos) for text in before_first):
        raise NoModelfile(
            "the GGUF asks for a BOS token before every prompt, and the chat template does not begin with one"
        )
    system = (parts.system[0].removeprefix(bos), parts.system[1]) if parts.system else None
    return _Parts(parts.opening.removeprefix(bos), system, parts.user, parts.answer)


def _go_template(parts: _Parts) -> str:
    opening = _literal(parts.opening)
    if parts.system:
        before, after = parts.system
        shared = "".join(_common_start(parts.opening, before))
        before, otherwise = (_literal(text.removeprefix(shared)) for text in (before, parts.opening))
        otherwise = f"{{{{ else }}}}{otherwise}" if otherwise else ""
        opening = (
            f"{_literal(shared)}{{{{ if .System }}}}{before}{{{{ .System }}}}{_literal(after)}{otherwise}{{{{ end }}}}"
        )
    before_user, after_user = map(_literal, parts.user)
    asks, gap, after_answer = map(_literal, parts.answer)
    if gap:
        # The model itself begins an answer with the gap. Ollama keeps it in the conversation, other clients do not.
        begin = f'printf "%.{len(parts.answer[1])}s" .Content'
        gap = f"{{{{ if ne ({begin}) {_quoted(parts.answer[1])} }}}}{gap}{{{{ end }}}}"
    return (
        f"{opening}{{{{ range .Messages }}}}"
        f'{{{{ if eq .Role "user" }}}}{before_user}{{{{ .Content }}}}{after_user}'
        f'{{{{ else if eq .Role "assistant" }}}}{asks}{gap}{{{{ .Content }}}}{after_answer}'
        f"{{{{ end }}}}{{{{ end }}}}{asks}"
    )


def _literal(text: str) -> str:
    """Text as Go's template language has it: itself, or a quoted string where it could be taken for something else."""
    # Ollama's parser of the Modelfile drops what is not printable, and ends the template at three quotes.
    plain = all(character.isprintable() or character == "\n" for character in text)
    return text if plain and not re.search(r'[{}"]', text) else "{{ " + _quoted(text) + " }}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
