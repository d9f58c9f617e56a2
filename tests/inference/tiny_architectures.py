"""Models with random weights whose layers differ in what llama.cpp has to remember for each token."""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

VOCABULARY = 300


def write_attention(
    path: Path,
    architecture: str = "llama",
    *,
    kv_heads: Sequence[int] = (2, 2),
    heads: int = 8,
    head_width: int = 32,
    width: int = 256,
    feed_forward: int = 512,
    vocabulary: int = VOCABULARY,
    window: int = 0,
) -> Path:
    """Write a transformer with these heads in each layer, of the architecture llama, deci or gemma3."""
    writer, layers = gguf.GGUFWriter(path, architecture), len(kv_heads)
    writer.add_context_length(16384)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(list(kv_heads) if len(set(kv_heads)) > 1 else kv_heads[0])
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head_width)
    if window:
        writer.add_sliding_window(window)
    tensors = {"token_embd": (vocabulary, width), "output_norm": (width,)}
    if architecture != "gemma3":
        tensors["output"] = (vocabulary, width)
    for layer, kv in enumerate(kv_heads):
        shapes = {
            "attn_norm": (width,),
            "attn_q": (heads * head_width, width),
            "attn_k": (kv * head_width, width),
            "attn_v": (kv * head_width, width),
            "attn_output": (width, heads * head_width),
            "ffn_norm": (width,),
            "ffn_gate": (feed_forward, width),
            "ffn_up": (feed_forward, width),
            "ffn_down": (width, feed_forward),
        }
        if architecture == "gemma3":
            shapes |= {"post_attention_norm": (width,), "post_ffw_norm": (width,)}
            shapes |= {"attn_q_norm": (head_width,), "attn_k_norm": (head_width,)}
        tensors |= {f"blk.{layer}.{name}": shape for name, shape in shapes.items()}
    _finish(writer, tensors, vocabulary)
    return path


def write_mamba(path: Path, *, layers: int = 2, width: int = 64, inner: int = 128, state: int = 16) -> Path:
    """Write a model without attention."""
    writer, conv, rank = gguf.GGUFWriter(path, "mamba"), 4, 4
    writer.add_context_length(16384)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(layers)
    writer.add_ssm_conv_kernel(conv)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    tensors = {"token_embd": (VOCABULARY, width), "output_norm": (width,)}
    for layer in range(layers):
        shapes = {
            "attn_norm": (width,),
            "ssm_in": (2 * inner, width),
            "ssm_conv1d": (inner, conv),
            "ssm_conv1d.bias": (inner,),
            "ssm_x": (rank + 2 * state, inner),
            "ssm_dt": (inner, rank),
            "ssm_dt.bias": (inner,),
            "ssm_a.": (inner, state),
            "ssm_d.": (inner,),
            "ssm_out": (width, inner),
        }
        tensors |= {f"blk.{layer}.{name}": shape for name, shape in shapes.items()}
    _finish(writer, tensors, VOCABULARY)
    return path


def _finish(writer: gguf.GGUFWriter, tensors: dict[str, tuple[int, ...]], vocabulary: int) -> None:
    """Add the vocabulary and the tensors; a name without an ending means weights, one that ends in a dot has none."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"<{number}>" for number in range(vocabulary)])
    writer.add_token_types([gguf.TokenType.NORMAL] * vocabulary)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(1)
    random = np.random.default_rng(0)
    for name, shape in tensors.items():
        name = name.removesuffix(".") if name.endswith((".", ".bias")) else f"{name}.weight"
        writer.add_tensor(name, (random.standard_normal(shape) * 0.02).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
