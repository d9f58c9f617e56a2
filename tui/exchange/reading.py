"""The records of a file, whatever its outer form: lines of JSON, one array, one object, or a zip with such files in it.

Bytes that are no text in the file's encoding become replacement characters.
"""

import io
import itertools
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from inference.errors import InputError

from .record import Unusable

MOST_BYTES = 4 * 2**30  # of a JSON array or a file in a zip; what claims to be larger is not unpacked
HEAD_BYTES = 2**16
_BETWEEN = re.compile(r"[\s,]*")
CONVERSATIONS = re.compile(r"conversations(?:[-_ ]?\d+)?\.json")  # in a zip from ChatGPT, in any folder

Record = tuple[str, Any]


def records(path: Path) -> Iterator[Record]:
    """Yield where each record is ("record 3", "line 7") and the record, or an Unusable that says what is wrong with it.

    Raises:
        InputError: the file cannot be read, or there is no JSON in it.
    """
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                yield from _zipped(file, path)
            else:
                file.seek(0)
                yield from _json(file, str(path))
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}") from error


def _zipped(file: BinaryIO, path: Path) -> Iterator[Record]:
    with zipfile.ZipFile(file) as archive:
        members = sorted(
            (member for member in archive.infolist() if CONVERSATIONS.fullmatch(Path(member.filename).name)),
            key=lambda member: member.filename,
        )
        if not members:
            raise InputError(f"{path} is a zip without a conversations.json: give the one that ChatGPT sent, unaltered")
        for member in members:
            if member.file_size > MOST_BYTES:
                raise InputError(f"{member.filename} in {path} is larger than {MOST_BYTES // 2**30} GiB")
            with archive.open(member) as inside:
                where = f"{member.filename}, " if len(members) > 1 else ""
                for place, record in _json(io.BytesIO(inside.read(MOST_BYTES)), f"{member.filename} in {path}"):
                    yield where + place, record


def _json(file: BinaryIO, name: str) -> Iterator[Record]:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    encoding = json.detect_encoding(head)
    beginning = head.decode(encoding, "ignore").lstrip("\ufeff \t\r\n")
    if not beginning:
        raise InputError(f"{name} is empty")
    if beginning[0] not in "[{":
        raise InputError(f"{name} holds no JSON, so there are no chats in it")
    lines = io.TextIOWrapper(file, encoding, errors="replace", newline="\n")
    try:
        if beginning[0] == "[":
            yield from _array(lines.read().lstrip("\ufeff \t\r\n"))
        else:
            yield from _lines(lines)
    finally:
        lines.detach()


def _lines(lines: io.TextIOWrapper) -> Iterator[Record]:
    """One object a line, or, where the first line is none by itself, one object in all lines."""
    first = lines.readline()
    try:
        yield "line 1", json.loads(first.lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        rest = lines.read()
        try:
            yield "its object", json.loads(first.lstrip("\ufeff") + rest)
            return
        except (ValueError, RecursionError):
            yield "line 1", _no_json(error)
        following = iter(rest.split("\n"))
    else:
        following = iter(lines)
    for number, line in enumerate(following, 2):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"line {number}", _no_json(error)


def _array(text: str) -> Iterator[Record]:
    """The elements of the array, decoded one at a time; after one that cannot be decoded there is no going on."""
    decoder = json.JSONDecoder()
    place = 1
    for number in itertools.count(1):
        place = _BETWEEN.match(text, place).end()
        if text[place : place + 1] == "]":
            return
        if place == len(text):
            yield f"record {number}", Unusable("the file was cut short before it")
            return
        try:
            record, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            yield f"record {number}", Unusable(f"{_no_json(error)}, so nothing after it can be read")
            return
        yield f"record {number}", record


def _no_json(error: Exception) -> Unusable:
    if isinstance(error, json.JSONDecodeError):
        return Unusable(f"it is no valid JSON ({error.msg} at character {error.pos})")
    return Unusable("it is no valid JSON (too deeply nested)")
