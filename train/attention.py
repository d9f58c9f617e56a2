"""Attention over packed rows: every conversation by itself, and which kernel computes it.

`varlen` is registered with transformers as an attention implementation. It needs `cu_seq_lens_q`, as `train.packing`
makes it, and computes nothing across the borders of conversations, so no (tokens × tokens) mask exists anywhere.
"""

from importlib.util import find_spec
from itertools import pairwise

import torch
import torch.nn.functional as F

VARLEN = "varlen"
"""The name under which `varlen_attention` is registered."""

_WIDEST_HEAD = 256


def choose(config, device: torch.device, half: bool) -> tuple[str, str]:
    """The best attention implementation for packed rows here, and why, in words.

    Args:
        config: the model's.
        device: on which it is trained.
        half: whether queries, keys and values are bfloat16 or float16.
    """
    text = config.get_text_config()
    capped = bool(getattr(text, "attn_logit_softcapping", None))
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if _flash_kernel(device, half, width):
        for package, name in (("flash_attn_interface", "flash_attention_3"), ("flash_attn", "flash_attention_2")):
            if find_spec(package) and (name != "flash_attention_3" or torch.cuda.get_device_capability(device)[0] == 9):
                return name, f"the package {package} is installed"
        if not capped:
            return VARLEN, "PyTorch's own variable-length FlashAttention, as flash-attn is not installed"
    if capped:
        return "eager", "the model caps its attention logits, which only the package flash-attn and eager attention do"
    needs = f"FlashAttention needs an Ampere or newer GPU, 16 bits, and heads of 8, 16, … {_WIDEST_HEAD} numbers"
    reason = {"cpu": "on the CPU", "cuda": needs}
    return VARLEN, f"{reason.get(device.type, f'on {device.type}')}: scaled dot products, one conversation at a time"


def _flash_kernel(device: torch.device, half: bool, width: int) -> bool:
    """Whether FlashAttention's kernels run here: compute capability 8.0, 16 bits, and heads that fit."""
    fits = width <= _WIDEST_HEAD and width % 8 == 0
    return device.type == "cuda" and half and fits and torch.cuda.get_device_capability(device) >= (8, 0)


def register() -> None:
    """Make `varlen` known to transformers, with no mask of its own."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(VARLEN, varlen_attention)
    AttentionMaskInterface.register(VARLEN, lambda *args, **kwargs: None)


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each conversation of a packed row.

    Args:
        module: the attention layer (unused; transformers passes it).
        query: of shape (1, heads, tokens, head width); key and value: (1, key-value heads, tokens, head width).
        attention_mask: None.
        scaling: of the scores; 1/√(head width) by default.
        dropout: of the attention's weights; not all kernels have it, so it must be 0.
        sliding_window: how many tokens back a token sees, itself included; all by default.
        cu_seq_lens_q: borders of the conversations, int32 of shape (conversations + 1,).
        max_length_q: tokens of the longest conversation.

    Returns:
        The attended values, of shape (1, tokens, heads, head width), and None for the weights.

    Raises:
        ValueError: there are no borders, or something is asked for that this attention does not do.
    """
    if cu_seq_lens_q is None or attention_mask is not None or query.shape[0] != 1:
        raise ValueError("varlen attention takes packed rows alone: cu_seq_lens_q, no mask, and a batch of one")
    if dropout or kwargs.get("softcap") is not None:
        raise ValueError("varlen attention has neither dropout nor soft-capping; choose eager")
    if torch.is_autocast_enabled(query.device.type):
        # The rotary embedding has made the queries and keys float32.
        half = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(half), key.to(half), value.to(half)
    if _flash_kernel(query.device, query.dtype in (torch.bfloat16, torch.float16), query.shape[-1]):
        from torch.nn.attention.varlen import varlen_attn

        attended = varlen_attn(
            *(tensor[0].transpose(0, 1) for tensor in (query, key, value)),
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            window_size=(sliding_window - 1 if sliding_window else -1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return attended[None], None

    parts = []
    for begin, end in pairwise(cu_seq_lens_q.tolist()):
        window = None
        if sliding_window and end - begin > sliding_window:
            ones = torch.ones(end - begin, end - begin, dtype=torch.bool, device=query.device)
            window = ones.tril().triu(1 - sliding_window)
        parts.append(
            F.scaled_dot_product_attention(
                *(tensor[:, :, begin:end] for tensor in (query, key, value)),
                attn_mask=window,
                is_causal=window is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None
