"""Write an adapter as llama.cpp's adapter file, to be loaded beside the GGUF of its base."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets_cfg.errors import BadInput

from .adapter import LowRank
from .adapter_merge import Merged, ties_head
from .architecture import TensorPlan, gguf_architecture
from .metadata import Provenance, add_provenance
from .write import add_tensor_info, as_array

if TYPE_CHECKING:
    import torch


def write_adapter_gguf(
    path: Path,
    file_type: str,
    model: Merged,
    plans: list[TensorPlan],
    config: Any,
    provenance: Provenance,
    *,
    name: str,
    verified: bool,
    advance: Callable[[int], None],
) -> None:
    """Write the adapter at `path`.

    llama.cpp adds alpha / rank · B · A, with one alpha for the whole file. Where PEFT's scaling is another (rank
    stabilisation, a pattern of alphas), the quotient of the two goes into B.

    Args:
        path: the file.
        file_type: `F32`, `BF16` or `F16`, the type of all tensors.
        model: the adapter, fitted to its base.
        plans: the base's tensors.
        config: the base's configuration, for which `plans` were made.
        provenance: what is known of the adapter's origin.
        name: the adapter's name.
        verified: whether the file is published only after its verification; goes into `koala.verified`.
        advance: called with the bytes of each tensor that has been written.

    Raises:
        BadInput: the adapter does more than an adapter file can say, or holds NaN or infinity.
    """
    import gguf

    check_expressible(model)
    alpha = float(model.adapter.config["lora_alpha"])
    stored = model.adapter.weights.tensors
    adapted = [(plan, model.changes[plan.source].pair) for plan in plans if plan.source in model.changes]

    writer = gguf.GGUFWriter(path, gguf_architecture(config))
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if file_type == 'F32' else 'MOSTLY'}_{file_type}"])
    add_provenance(writer, provenance)
    writer.add_bool("koala.verified", verified)
    for plan, pair in adapted:
        shape = stored[pair.a].shape
        add_tensor_info(writer, f"{plan.target}.lora_a", shape[::-1] if pair.embedding else shape, file_type)
        add_tensor_info(writer, f"{plan.target}.lora_b", stored[pair.b].shape, file_type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with model.adapter.weights.reader() as read:
            for plan, pair in adapted:
                for weights in (_half_a(read(pair.a), pair), _half_b(read(pair.b), pair, plan, alpha)):
                    array = as_array(weights, file_type)
                    writer.write_tensor_data(array)
                    advance(array.nbytes)
    finally:
        writer.close()


def check_expressible(model: Merged) -> None:
    """Refuse an adapter that does what llama.cpp's adapter file has no words for.

    Raises:
        BadInput: it replaces weights or tokens, adapts a head or an embedding that are tied, or has an alpha of 0.
    """
    folder, pairs = model.adapter.folder, model.adapter.pairs
    advice = "convert the merged model instead, without --adapter-only"
    if other := next((name for name, change in model.changes.items() if change.whole or change.rows), None):
        raise BadInput(
            f"{folder}: the adapter replaces weights of {other} (modules_to_save, trainable tokens or a resized "
            f"vocabulary), which an adapter file of llama.cpp cannot do; {advice}"
        )
    if ties_head(model.base) and any(pair.embedding or name == "lm_head.weight" for name, pair in pairs.items()):
        raise BadInput(
            f"{folder}: the adapter changes the embedding or the head of a model that ties the two, which llama.cpp "
            f"cannot tell apart in an adapter file; {advice}"
        )
    if not model.adapter.config["lora_alpha"]:
        raise BadInput(f"{folder}: lora_alpha is 0, which llama.cpp takes for a scaling of 1; {advice}")


def _half_a(weights: "torch.Tensor", pair: LowRank) -> "torch.Tensor":
    # llama.cpp looks up rows of an embedding's A by token.
    return weights.T if pair.embedding else weights


def _half_b(weights: "torch.Tensor", pair: LowRank, plan: TensorPlan, alpha: float) -> "torch.Tensor":
    factor = pair.scaling / (alpha / pair.rank)
    if factor != 1.0:
        weights = weights.float() * factor
    # Rows of B become rows of the product, so they take the order that the base's rows have in its GGUF.
    return weights if pair.embedding else plan.apply(weights)
