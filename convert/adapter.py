"""A PEFT LoRA adapter on disk: its configuration, and what each of its tensors does to the base model."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets_cfg.errors import BadInput

from .checkpoint import Checkpoint, StoredTensor, read_json, stored_tensors

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"

# Settings under which the weights are not base + scaling · B · A of this base.
_OTHER_KINDS = {
    "use_dora": "a DoRA adapter",
    "lora_bias": "LoRA with biases",
    "fan_in_fan_out": "LoRA on transposed weights",
    "target_parameters": "LoRA on single parameters instead of modules",
    "layer_replication": "LoRA on replicated layers",
    "alora_invocation_tokens": "an activated LoRA",
    "use_qalora": "a QA-LoRA adapter",
    "use_bdlora": "a block-diagonal LoRA",
    "arrow_config": "an Arrow mixture of adapters",
    "kasa_config": "a KaSA adapter",
    "monteclora_config": "a MonteCLoRA adapter",
    "velora_config": "a VeLoRA adapter",
}
# The other initialisations (pissa, olora, corda, loftq, lora_ga, …) begin by changing the base.
_INITIALISATIONS_OF_THE_ADAPTER = (None, True, False, "gaussian", "eva", "orthogonal")

_MERGE_WITH_PEFT = (
    "merge it with PEFT (PeftModel.from_pretrained(base, adapter).merge_and_unload(), then save_pretrained) and "
    "convert the result"
)

# Files that were written from a training program's own state still name the adapter, always `default`.
_PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.default)?(\.weight)?")
_ROWS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(\.default)?")
_BASE = re.compile(r"(?P<module>.+?)(\.token_adapter)?\.base_layer\.(?P<kind>weight|bias)")
_SAVED = re.compile(r"(?P<module>.+?)(\.modules_to_save(\.default)?)?\.(?P<kind>weight|bias)")


@dataclass(frozen=True)
class LowRank:
    """The two matrices whose product, times `scaling`, LoRA adds to a weight.

    Attributes:
        a, b: their names in the adapter's file. For a linear layer of shape (out, in) they have the shapes (rank, in)
            and (out, rank); for an embedding of shape (vocabulary, hidden) (rank, vocabulary) and (hidden, rank).
        rank, scaling: `scaling` is alpha / rank, or alpha / √rank with `use_rslora`.
        embedding: whether they belong to an embedding, so that it is the transposed product that is added.
    """

    a: str
    b: str
    rank: int
    scaling: float
    embedding: bool


@dataclass(frozen=True)
class Whole:
    """A tensor that the adapter holds in full instead of the base's, by its name in the adapter's file.

    `under_lora` is true for PEFT's copy of the base weight below an adapted embedding: tied heads share it.
    """

    key: str
    under_lora: bool


@dataclass(frozen=True)
class Rows:
    """Rows of an embedding that the adapter replaces: the name of their tensor in its file, and which rows they are."""

    key: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Adapter:
    """An opened adapter; nothing but the headers has been read.

    Attributes:
        folder: where it lies.
        config: the content of adapter_config.json.
        weights: its file; the names of tensors are those in the file.
        pairs, whole, rows: what it changes, by the name of the weight in the base, such as
            `model.layers.0.self_attn.q_proj.weight`.
    """

    folder: Path
    config: Mapping[str, Any]
    weights: Checkpoint
    pairs: Mapping[str, LowRank] = field(default_factory=dict)
    whole: Mapping[str, Whole] = field(default_factory=dict)
    rows: Mapping[str, Rows] = field(default_factory=dict)


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a PEFT adapter."""
    return (folder / _CONFIG).is_file()


def open_adapter(folder: Path) -> Adapter:
    """Read the configuration and the header of the weights, and pair them up; no weights are read.

    Raises:
        BadInput: the folder is not a LoRA adapter that can be merged here; the message says why and what to do.
    """
    config = read_json(folder / _CONFIG)
    _check_kind(folder / _CONFIG, config)
    tensors = _tensors(folder)

    halves: dict[tuple[str, bool], dict[str, str]] = {}
    whole: dict[str, Whole] = {}
    rows: dict[str, Rows] = {}
    for key in tensors:
        name = key.removeprefix("base_model.model.")
        if match := _PAIR.fullmatch(name):
            halves.setdefault((match["module"], bool(match["embedding"])), {})[match["side"]] = key
        elif match := _ROWS.fullmatch(name):
            rows[f"{match['module']}.weight"] = Rows(key, _trained_tokens(folder, config, match["module"]))
        elif ".lora_" not in name and (match := _BASE.fullmatch(name)):
            whole[f"{match['module']}.{match['kind']}"] = Whole(key, under_lora=True)
        elif ".lora_" not in name and (match := _SAVED.fullmatch(name)):
            whole[f"{match['module']}.{match['kind']}"] = Whole(key, under_lora=False)
        else:
            raise BadInput(f"{folder / _WEIGHTS}: the tensor {key} is not known to LoRA; {_MERGE_WITH_PEFT}")

    pairs = {}
    for (module, embedding), half in halves.items():
        if missing := {"A", "B"} - set(half):
            raise BadInput(
                f"{folder / _WEIGHTS}: {module} has no matrix {missing.pop()}, so the file is incomplete; copy it again"
            )
        pairs[f"{module}.weight"] = _pair(folder, config, tensors, module, half, embedding=embedding)
    if not (pairs or whole or rows):
        raise BadInput(f"{folder / _WEIGHTS} holds no tensors; copy it again")
    return Adapter(folder, config, Checkpoint(folder, config, tensors), pairs, whole, rows)


def base_name(adapter: Adapter) -> str:
    """The base model that the adapter names: a folder or a hub id.

    Raises:
        BadInput: it names none.
    """
    name = adapter.config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise BadInput(f"{adapter.folder / _CONFIG} does not name the base model; name it with --base")
    return name


def _check_kind(path: Path, config: Mapping[str, Any]) -> None:
    if (kind := config.get("peft_type")) != "LORA":
        raise BadInput(f"{path}: the adapter is of the type {kind}, only LORA can be merged here; {_MERGE_WITH_PEFT}")
    if other := next((what for key, what in _OTHER_KINDS.items() if config.get(key)), None):
        raise BadInput(f"{path}: this is {other}, only plain LoRA can be merged here; {_MERGE_WITH_PEFT}")
    if (begun := config.get("init_lora_weights")) not in _INITIALISATIONS_OF_THE_ADAPTER:
        raise BadInput(
            f"{path}: init_lora_weights is {begun}, which can change the base before training, so the original base "
            f"is not this adapter's; {_MERGE_WITH_PEFT}"
        )
    if not isinstance(config.get("revision"), (str, type(None))):
        raise BadInput(f"{path}: the revision of the base is not a name; name the base with --base, and remove it here")
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict):
            raise BadInput(f"{path}: {key} is not an object of patterns and numbers; copy the adapter again")
        for pattern in patterns:
            try:
                re.compile(_end_of_module(pattern))
            except (re.error, OverflowError, RecursionError) as error:
                raise BadInput(f"{path}: {key} holds {pattern!r}, which is no regular expression ({error})") from None


def _tensors(folder: Path) -> dict[str, StoredTensor]:
    if (folder / _WEIGHTS).is_file():
        return stored_tensors(folder / _WEIGHTS)
    if (folder / _PICKLE).is_file():
        raise BadInput(
            f"{folder} has only pickled weights ({_PICKLE}), which can run code when they are opened; load the adapter "
            "where you trust it and save it again with save_pretrained, which writes safetensors"
        )
    raise BadInput(f"{folder} has no {_WEIGHTS}; copy the adapter again")


def _pair(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, StoredTensor],
    module: str,
    half: Mapping[str, str],
    *,
    embedding: bool,
) -> LowRank:
    path = folder / _CONFIG
    rank = _of_module(config.get("rank_pattern"), module, config.get("r"))
    alpha = _of_module(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    if not isinstance(rank, int) or rank < 1:
        raise BadInput(f"{path}: the rank of {module} is {rank}, not a whole number above 0; copy the adapter again")
    # Smaller than infinity, and than whole numbers that no floating-point number is near.
    if not isinstance(alpha, (int, float)) or not abs(alpha) < 1e300:
        raise BadInput(f"{path}: lora_alpha of {module} is {alpha}, not a number; copy the adapter again")
    shapes = [tensors[half[side]].shape for side in "AB"]
    if [len(shape) for shape in shapes] != [2, 2] or (shapes[0][0], shapes[1][1]) != (rank, rank):
        raise BadInput(
            f"{folder}: {module} has the rank {rank} in {_CONFIG}, but matrices of the shapes "
            f"{list(shapes[0])} and {list(shapes[1])}; the two files are not of one adapter"
        )
    scaling = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return LowRank(half["A"], half["B"], rank, scaling, embedding)


def _of_module(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the module's name, as PEFT chooses it."""
    return next((value for key, value in (patterns or {}).items() if re.match(_end_of_module(key), module)), default)


def _end_of_module(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _trained_tokens(folder: Path, config: Mapping[str, Any], module: str) -> tuple[int, ...]:
    chosen = config.get("trainable_token_indices")
    if isinstance(chosen, dict):
        own = (value for key, value in chosen.items() if f".{module}".endswith(f".{key}"))
        # A tied head follows the embedding and is not listed.
        chosen = next(own, next(iter(chosen.values()), None))
    if not _are_indices(chosen):
        raise BadInput(f"{folder / _CONFIG}: trainable_token_indices does not list the tokens of {module}")
    return tuple(chosen)


def _are_indices(values: Any) -> bool:
    return isinstance(values, Iterable) and all(type(value) is int and value >= 0 for value in values)
