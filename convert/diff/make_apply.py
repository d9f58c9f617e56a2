"""Weight diffs: what must be added to a base model's weights to get a tuned model's, to the bit.

A diff is a folder: `diff.json` (see `diff_record`), the differences as safetensors, and the tuned model's other files.
Both directions go through the tensors in pieces, a few threads at a time, so memory does not grow with the model.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datasets_cfg.digest import file_digest
from datasets_cfg.errors import BadInput
from datasets_cfg.files import staged_folder

from ..checkpoint import open_checkpoint
from ..full_disk import full_disk_is_bad_input
from ..progress import progress_steps
from .bit_difference import add, cast, difference
from .packed import PackedWriter, check_whole, read_packed
from .record import BaseTensor, DiffRecord, Shard, fits, is_carried, read_record, write_record
from .safetensors_layout import Layout, Region, read_layout
from .tensor_pieces import create_file, read_bits, spans, write_bits

if TYPE_CHECKING:
    import numpy as np

_MOST_THREADS = 8  # SHA-256 on this many is faster than most disks


@dataclass(frozen=True)
class _Place:
    """A tensor in a file."""

    file: Path
    region: Region


@dataclass(frozen=True)
class _Digests:
    """SHA-256 of a tensor in each of the three; None where there is no such tensor."""

    base: str | None
    diff: str | None
    result: str | None


def make_diff(
    base: Path,
    tuned: Path,
    out: Path,
    *,
    base_name: str | None = None,
    compress: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> tuple[DiffRecord, list[str]]:
    """Write the folder `out` with which `apply_diff` makes `tuned` of `base`.

    Args:
        base: a checkpoint folder.
        tuned: a checkpoint folder of the same architecture.
        out: the diff's folder; gets its name when it is complete.
        base_name: what the base is called, a hub id for example; the folder's name if None.
        compress: make the files smaller (bfloat16 to a half or a third), at the price of time.
        overwrite: replace `out` if it is there.
        quiet: show no progress.

    Returns:
        What `diff.json` says, and the files of `tuned` that are not carried along.

    Raises:
        BadInput: one of the folders cannot be used, the two do not fit, or the disk is full.
    """
    _check_apart(out, base, tuned)
    base_places = _places(base)
    tuned_places = _places(tuned)
    _check_pair(base, tuned, base_places, tuned_places)
    layouts = {file: read_layout(file) for file in sorted({place.file for place in tuned_places.values()})}
    names = _diff_files(len(layouts))
    carried, left_out = _other_files(tuned, {file.name for file in layouts})
    with full_disk_is_bad_input(out), staged_folder(out, overwrite=overwrite) as staged:
        writers = {
            file: _writer(staged / name, layouts[file], compress) for file, name in zip(layouts, names, strict=True)
        }

        def make(name: str) -> _Digests:
            if name not in tuned_places:
                return _Digests(_digest(base_places[name]), None, None)
            write, _ = writers[tuned_places[name].file]
            return _make_tensor(name, base_places.get(name), tuned_places[name], write)

        sizes = {name: place.region.size for name, place in (base_places | tuned_places).items()}
        digests = _in_threads("make the diff", make, sizes, quiet=quiet)
        for _, finish in writers.values():
            finish()
        record = DiffRecord(
            base_name=base_name or base.resolve().name,
            base={
                name: BaseTensor(place.region.dtype, place.region.shape, digests[name].base)
                for name, place in base_places.items()
            },
            shards=tuple(
                Shard(file.name, name, layout.header)
                for (file, layout), name in zip(layouts.items(), names, strict=True)
            ),
            diff={name: digests[name].diff for name in tuned_places},
            result={name: digests[name].result for name in tuned_places},
            files={name: _copy(tuned / name, staged / name) for name in carried},
            packed=compress,
        )
        write_record(staged, record)
    return record, left_out


def apply_diff(base: Path, diff: Path, out: Path, *, overwrite: bool = False, quiet: bool = False) -> DiffRecord:
    """Write the tuned model of which `diff` was made; it gets its name when every tensor and file has been checked.

    Args:
        base: the folder of the checkpoint that the diff was made against.
        diff: a folder that `make_diff` wrote.
        out: the model's folder.
        overwrite: replace `out` if it is there.
        quiet: show no progress.

    Returns:
        What `diff.json` says.

    Raises:
        BadInput: it is another base, the diff is damaged or incomplete, or the disk is full.
    """
    _check_apart(out, base, diff)
    record = read_record(diff)
    base_places = _places(base)
    sums = record.checksums()

    def wrong_base(name: str, what: str) -> BadInput:
        return BadInput(
            f"{base} is not the base of this diff: its tensor {name} {what}; the base is {record.base_name}, whose "
            f"weights have the SHA-256 {sums['base']}"
        )

    for name, wanted in record.base.items():
        if name not in record.result:
            continue
        if name not in base_places:
            raise wrong_base(name, "is missing")
        found = base_places[name].region
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            raise wrong_base(name, f"is {found.dtype} {found.shape} and not {wanted.dtype} {wanted.shape}")
    readers = {shard.name: _reader(diff / shard.diff, shard.layout, record.packed) for shard in record.shards}

    with full_disk_is_bad_input(out), staged_folder(out, overwrite=overwrite) as staged:
        results: dict[str, _Place] = {}
        for shard in record.shards:
            create_file(staged / shard.name, shard.layout)
            results |= {name: _Place(staged / shard.name, region) for name, region in shard.layout.regions.items()}

        def apply(name: str) -> None:
            place = results[name]
            # A tensor of the base that the diff was not made against is none of its business.
            base_place = base_places[name] if name in record.base else None
            digests = _apply_tensor(name, base_place, place, readers[place.file.name])
            if base_place and digests.base != record.base[name].sha256:
                raise wrong_base(name, "has other values")
            if (digests.diff, digests.result) != (record.diff[name], record.result[name]):
                raise BadInput(f"{diff}: the tensor {name} is damaged; get the diff again")

        _in_threads("apply the diff", apply, {name: place.region.size for name, place in results.items()}, quiet=quiet)
        for name, digest in record.files.items():
            if not (diff / name).is_file() or _copy(diff / name, staged / name) != digest:
                raise BadInput(f"{diff}/{name} is missing or damaged; get the diff again")
    return record


Write = Callable[[str, int, "np.ndarray"], None]
"""Takes a tensor's name, the first element of a piece, and the piece."""

Read = Callable[[str, int, int], "np.ndarray"]
"""From a tensor's name, the first element of a piece and how many it has, to the piece."""


def _writer(file: Path, layout: Layout, compress: bool) -> tuple[Write, Callable[[], None]]:
    """What writes the pieces of a file of the diff, and what to do when all are written."""
    if compress:
        packed = PackedWriter(file, layout)
        return packed.write, packed.finish
    create_file(file, layout)
    return lambda name, first, bits: write_bits(file, layout.regions[name], first, bits), lambda: None


def _reader(file: Path, wanted: Layout, packed: bool) -> Read:
    layout = read_layout(file)
    if packed:
        check_whole(file, layout, wanted)
        return lambda name, first, count: read_packed(file, layout, name, first, count, wanted.regions[name].dtype)
    if layout.header != wanted.header:
        raise BadInput(f"{file} does not belong to the diff.json beside it; get the diff again")
    return lambda name, first, count: read_bits(file, layout.regions[name], first, count)


def _make_tensor(name: str, base: _Place | None, tuned: _Place, write: Write) -> _Digests:
    of_base, of_diff, of_result = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for first, count in spans(tuned.region.elements):
        bits = read_bits(tuned.file, tuned.region, first, count)
        of_result.update(bits)
        diff = difference(bits, _base_bits(base, tuned.region.dtype, first, count, of_base))
        of_diff.update(diff)
        write(name, first, diff)
    return _Digests(of_base.hexdigest() if base else None, of_diff.hexdigest(), of_result.hexdigest())


def _apply_tensor(name: str, base: _Place | None, result: _Place, read: Read) -> _Digests:
    of_base, of_diff, of_result = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for first, count in spans(result.region.elements):
        diff = read(name, first, count)
        of_diff.update(diff)
        bits = add(diff, _base_bits(base, result.region.dtype, first, count, of_base))
        of_result.update(bits)
        write_bits(result.file, result.region, first, bits)
    return _Digests(of_base.hexdigest() if base else None, of_diff.hexdigest(), of_result.hexdigest())


def _base_bits(base: _Place | None, dtype: str, first: int, count: int, digest: "hashlib._Hash") -> "np.ndarray":
    """The base's part of a piece in the result's dtype, hashed as stored; shorter where the base has fewer rows."""
    import numpy as np

    rest = base.region.elements - first if base else 0
    if rest <= 0:
        return np.empty(0, np.uint8)
    stored = read_bits(base.file, base.region, first, min(count, rest))
    digest.update(stored)
    return cast(stored, base.region.dtype, dtype)


def _digest(place: _Place) -> str:
    digest = hashlib.sha256()
    for first, count in spans(place.region.elements):
        digest.update(read_bits(place.file, place.region, first, count))
    return digest.hexdigest()


def _in_threads(
    description: str, work: Callable[[str], _Digests | None], sizes: Mapping[str, int], *, quiet: bool
) -> dict[str, _Digests]:
    """`work` on each name; the first that fails, in their order, stops all. `sizes` are bytes, for the progress."""
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    done = {}
    with progress_steps(quiet=quiet)(description, sum(sizes.values())) as advance, ThreadPoolExecutor(threads) as pool:
        futures = {name: pool.submit(work, name) for name in sizes}
        try:
            for name, future in futures.items():
                done[name] = future.result()
                advance(sizes[name])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return done


def _places(folder: Path) -> dict[str, _Place]:
    """Where the tensors of a checkpoint lie, file by file and in the order of their bytes."""
    if (folder / "adapter_config.json").is_file():
        raise BadInput(
            f"{folder} is a PEFT adapter, which is a small difference already: publish it as it is, or merge it into "
            "its base first"
        )
    files = sorted({stored.file for stored in open_checkpoint(folder).tensors.values()})
    places: dict[str, _Place] = {}
    for file in files:
        for name, region in read_layout(file).regions.items():
            if name in places:
                raise BadInput(f"{folder}: the tensor {name} is in {places[name].file.name} and in {file.name}")
            places[name] = _Place(file, region)
    return places


def _check_pair(base: Path, tuned: Path, base_places: Mapping[str, _Place], tuned_places: Mapping[str, _Place]) -> None:
    shared = [name for name in tuned_places if name in base_places]
    if not shared:
        raise BadInput(f"{tuned} and {base} have no tensor in common; name the model that {tuned} was tuned from")
    for name in shared:
        old, new = base_places[name].region.shape, tuned_places[name].region.shape
        if not fits(old, new):
            raise BadInput(
                f"the tensor {name} is {new} in {tuned} and {old} in {base}; a tuned model may only have more rows, so "
                f"name the model that {tuned} was tuned from"
            )


def _check_apart(out: Path, *inputs: Path) -> None:
    for folder in inputs:
        # Otherwise --overwrite would remove what is read.
        if out.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise BadInput(f"{out} is or holds {folder}, which is read; choose another folder for the output")


def _diff_files(count: int) -> list[str]:
    # Not model.safetensors: nothing should load a difference as a model.
    return (
        ["diff.safetensors"] if count == 1 else [f"diff-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    )


def _other_files(folder: Path, weights: set[str]) -> tuple[list[str], list[str]]:
    """Names beside the model's weight files: what is carried along, and what is not. Hidden ones are not mentioned."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in weights and path.name[0] != ".")
    carried = [name for name in names if is_carried(name) and (folder / name).is_file()]
    return carried, [name for name in names if name not in carried]


def _copy(source: Path, target: Path) -> str:
    """Copy the content of a file, not its mode, and return its SHA-256."""
    shutil.copyfile(source, target)
    return file_digest(target)
