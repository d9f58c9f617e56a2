"""The loss of each trained token, computed where there is one and nowhere else."""

from functools import partial
from types import MethodType

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

_AT_ONCE = 1024
"""Tokens whose logits are held in float32 at a time."""


def give_losses(model: torch.nn.Module) -> None:
    """Make `model(…, logits_to_keep=positions, targets=ids)` return `(losses,)`, float32 of shape (trained,).

    transformers projects to the vocabulary only at `logits_to_keep`; the losses are taken inside `forward`, since
    accelerate turns what comes out of it into float32, and logits are the largest tensor of a step. Without `targets`
    the model is what it was.
    """
    original = model.forward

    def forward(self, *args, targets: torch.Tensor | None = None, **inputs):
        if targets is None:
            return original(*args, **inputs)
        return (token_losses(original(*args, **inputs).logits[0], targets),)

    model.forward = MethodType(forward, model)


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each token, float32 of shape (tokens,).

    Args:
        logits: of shape (tokens, vocabulary). Those in 16 bits are made float32 in chunks, which backward makes again.
        targets: ids of shape (tokens,).
    """
    if logits.dtype == torch.float32:
        return F.cross_entropy(logits, targets, reduction="none")
    chunks = zip(logits.split(_AT_ONCE), targets.split(_AT_ONCE), strict=True)
    again = partial(checkpoint, _float_cross_entropy, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([again(*chunk) for chunk in chunks])


def _float_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")
