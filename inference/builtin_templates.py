"""Which prompt format a model is spoken to in: its own, one that the user names, or the likeliest for its tokens."""

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .gguf_header import GGUFHeader

FOLDER = Path(__file__).parent / "templates"
MAX_FILE_BYTES = 2**20

# Each with what ends a reply besides the model's own end of sequence.
BUILTIN = {
    "koala": (),
    "chatml": ("<|im_end|>",),
    "llama3": ("<|eot_id|>",),
    "mistral": ("[INST]",),
    "plain": ("\nUser:",),
}
# A vocabulary with all of these tokens was made for this format, in this order of preference.
SIGNS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>"),
    "mistral": ("[INST]", "[/INST]"),
}


@dataclass(frozen=True)
class Choice:
    """A prompt format: the Jinja `source`, and what ends a reply besides the model's own end of sequence (`stops`).

    A stop is a control token where the vocabulary has one of that name, and a text everywhere else.
    `name` is that of a built-in one, of the file that it came from, or "own"; `why` says to the user what it is.
    """

    name: str
    source: str
    stops: tuple[str, ...]
    why: str


def choose_template(header: GGUFHeader, control_tokens: Container[str], wanted: str | None = None) -> Choice:
    """Return the prompt format for the model.

    `wanted` is the name of a built-in one or the path of a Jinja file. Without it the file's own is taken, and where it
    has none, the built-in one that its control tokens are the signs of.

    Raises:
        InputError: `wanted` is neither, or cannot be read.
    """
    if wanted in BUILTIN:
        return _builtin(wanted, f"{wanted}, as asked for")
    if wanted:
        path = Path(wanted).expanduser()
        return Choice(path.name, _read(path), (), f"{path.name}, as asked for")
    if header.chat_template and header.chat_template.strip():
        return Choice("own", header.chat_template, (), "the file's own")
    for name, signs in SIGNS.items():
        if all(token in control_tokens for token in signs):
            why = f"{name}, guessed from its tokens; the file has none; --template chooses another"
            return _builtin(name, why)
    return _builtin("plain", "plain, since the file has none; --template chooses another")


def _builtin(name: str, why: str) -> Choice:
    source = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8").removesuffix("\n")
    return Choice(name, source, BUILTIN[name], why)


def _read(path: Path) -> str:
    known = ", ".join(BUILTIN)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise InputError(
            f"there is no prompt format {str(path)!r}; choose one of {known}, or give a file with a Jinja template"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the template {path} cannot be read: {reason}; choose a file, or one of {known}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise InputError(f"the template {path} is larger than 1 MB, so it is none; choose another file")
    try:
        source = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the template {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    if not source.strip():
        raise InputError(f"the template {path} is empty; give another, or one of {known}")
    return source
