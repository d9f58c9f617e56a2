"""Files whose text goes into a message: typed as a path, or dropped on the terminal, which then pastes the path."""

import re
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

from inference.errors import InputError

from .text import harmless

MAX_BYTES = 512 * 1024
MAX_PATH_LENGTH = 4096


def dropped_files(pasted: str) -> list[Path]:
    """Return the files that a pasted text names and nothing else, or none.

    Terminals paste the path of a file that is dropped on them: as it is, in quotes, with backslashes, or as a URL.
    """
    text = pasted.strip()
    if not text or "\n" in text or len(text) > MAX_PATH_LENGTH:
        return []
    whole = _path(text)
    if _is_file(whole):
        return [whole]
    try:
        parts = [_path(part) for part in shlex.split(text)]
    except ValueError:
        return []
    return parts if parts and all(_is_file(part) and part.is_absolute() for part in parts) else []


def read_text(path: str | Path) -> str:
    """Return the text of a file for a message, with control characters as visible symbols.

    Raises:
        InputError: there is no such file, or it is too large or no text.
    """
    path = _path(str(path)) if isinstance(path, str) else path
    if not path.is_file():
        raise InputError(f"there is no file {harmless(str(path))}" + (", only a folder" if path.is_dir() else ""))
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(
                f"{harmless(path.name)} has {size / 1e6:.1f} MB; a message takes files of up to {MAX_BYTES // 1024} kB"
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{harmless(str(path))} cannot be read: {error.strerror or error}") from error
    return harmless(_decode(data, path).replace("\r\n", "\n"))


def fenced(path: Path, text: str) -> str:
    """Return the text as a code block under the name of its file, with a fence that nothing in it ends."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    language = path.suffix[1:].lower() if path.suffix[1:].isalnum() else ""
    return f"{harmless(path.name)}:\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def _path(text: str) -> Path:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _decode(data: bytes, path: Path) -> str:
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig")):
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    if b"\0" in data:
        raise InputError(f"{harmless(path.name)} is no text file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")
