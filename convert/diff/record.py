"""`diff.json`: what a weight diff was made from, what it gives, and the checksums of all three."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets_cfg.errors import BadInput, one_line

from ..weights_digest import digest_line, weights_digest
from .safetensors_layout import Layout, parse_layout

RECORD = "diff.json"
FLOATS = ("F32", "BF16", "F16")
_FORMAT = "koala weight diff"
_VERSION = 1
_ARITHMETIC = (
    "result = diff + base, on the bit patterns as whole numbers modulo 2^16 (BF16, F16) or 2^32 (F32). A base of "
    "another dtype is first cast to the result's, to the nearest, ties to even, every NaN as the canonical one. Where "
    "the base has no such tensor or fewer rows, zeros stand in."
)
_CARRIED = re.compile(r"[\w-][\w.-]*\.(json|jsonl|txt|md|jinja|model|yaml|png|svg)|(LICENSE|NOTICE)[\w.-]*", re.ASCII)
"""Configuration, tokenizer, template, card, licence, pictures: nothing that runs, no pickles, no hidden files."""


@dataclass(frozen=True)
class BaseTensor:
    """What a tensor of the base must be."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Shard:
    """One weight file of the result, its header as it was, and the file of the diff that it is made from."""

    name: str
    diff: str
    header: str

    @property
    def layout(self) -> Layout:
        """The tensors of the file.

        Raises:
            ValueError: the header is not one.
        """
        return parse_layout(self.header)


@dataclass(frozen=True)
class DiffRecord:
    """The content of `diff.json`.

    `base` holds all tensors of the base, also those that the result does not have. `diff` and `result` are the SHA-256
    of each tensor's bytes, `files` those of the other files. `packed` says whether the diff is compressed.
    """

    base_name: str
    base: Mapping[str, BaseTensor]
    shards: tuple[Shard, ...]
    diff: Mapping[str, str]
    result: Mapping[str, str]
    files: Mapping[str, str]
    packed: bool

    def checksums(self) -> dict[str, str]:
        """`weights_digest` of base, diff (before compression) and result, and the same over the other files."""
        regions = {name: region for shard in self.shards for name, region in shard.layout.regions.items()}
        return {
            "base": weights_digest(digest_line(name, t.dtype, t.shape, t.sha256) for name, t in self.base.items()),
            **{
                key: weights_digest(
                    digest_line(name, region.dtype, region.shape, digests[name]) for name, region in regions.items()
                )
                for key, digests in (("diff", self.diff), ("result", self.result))
            },
            "files": weights_digest(f"{name} {digest}" for name, digest in self.files.items()),
        }


def write_record(folder: Path, record: DiffRecord) -> None:
    """Write `diff.json` into the folder of a diff."""
    only_in_base = sorted(set(record.base) - set(record.result))
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "arithmetic": _ARITHMETIC,
        "checksums": record.checksums(),
        **asdict(record),
        "only_in_base": only_in_base,
        "only_in_result": sorted(set(record.result) - set(record.base)),
    }
    (folder / RECORD).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(folder: Path) -> DiffRecord:
    """Read and check the `diff.json` of a diff.

    Raises:
        BadInput: there is none, or it does not fit itself.
    """
    path = folder / RECORD
    if not path.is_file():
        raise BadInput(f"{folder} is not a weight diff: it has no {RECORD}; name the folder that `diff make` wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["format"], content["version"]) != (_FORMAT, _VERSION):
            raise ValueError(f"it says {content['format']!r}, version {content['version']!r}")
        record = _parse(content)
        if (found := record.checksums()) != content["checksums"]:
            wrong = next((key for key in found if found[key] != content["checksums"].get(key)), "one")
            raise ValueError(f"the checksum of the {wrong} does not fit its tensors")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        said = one_line(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {one_line(error)}"
        raise BadInput(f"{path} is damaged, or of another version ({said}); get the diff again") from None
    return record


def is_carried(name: str) -> bool:
    """Whether a file of the tuned model other than its weights goes into the diff and from there into the result."""
    return name != RECORD and _CARRIED.fullmatch(name) is not None


def fits(base: tuple[int, ...], result: tuple[int, ...]) -> bool:
    """Whether a tensor of the base can be what a result's was made from: the same shape, or fewer rows."""
    return base == result or (len(base) == len(result) > 0 and base[1:] == result[1:] and base[0] < result[0])


def _parse(content: dict) -> DiffRecord:
    for key in ("base", "diff", "result", "files"):
        if not isinstance(content[key], dict):
            raise ValueError(f"{key} is not an object")
    shards = tuple(Shard(**shard) for shard in content["shards"])
    for name in (name for shard in shards for name in (shard.name, shard.diff)):
        if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise ValueError(f"{name!r} is not the name of a weight file")
    if foreign := [name for name in content["files"] if not is_carried(name)]:
        raise ValueError(f"{foreign[0]!r} is not a file that belongs to a model")
    base = {
        name: BaseTensor(tensor["dtype"], tuple(tensor["shape"]), tensor["sha256"])
        for name, tensor in content["base"].items()
    }
    _check_tensors(shards, base, content["diff"], content["result"])
    # The names get into messages, where nothing may move the cursor of a terminal.
    for name in (content["base_name"], *base, *content["result"]):
        if not (isinstance(name, str) and name.isprintable()):
            raise ValueError(f"{name!r} is not a name")
    return DiffRecord(
        base_name=content["base_name"],
        base=base,
        shards=shards,
        diff=content["diff"],
        result=content["result"],
        files=content["files"],
        packed=content["packed"] is True,
    )


def _check_tensors(
    shards: tuple[Shard, ...], base: Mapping[str, BaseTensor], diff: Mapping[str, str], result: Mapping[str, str]
) -> None:
    regions = [(name, region) for shard in shards for name, region in shard.layout.regions.items()]
    names = [name for name, _ in regions]
    if len({shard.name for shard in shards}) != len(shards) or len(set(names)) != len(names):
        raise ValueError("a file or a tensor stands in it twice")
    if not set(names) == set(diff) == set(result):
        raise ValueError("a tensor has no checksum, or a checksum no tensor")
    for name, region in regions:
        if region.dtype not in FLOATS or (name in base and base[name].dtype not in FLOATS):
            raise ValueError(f"{name} is not of one of the dtypes {', '.join(FLOATS)}")
        if name in base and not fits(base[name].shape, region.shape):
            raise ValueError(f"the base's tensor {name} does not fit the result's")
