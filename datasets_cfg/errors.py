"""Bad input is a sentence and exit code 2, in every command of Koala."""

import sys
import unicodedata
from collections.abc import Callable


class BadInput(Exception):
    """What the user gave cannot be used. The message says what is wrong, where, and what to do."""


def one_line(error: BaseException) -> str:
    """What a library's exception says, without its line breaks, for use inside a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


# They change the order in which a terminal shows the characters around them.
_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def visible(text: str) -> str:
    """The text with its control characters escaped as Python does (`\\x1b`); line feeds and tabs stay.

    Names in a file that somebody else wrote get into messages, where they must neither command a terminal nor change
    the order of what it shows.
    """
    return "".join(_escaped(character) for character in text)


def exit_code(command: Callable[[], int | None], *, debug: bool = False) -> int:
    """Run `command` and return the exit code of the process: what it returns or 0, 2 for `BadInput`, 130 for Ctrl+C.

    With `debug` the exception is raised, so that the traceback shows.
    """
    try:
        return command() or 0
    except BadInput as error:
        if debug:
            raise
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing half-written is left under its final name", file=sys.stderr)
        return 130


def _escaped(character: str) -> str:
    hidden = character in _BIDI or (unicodedata.category(character) == "Cc" and character not in "\n\t")
    return ascii(character)[1:-1] if hidden else character
