"""Rotary position embeddings: which scalings llama.cpp computes as transformers does, and how a GGUF holds them."""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .families import Family, head_dim

if TYPE_CHECKING:
    import gguf
    import torch

# What llama.cpp and its Python binding compute, whatever the file says (transformers' own defaults).
_YARN = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}


def rope_of(config: Any) -> Mapping[str, Any]:
    """transformers' rope parameters; of the layers that see everything, where the others have their own."""
    return config.rope_parameters.get("full_attention", config.rope_parameters)


def rope_refusals(family: Family, config: Any) -> Iterator[str]:
    """Sentences on settings of the rope that llama.cpp would compute otherwise."""
    rope = rope_of(config)
    kind = rope["rope_type"]
    if kind not in family.rope_types:
        known = ", ".join(family.rope_types)
        yield f"the rope scaling {kind} is not among those that llama.cpp's {family.gguf} computes alike ({known})"
    ropes = {id(part): part for part in (rope, config.rope_parameters.get("sliding_attention", rope))}.values()
    if any(part.get("partial_rotary_factor", 1.0) != 1.0 for part in ropes):
        yield "partial_rotary_factor is not 1, and llama.cpp rotates whole heads"
    if kind != "yarn":
        return
    for name, value in _YARN.items():
        if rope.get(name, value) != value:
            yield f"{name} of YaRN is {rope[name]}, and llama.cpp computes with {value}"
    if rope.get("mscale") or rope.get("mscale_all_dim"):
        yield "YaRN has an mscale, which llama.cpp leaves out"
    usual = 0.1 * math.log(rope["factor"]) + 1.0
    if not math.isclose(rope.get("attention_factor") or usual, usual, rel_tol=1e-6):
        yield f"attention_factor of YaRN is {rope['attention_factor']}, and llama.cpp computes with {usual:g}"


def add_rope(writer: "gguf.GGUFWriter", config: Any) -> None:
    """Write the rope into the metadata."""
    import gguf

    rope = rope_of(config)
    writer.add_rope_dimension_count(head_dim(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def rope_factors(config: Any) -> "torch.Tensor | None":
    """The divisors of the rope frequencies under llama3 scaling, float32 of shape (head_dim / 2,); None without it.

    llama.cpp reads them from the tensor `rope_freqs.weight`. The method is Llama 3.1's: wavelengths that fit into the
    original context often enough stay, those that do not are stretched by `factor`, those between are interpolated.
    """
    rope = rope_of(config)
    if rope["rope_type"] != "llama3":
        return None

    import torch

    exponents = torch.arange(0, head_dim(config), 2, dtype=torch.float32) / head_dim(config)
    wavelengths = 2 * math.pi / (1.0 / rope["rope_theta"] ** exponents)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    # In float32 and in this order, so that each bit is that of other converters.
    smooth = (rope["original_max_position_embeddings"] / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return torch.where(smooth > 1, torch.ones_like(smooth), torch.where(smooth < 0, factor, between))
