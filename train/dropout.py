"""Dropout as EasyLM's LLaMA has it, for models of transformers that have none."""

import torch
import torch.nn.functional as F


def add_dropout(model: torch.nn.Module, p: float) -> None:
    """Drop a share `p` of the embeddings and of what each attention and MLP block adds to the residual stream.

    These are EasyLM's `embd_pdrop` and `resid_pdrop`. Only while training; the weights stay under their names.

    Raises:
        ValueError: the model is not built of decoder layers with `self_attn` and `mlp`.
    """
    layers = getattr(model.base_model, "layers", None)
    if not layers or not all(hasattr(layer, "self_attn") and hasattr(layer, "mlp") for layer in layers):
        raise ValueError(f"{type(model).__name__} has no decoder layers with self_attn and mlp to put dropout into")

    def drop(module: torch.nn.Module, inputs, output):
        if not model.training:
            return None
        if isinstance(output, tuple):
            return (F.dropout(output[0], p), *output[1:])
        return F.dropout(output, p)

    for module in (model.get_input_embeddings(), *(part for layer in layers for part in (layer.self_attn, layer.mlp))):
        module.register_forward_hook(drop)
