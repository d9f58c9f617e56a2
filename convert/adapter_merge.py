"""A base model with an adapter merged into it, read one tensor at a time as if it were a checkpoint."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets_cfg.errors import BadInput

from .adapter import Adapter, LowRank, Rows, Whole
from .checkpoint import Checkpoint, StoredTensor

if TYPE_CHECKING:
    import torch

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Change:
    """What the adapter does to one tensor: it replaces it, then adds a product of low rank, then replaces rows."""

    whole: Whole | None = None
    pair: LowRank | None = None
    rows: Rows | None = None


@dataclass(frozen=True)
class Merged:
    """The merged model; it offers what `Checkpoint` offers.

    Attributes:
        folder: the base's.
        config: the base's, with a new `vocab_size` where the adapter brings a resized embedding, and without
            `tie_word_embeddings` where embedding and head are no longer the same.
        tensors: shapes and types after merging.
        base, adapter: where it all comes from.
        changes: by the name of the tensor.
        exact: whether tensors are merged in float32 instead of the base's type.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    base: Checkpoint
    adapter: Adapter
    changes: Mapping[str, Change]
    exact: bool = False

    @contextmanager
    def reader(self) -> Iterator[Callable[[str], "torch.Tensor"]]:
        """Yield a function from a tensor's name to the merged tensor, checked to be finite.

        The results are, bit for bit, those of PEFT 0.21's `merge_and_unload` on the CPU: the product and its scaling
        in float32, the sum in float32 and then rounded for a linear layer, the product rounded before the sum for an
        embedding. Only LoRA on tied weights differs from it: PEFT adds such a product to both ends, or twice.

        Raises:
            BadInput: by the function, for a tensor that holds NaN or infinity, before or after merging.
        """
        with self.base.reader() as read_base, self.adapter.weights.reader() as read_adapter:
            yield lambda name: self._read(name, read_base, read_adapter)

    def _read(self, name: str, read_base: Callable, read_adapter: Callable) -> "torch.Tensor":
        change = self.changes.get(name, Change())
        dtype = _torch_dtype(self.tensors[name].dtype)
        if change.whole:
            weights = read_adapter(change.whole.key).to(dtype)
        else:
            weights = read_base(_EMBEDDING if name == _HEAD and ties_head(self.base) else name).to(dtype)
        if change.pair:
            a, b = read_adapter(change.pair.a), read_adapter(change.pair.b)
            weights = _add_low_rank(weights, a, b, change.pair)
        if change.rows:
            weights = _with_rows(weights, read_adapter(change.rows.key), change.rows.indices)
        low, high = weights.aminmax()
        if not (low.isfinite() and high.isfinite()):
            raise BadInput(
                f"{self.adapter.folder}: merging makes the tensor {name} overflow {self.tensors[name].dtype}; save "
                "the base in bfloat16 or float32 and merge into that"
            )
        return weights


def merged(base: Checkpoint, adapter: Adapter, *, exact: bool = False) -> Merged:
    """Fit the adapter to the base; tensors are merged when they are read.

    Args:
        base: the unquantized base model. An adapter that was trained on a quantized one (QLoRA) is merged into the
            original weights all the same, as PEFT advises.
        adapter: the adapter.
        exact: merge in float32 whatever the base's type, which is what the adapter computes when it is not merged.

    Raises:
        BadInput: the adapter holds a tensor that the base does not have, or one of another shape.
    """
    changes: dict[str, Change] = {}
    for kind, found in (("whole", adapter.whole), ("pair", adapter.pairs), ("rows", adapter.rows)):
        for name, what in found.items():
            place = _place(name, base, adapter)
            changes[place] = replace(changes.get(place, Change()), **{kind: what})

    config, tensors = dict(base.config), dict(base.tensors)
    tied = ties_head(base)
    changes = _without_copies(base, adapter, changes)
    if tied and _untied(adapter, changes):
        config["tie_word_embeddings"] = False
        tensors[_HEAD] = tensors[_EMBEDDING]
        below = changes.get(_EMBEDDING, Change()).whole
        if below and below.under_lora and not changes.get(_HEAD, Change()).whole:
            changes[_HEAD] = replace(changes.get(_HEAD, Change()), whole=below)
    elif tied:
        changes.pop(_HEAD, None)
        tensors.pop(_HEAD, None)  # a copy that nothing reads

    for name, change in changes.items():
        tensors[name] = replace(tensors[name], shape=_fitted_shape(name, tensors[name].shape, adapter, change))
    if exact:
        tensors = {name: replace(tensor, dtype="F32") for name, tensor in tensors.items()}
    if _EMBEDDING in changes or _HEAD in changes:
        config["vocab_size"] = tensors[_EMBEDDING].shape[0]
        if _HEAD in tensors and tensors[_HEAD].shape != tensors[_EMBEDDING].shape:
            raise BadInput(
                f"{adapter.weights.folder}: the embedding has {tensors[_EMBEDDING].shape[0]} rows and the head "
                f"{tensors[_HEAD].shape[0]}; name the base that the adapter was trained on with --base"
            )
    return Merged(base.folder, config, tensors, base, adapter, changes, exact)


def ties_head(base: Checkpoint) -> bool:
    """Whether the base's head is its embedding; some configurations leave out that this is their default."""
    return bool(base.config.get("tie_word_embeddings")) or _HEAD not in base.tensors


def _place(name: str, base: Checkpoint, adapter: Adapter) -> str:
    """The base's name of the tensor; adapters of a model without its head lack the prefix `model.`, and vice versa."""
    for candidate in (name, f"model.{name}", name.removeprefix("model.")):
        if candidate in base.tensors or (candidate == _HEAD and _EMBEDDING in base.tensors):
            return candidate
    raise BadInput(
        f"{adapter.folder}: the adapter changes {name}, which {base.folder} does not have; name the base that the "
        "adapter was trained on with --base"
    )


def _without_copies(base: Checkpoint, adapter: Adapter, changes: Mapping[str, Change]) -> dict[str, Change]:
    """The changes without those tensors that are only copies of the base's: PEFT saves adapted embeddings with them."""
    import torch

    kept = {}
    with base.reader() as read_base, adapter.weights.reader() as read_adapter:
        for name, change in changes.items():
            if change.whole and name in base.tensors:
                key = change.whole.key
                if adapter.weights.tensors[key].shape == base.tensors[name].shape:
                    original = read_base(name)
                    if torch.equal(read_adapter(key).to(original.dtype), original):
                        change = replace(change, whole=None)
            if change != Change():
                kept[name] = change
    return kept


def _untied(adapter: Adapter, changes: Mapping[str, Change]) -> bool:
    """Whether embedding and head, tied in the base, become two tensors.

    PEFT's own merge of LoRA into a tied embedding changes the head as well, which the adapter did not do in training;
    it warns of that and advises to untie the base before, and that is the model that is made here.
    """
    embedding, head = changes.get(_EMBEDDING, Change()), changes.get(_HEAD, Change())
    if adapter.config.get("ensure_weight_tying") or embedding == head == Change():
        return False
    if head == Change() and not (embedding.whole or embedding.pair):
        return False  # trained rows: PEFT ties them
    return not _alike(adapter, embedding, head)


def _alike(adapter: Adapter, one: Change, other: Change) -> bool:
    """Whether two changes without LoRA do the same."""
    import torch

    if one.pair or other.pair:
        return False
    with adapter.weights.reader() as read:
        for mine, its in ((one.whole, other.whole), (one.rows, other.rows)):
            if bool(mine) != bool(its) or (mine and not torch.equal(read(mine.key), read(its.key))):
                return False
    return True


def _fitted_shape(name: str, shape: tuple[int, ...], adapter: Adapter, change: Change) -> tuple[int, ...]:
    """The tensor's shape after the change.

    Raises:
        BadInput: the change is for a tensor of another shape.
    """
    stored = adapter.weights.tensors
    wrong = None
    if change.whole:
        new = stored[change.whole.key].shape
        # Only the vocabulary can grow.
        if new[1:] != shape[1:] or (new != shape and name not in (_EMBEDDING, _HEAD)):
            wrong = new
        shape = new
    if change.pair and not wrong:
        a, b = stored[change.pair.a].shape, stored[change.pair.b].shape
        product = (a[1], b[0]) if change.pair.embedding else (b[0], a[1])
        wrong = product if product != shape else None
    if change.rows and not wrong:
        new, indices = stored[change.rows.key].shape, change.rows.indices
        if new != (len(indices), *shape[1:]) or max(indices, default=0) >= shape[0]:
            wrong = new
    if wrong:
        raise BadInput(
            f"{adapter.folder}: the adapter's {name} is for a tensor of the shape {list(wrong)}, but the base has "
            f"{list(shape)}; name the base that the adapter was trained on with --base"
        )
    return shape


def _add_low_rank(weights: "torch.Tensor", a: "torch.Tensor", b: "torch.Tensor", pair: LowRank) -> "torch.Tensor":
    import torch

    # Copies, because a matrix product can depend on how its operands are aligned, and a mapped file aligns to 8 bytes.
    a, b = (half.to(torch.float32, copy=True) for half in (a, b))
    delta = (b @ a).mul_(pair.scaling)
    if pair.embedding:
        return weights + delta.T.to(weights.dtype)
    return delta.add_(weights).to(weights.dtype)


def _with_rows(weights: "torch.Tensor", rows: "torch.Tensor", indices: tuple[int, ...]) -> "torch.Tensor":
    import torch

    return weights.index_copy(0, torch.tensor(indices, dtype=torch.int64), rows.to(weights.dtype))


def _torch_dtype(name: str) -> "torch.dtype":
    import torch

    return {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[name]
