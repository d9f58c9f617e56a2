"""What llama.cpp computes for each architecture, as data: another one of the same design is one more entry here.

All of them are decoders with RMS norms before attention and MLP, grouped-query attention with rope, and a gated MLP.
What differs, and what llama.cpp has hard-coded (its src/models/*.cpp), is in a `Family`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")

_LLAMA_NORMS = ("input_layernorm", "post_attention_layernorm")
_GEMMA2_NORMS = (*_LLAMA_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Family:
    """One architecture of transformers and how llama.cpp computes it.

    Attributes:
        gguf: GGUF's name of the architecture.
        norms: the norms of a layer that have the hidden size.
        head_norms: whether q and k of each head are normed.
        norm_offset: added to the weights of norms: 1 where transformers computes with `1 + weight`.
        permuted: whether llama.cpp rotates neighbours in a head, where transformers rotates halves.
        activation: the only one that llama.cpp computes; transformers' name.
        activation_setting: where the configuration names its own.
        rope_types: transformers' names of those that llama.cpp computes alike.
        biases: the matrices that can have a bias in llama.cpp.
        has_bias: (configuration, matrix) → whether transformers gives it one.
        may_untie: whether llama.cpp reads a head of its own.
        window: configuration → the sliding window that llama.cpp does not have, None without one.
        refusals: configuration → sentences on settings that llama.cpp would compute otherwise.
        own_metadata: configuration → what only this architecture has, as (method of `gguf.GGUFWriter`, value).
    """

    gguf: str
    norms: tuple[str, ...] = _LLAMA_NORMS
    head_norms: bool = False
    norm_offset: float = 0.0
    permuted: bool = False
    activation: str = "silu"
    activation_setting: str = "hidden_act"
    rope_types: tuple[str, ...] = ("default", "linear", "yarn")
    biases: tuple[str, ...] = ()
    has_bias: Callable[[Any, str], bool] = lambda config, matrix: False
    may_untie: bool = True
    window: Callable[[Any], int | None] = lambda config: None
    refusals: Callable[[Any], Iterator[str]] = lambda config: iter(())
    own_metadata: Callable[[Any], Iterator[tuple[str, Any]]] = lambda config: iter(())


def head_dim(config: Any) -> int:
    """The size of an attention head; some configurations do not name it."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _configured_bias(config: Any, matrix: str) -> bool:
    return bool(getattr(config, "attention_bias" if matrix in ATTENTION else "mlp_bias", False))


def _qwen2_bias(_: Any, matrix: str) -> bool:
    return matrix in ATTENTION[:3]


def _window_of_all(config: Any) -> int | None:
    return config.sliding_window


def _window_of_some(config: Any) -> int | None:
    return config.sliding_window if "sliding_attention" in config.layer_types else None


def _qwen2_refusals(config: Any) -> Iterator[str]:
    if head_dim(config) * config.num_attention_heads != config.hidden_size:
        yield (
            f"{config.num_attention_heads} heads of {head_dim(config)} are not the hidden size {config.hidden_size}, "
            "and llama.cpp's qwen2 has no other"
        )


def _smollm3_refusals(config: Any) -> Iterator[str]:
    if list(config.no_rope_layers) != [int((layer + 1) % 4 != 0) for layer in range(config.num_hidden_layers)]:
        yield f"no_rope_layers is {config.no_rope_layers}, and llama.cpp leaves out the rope in every fourth layer"


def _gemma_refusals(config: Any) -> Iterator[str]:
    if getattr(config, "use_bidirectional_attention", None):
        yield "use_bidirectional_attention is set, and llama.cpp's attention is causal"


def _scaled_gemma_refusals(config: Any, pattern: int, largest: int) -> Iterator[str]:
    """What Gemma 2 and 3 share: layers that slide, and a scale of attention that differs in the largest model."""
    yield from _gemma_refusals(config)
    if config.layer_types != [
        "full_attention" if (layer + 1) % pattern == 0 else "sliding_attention"
        for layer in range(config.num_hidden_layers)
    ]:
        yield f"layer_types is {config.layer_types}, and in llama.cpp all layers slide but the last of each {pattern}"
    # llama.cpp tells the largest model, whose scale is another one, by its number of layers.
    is_largest = config.num_hidden_layers == largest
    scalar = config.hidden_size // config.num_attention_heads if is_largest else head_dim(config)
    if not math.isclose(config.query_pre_attn_scalar, scalar):
        yield f"query_pre_attn_scalar is {config.query_pre_attn_scalar}, and llama.cpp computes with {scalar}"


def _gemma2_refusals(config: Any) -> Iterator[str]:
    yield from _scaled_gemma_refusals(config, pattern=2, largest=46)
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window"):
        if not getattr(config, name):
            yield f"{name} is {getattr(config, name)}, and llama.cpp's gemma2 always has one"


def _gemma3_refusals(config: Any) -> Iterator[str]:
    yield from _scaled_gemma_refusals(config, pattern=6, largest=62)
    if not config.sliding_window:
        yield f"sliding_window is {config.sliding_window}, and llama.cpp's gemma3 would slide in no layer then"
    if config.attn_logit_softcapping:
        yield f"attn_logit_softcapping is {config.attn_logit_softcapping}, and llama.cpp's gemma3 has none"
    sliding = config.rope_parameters["sliding_attention"]
    if sliding["rope_type"] != "default":
        yield f"the rope of sliding layers has the type {sliding['rope_type']}, and llama.cpp does not scale it there"


def _gemma2_metadata(config: Any) -> Iterator[tuple[str, Any]]:
    yield "add_attn_logit_softcapping", config.attn_logit_softcapping
    yield "add_final_logit_softcapping", config.final_logit_softcapping
    yield "add_sliding_window", config.sliding_window


def _gemma3_metadata(config: Any) -> Iterator[tuple[str, Any]]:
    if config.final_logit_softcapping:
        yield "add_final_logit_softcapping", config.final_logit_softcapping
    yield "add_sliding_window", config.sliding_window
    yield "add_rope_freq_base_swa", config.rope_parameters["sliding_attention"]["rope_theta"]


_GEMMA = {"activation": "gelu_pytorch_tanh", "norm_offset": 1.0, "has_bias": _configured_bias}
_GEMMA2 = {**_GEMMA, "activation_setting": "hidden_activation", "norms": _GEMMA2_NORMS}

FAMILIES = {
    "LlamaForCausalLM": Family(
        "llama",
        permuted=True,
        rope_types=("default", "linear", "llama3", "yarn"),
        biases=ATTENTION + MLP,
        has_bias=_configured_bias,
    ),
    "MistralForCausalLM": Family("llama", permuted=True, window=_window_of_all),
    "Qwen2ForCausalLM": Family(
        "qwen2", biases=ATTENTION[:3], has_bias=_qwen2_bias, window=_window_of_some, refusals=_qwen2_refusals
    ),
    "Qwen3ForCausalLM": Family("qwen3", head_norms=True, has_bias=_configured_bias, window=_window_of_some),
    "SmolLM3ForCausalLM": Family(
        "smollm3", permuted=True, has_bias=_configured_bias, window=_window_of_some, refusals=_smollm3_refusals
    ),
    "GemmaForCausalLM": Family("gemma", rope_types=("default",), may_untie=False, refusals=_gemma_refusals, **_GEMMA),
    "Gemma2ForCausalLM": Family(
        "gemma2",
        rope_types=("default", "linear"),
        may_untie=False,
        refusals=_gemma2_refusals,
        own_metadata=_gemma2_metadata,
        **_GEMMA2,
    ),
    "Gemma3ForCausalLM": Family(
        "gemma3",
        head_norms=True,
        rope_types=("default", "linear"),
        refusals=_gemma3_refusals,
        own_metadata=_gemma3_metadata,
        **_GEMMA2,
    ),
}
"""transformers' class of a model that can be converted → how llama.cpp computes it."""
