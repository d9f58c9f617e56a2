"""Bad input is a sentence and exit code 2, in every command of Koala."""

import sys
from collections.abc import Callable


class BadInput(Exception):
    """What the user gave cannot be used. The message says what is wrong, where, and what to do."""


def one_line(error: BaseException) -> str:
    """What a library's exception says, without its line breaks, for use inside a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def exit_code(command: Callable[[], int | None], *, debug: bool = False) -> int:
    """Run `command` and return the exit code of the process: what it returns or 0, 2 for `BadInput`, 130 for Ctrl+C.

    With `debug` the exception is raised, so that the traceback shows.
    """
    try:
        return command() or 0
    except BadInput as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing half-written is left under its final name", file=sys.stderr)
        return 130
