"""GGUF files on the Hugging Face Hub: what a repository has, which of them is meant, and their way onto the disk.

A download that broke off leaves a `.part` file beside its target, and goes on from there the next time. What arrives is
compared with the hub's own checksum before it gets its name.
"""

import asyncio
import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from inference.errors import EngineError, InputError
from inference.gguf_header import GGUFHeader, read_header

if TYPE_CHECKING:
    import httpx2

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 30.0
RETRIES = 5
PASSING = (408, 429, 500, 502, 503, 504)
PAUSE_SECONDS = 1.0
WRITE_BYTES, WRITE_SECONDS = 2**20, 0.25
READ_BYTES = 8 * 2**20

Progress = Callable[[int, int], None]

_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_HOST = re.compile(r"^(https?://)?(www\.)?(huggingface\.co|hf\.co)/")
_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
_QUANTIZATION = re.compile(
    r"(?:^|[-._/ ])((?:UD-)?I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|F16|F32|FP16|FP32|MXFP4(?:_MOE)?)(?=$|[-._/ ])",
    re.IGNORECASE,
)
# Files in the format of models that nobody could chat with.
_COMPANION = re.compile(r"mmproj|imatrix", re.IGNORECASE)


@dataclass(frozen=True)
class HubFile:
    """One file: its path in the repository, its size in bytes, and its SHA-256, "" where the hub does not tell."""

    path: str
    size: int
    sha256: str = ""


@dataclass(frozen=True)
class HubModel:
    """A model in a repository at one commit; one that was split consists of several files, in their order."""

    repository: str
    commit: str
    files: tuple[HubFile, ...]

    @property
    def name(self) -> str:
        """The path in the repository of the file to load, which is the first one."""
        return self.files[0].path

    @property
    def size(self) -> int:
        """How many bytes all files have together."""
        return sum(file.size for file in self.files)

    @property
    def quantization(self) -> str:
        """What the name says about the types of the weights, "" where it says nothing."""
        return quantization(self.name)


def parse_name(text: str) -> tuple[str, str | None]:
    """Return the repository and the file, or None, that `text` names: OWNER/NAME, OWNER/NAME:Q4_K_M, or a page's URL.

    Raises:
        InputError: it is no name of a repository.
    """
    repository = _HOST.sub("", text.strip()).partition("?")[0].rstrip("/")
    wanted: str | None = None
    if found := re.fullmatch(r"([^/]+/[^/]+)/(?:blob|resolve|tree)/[^/]+(?:/(.+))?", repository):
        repository, wanted = found[1], found[2]
    elif ":" in repository:
        repository, _, wanted = repository.partition(":")
    if not _REPOSITORY.fullmatch(repository) or len(repository) > 120:
        raise InputError(f"{text[:120]!r} is no repository of the hub; write it like OWNER/NAME")
    return repository, wanted or None


def quantization(path: str) -> str:
    """Return what the name of a GGUF says about the types of its weights, "" where it says nothing."""
    stem = _PART.sub("", path[: -len(".gguf")] if path.lower().endswith(".gguf") else path)
    found = _QUANTIZATION.findall(stem)
    return found[-1].upper() if found else ""


async def find_models(repository: str) -> list[HubModel]:
    """Return the GGUF models in a repository of the hub, the smallest first.

    Raises:
        InputError: there is no such repository, it has no GGUF, or it is not open to the user.
        EngineError: the hub cannot be reached, or failed.
    """
    from huggingface_hub import constants, get_async_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    repository, _ = parse_name(repository)
    with _in_sentences(repository):
        async with get_async_session() as client:
            response = await client.get(
                f"{constants.ENDPOINT}/api/models/{repository}",
                params={"blobs": "true"},
                headers=build_hf_headers(),
                timeout=_timeout(),
            )
            hf_raise_for_status(response)
            try:
                facts = response.json()
                commit, files = facts["sha"], list(_files(facts["siblings"]))
            except (ValueError, LookupError, TypeError, AttributeError):
                raise InputError(f"{constants.ENDPOINT} is no hub, as its answer shows; check HF_ENDPOINT") from None
    models = group(repository, str(commit), files)
    if not models:
        raise InputError(f"{repository} has no GGUF file; look for a repository whose name ends with -GGUF")
    return models


def group(repository: str, commit: str, files: Iterable[HubFile]) -> list[HubModel]:
    """Return the files as models, the parts of each together; a model with a part missing is none."""
    whole: dict[str, list[tuple[int, int, HubFile]]] = {}
    for file in files:
        stem = file.path[: -len(".gguf")]
        part = _PART.search(stem)
        number, count = (int(part[1]), int(part[2])) if part else (1, 1)
        whole.setdefault(_PART.sub("", stem) + f"/{count}", []).append((number, count, file))
    models = []
    for parts in whole.values():
        parts.sort(key=lambda part: part[0])
        if [number for number, _, _ in parts] == list(range(1, parts[0][1] + 1)):
            models.append(HubModel(repository, commit, tuple(file for _, _, file in parts)))
    return sorted(models, key=lambda model: (bool(_COMPANION.search(model.name)), model.size, model.name))


def choose(models: list[HubModel], wanted: str | None) -> HubModel:
    """Return the one model that is meant: by its path, its file's name or its quantization, or because it is the only.

    Raises:
        InputError: none is, or several are; the message lists them.
    """
    repository = models[0].repository
    chats = [model for model in models if not _COMPANION.search(model.name)]
    if wanted is None:
        if len(chats) == 1:
            return chats[0]
        raise InputError(f"{repository} has {len(chats)} models; name one of them: {describe(chats or models)}")
    sought = wanted.strip().lower()
    for candidates, of in (
        (models, lambda model: {file.path.lower() for file in model.files}),
        (models, lambda model: {PurePosixPath(file.path).name.lower() for file in model.files}),
        (models, lambda model: {_stem(model.name), _PART.sub("", _stem(model.name))}),
        (chats, lambda model: {model.quantization.lower()}),
    ):  # fmt: skip
        found = [model for model in candidates if sought in of(model)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"several models of {repository} are called {wanted}: {describe(found)}")
    raise InputError(f"{repository} has no {wanted}; it has {describe(chats or models)}")


def describe(models: Iterable[HubModel]) -> str:
    """Return the models and their sizes as a list in a sentence."""
    return ", ".join(f"{model.name} ({size_text(model.size)})" for model in models)


def size_text(size: int) -> str:
    """Return a number of bytes as people read it."""
    amount, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "B" or amount >= 100 else f"{amount:.1f} {units[0]}"


async def download(model: HubModel, folder: Path, progress: Progress) -> GGUFHeader:
    """Fetch the model into `folder`/OWNER/NAME and return the header of the file to load.

    What is there already is not fetched again. `progress` is given the bytes that are there and the bytes of the whole,
    whenever more have come. Cancelling the task stops the download at once; what has come stays and is used next time.

    Raises:
        InputError: the user may not have the file, there is no room for it, or it is no model.
        EngineError: the hub or the disk failed; the same call goes on where it stopped.
    """
    from huggingface_hub import get_async_session

    place = folder.joinpath(*model.repository.split("/"))
    targets = [(file, place.joinpath(*_safe(file.path))) for file in model.files]
    with _in_sentences(model.repository, place):
        _check_room(place, model.size - sum(_there(file, target) for file, target in targets))
        async with get_async_session() as client:
            start = 0
            for file, target in targets:
                if _size(target) != file.size:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    await _Fetch(client, model, file, target, partial(_report, progress, start, model.size)).run()
                start += file.size
                progress(start, model.size)
    return await asyncio.to_thread(read_header, targets[0][1])


class _Fetch:
    """The way of one file onto the disk."""

    def __init__(
        self, client: "httpx2.AsyncClient", model: HubModel, file: HubFile, target: Path, report: Callable[[int], None]
    ) -> None:
        self._client, self._model, self._file, self._target, self._report = client, model, file, target, report
        self._hash = hashlib.sha256()
        self._size = 0

    async def run(self) -> None:
        part = _part(self._file, self._target)
        with part.open("a+b") as out, _alone(out, self._file):
            await self._take_up(out)
            await self._fetch_all(out)
            await _finish(_to_disk, out)
        if self._file.sha256 and self._hash.hexdigest() != self._file.sha256:
            part.unlink()
            raise EngineError(f"{self._file.path} arrived damaged and was thrown away; download it again")
        part.replace(self._target)

    async def _take_up(self, out: BinaryIO) -> None:
        """Read what is there already."""
        if os.fstat(out.fileno()).st_size > self._file.size:
            out.truncate(0)
        out.seek(0)
        while piece := await _finish(out.read, READ_BYTES):
            await _finish(self._hash.update, piece)
            self._size += len(piece)
            self._report(self._size)
        self._report(self._size)

    async def _fetch_all(self, out: BinaryIO) -> None:
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        failures = 0
        while self._size < self._file.size:
            before, reason = self._size, "it ended early"
            try:
                await self._fetch_rest(out)
            except httpx2.TransportError as error:
                reason = str(error) or type(error).__name__
            except HfHubHTTPError as error:
                if error.response.status_code not in PASSING:
                    raise
                reason = f"error {error.response.status_code}"
            if self._size >= self._file.size:
                return
            failures = 0 if self._size > before else failures + 1
            if failures > RETRIES:
                done = f"{100 * self._size // self._file.size}%"
                raise EngineError(
                    f"the download of {self._file.path} broke off at {done} ({reason}); start it again later, it goes "
                    "on where it stopped"
                )
            await asyncio.sleep(PAUSE_SECONDS)

    async def _fetch_rest(self, out: BinaryIO) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        model = self._model
        url = hf_hub_url(model.repository, self._file.path, revision=model.commit)
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if self._size:
            headers["Range"] = f"bytes={self._size}-"
        async with self._client.stream("GET", url, headers=headers, timeout=_timeout()) as response:
            hf_raise_for_status(response)
            if self._size and not response.headers.get("Content-Range", "").startswith(f"bytes {self._size}-"):
                out.truncate(0)  # this server only knows whole files
                self._size, self._hash = 0, hashlib.sha256()
            waiting, written = bytearray(), time.monotonic()
            try:
                async for piece in response.aiter_bytes():
                    waiting += piece
                    if len(waiting) >= WRITE_BYTES or time.monotonic() - written >= WRITE_SECONDS:
                        piece, waiting, written = bytes(waiting), bytearray(), time.monotonic()
                        await _finish(self._write, out, piece)
                        self._report(self._size)
            finally:
                self._write(out, bytes(waiting))

    def _write(self, out: BinaryIO, piece: bytes) -> None:
        if self._size + len(piece) > self._file.size:
            raise EngineError(f"the hub sent more than the {self._file.size:,} bytes of {self._file.path}; try later")
        out.write(piece)
        out.flush()
        self._hash.update(piece)
        self._size += len(piece)


async def _finish(do: Callable[..., Any], *arguments: Any) -> Any:
    """Do something in a thread; where the task is cancelled meanwhile, it is done before that goes on."""
    doing = asyncio.ensure_future(asyncio.to_thread(do, *arguments))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise


def _report(progress: Progress, start: int, total: int, size: int) -> None:
    progress(start + size, total)


def _timeout() -> "httpx2.Timeout":
    import httpx2

    return httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)


def _files(siblings: Iterable[dict[str, Any]]) -> Iterator[HubFile]:
    """Yield the GGUF files among what the hub lists."""
    for sibling in siblings:
        path, lfs = str(sibling.get("rfilename", "")), sibling.get("lfs") or {}
        size = sibling.get("size") or lfs.get("size")
        if path.lower().endswith(".gguf") and isinstance(size, int) and size > 0:
            yield HubFile(path, size, str(lfs.get("sha256") or ""))


def _safe(path: str) -> tuple[str, ...]:
    """Return the parts of a path in a repository; it comes from outside and must not lead elsewhere.

    Raises:
        InputError: it would.
    """
    parts = PurePosixPath(path).parts
    if not parts or any(part in ("..", "/") or re.search(r'[\x00-\x1f\x7f\\:*?"<>|]', part) for part in parts):
        raise InputError(f"the file {path!r} has a name that no file here can have")
    return parts


def _stem(path: str) -> str:
    return PurePosixPath(path).stem.lower()


def _part(file: HubFile, target: Path) -> Path:
    """Return where a download is kept until it is complete; what the hub has under this name may change meanwhile."""
    mark = hashlib.sha256(f"{file.sha256} {file.size}".encode()).hexdigest()[:8]
    return target.with_name(f"{target.name}.{mark}.part")


def _there(file: HubFile, target: Path) -> int:
    """Return how many bytes of the file need not be fetched any more."""
    size = _size(target)
    return size if size == file.size else min(_size(_part(file, target)), file.size)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _check_room(place: Path, needed: int) -> None:
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise InputError(f"there is no room in {place}: {size_text(needed)} are needed, and {size_text(free)} are free")


def _to_disk(out: BinaryIO) -> None:
    out.flush()
    os.fsync(out.fileno())


@contextmanager
def _alone(out: BinaryIO, file: HubFile) -> Iterator[None]:
    """Hold the file for this process alone; closing it lets go of it."""
    if fcntl:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{file.path} is being downloaded already; wait for that") from None
    yield


@contextmanager
def _in_sentences(repository: str, place: Path | None = None) -> Iterator[None]:
    """Turn what the hub's library and the disk raise into what the user can do about it."""
    import httpx2
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise InputError(f"{repository} cannot be fetched, as HF_HUB_OFFLINE is set; take that back first") from None
    except errors.GatedRepoError:
        raise InputError(
            f"{repository} is gated: accept its terms at {hub}/{repository}, log in with `hf auth login`, try again"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"there is no public repository {repository} on the hub; mend the name, or log in with `hf auth login` if "
            "it is private"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise InputError(
                f"the hub does not let you have {repository} ({status}); log in with `hf auth login`"
            ) from None
        if status == 429:
            raise EngineError("the hub has had too many requests from here; try again in a few minutes") from None
        raise EngineError(f"the hub answered with error {status} for {repository}; try again later") from None
    except httpx2.HTTPError as error:
        raise EngineError(
            f"the hub at {hub} cannot be reached ({str(error) or type(error).__name__}); check the network"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EngineError(
                f"the disk of {place} is full; make room and start again, the download goes on where it stopped"
            ) from None
        raise EngineError(f"{place} cannot be written ({error.strerror or error})") from error
