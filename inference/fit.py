"""Will a model fit into memory, and how is it best loaded? Answered from its header, before anything is loaded.

What llama.cpp takes, in bytes, for a context of n tokens (in steps of 256) that is read by chunks of u tokens:

- the weights: the size of the file;
- the KV cache: n × (keys + values) × bytes of an element, summed over the layers with attention, where keys are
  head_count_kv × key_length and values head_count_kv × value_length. head_count_kv is far below head_count in models
  with grouped queries, and may differ from layer to layer; without flash attention every layer's values get the room
  of the largest. A sliding window saves nothing: its cache, too, is kept whole, so that it can be cut anywhere;
- the state of recurrent layers, which does not grow with the context;
- room to compute in: the largest of what attention (heads × n × u), the feed-forward layer (3 × its width × u, of a
  mixture of experts those that are used) and the choice of a token (vocabulary × u) need at a time, 4 bytes each; the
  mask over the context (n × u, twice with a sliding window); and a dozen rows of the model's width.
"""

import sys
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from .errors import InputError
from .gguf_header import GGUFHeader
from .load_options import RANGES, LoadOptions
from .machine import Memory, usable_cores, usable_memory

KV_BYTES = {
    **{"f32": 4.0, "f16": 2.0, "bf16": 2.0},
    **{"q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32},
}
# How many tokens of a prompt are evaluated at once; the worker keeps to these.
CPU_CHUNK, GPU_CHUNK = 128, 256
CONTEXT_STEP = 256
PROCESS_BYTES = 80 * 2**20  # of the worker itself, with llama.cpp
CONTEXTS = (32768, 16384, 8192, 4096, 2048)
USUAL_CONTEXT = 8192
AMPLE, COMFORTABLE, FREE, ALL = 0.5, 0.75, 0.9, 0.95  # shares of the memory


@dataclass(frozen=True)
class Estimate:
    """The memory that a model takes, in bytes: its `weights`, the `kv` cache or state, and room to `compute` in."""

    weights: int
    kv: int
    compute: int

    @property
    def total(self) -> int:
        """All of it, with the process around it."""
        return self.weights + self.kv + self.compute + PROCESS_BYTES


class Fit(NamedTuple):
    """Whether a model fits: "yes", "tight" (only if other programs give memory back), or "no"; and a sentence."""

    verdict: Literal["yes", "tight", "no"]
    sentence: str


def estimate(
    header: GGUFHeader,
    n_ctx: int,
    kv_type: str = "f16",
    *,
    flash_attention: bool = False,
    chunk: int = CPU_CHUNK,
) -> Estimate:
    """Return what the model takes with a context of `n_ctx` tokens; see the module for how.

    What the header leaves out counts as nothing, so that a strange file gets a low estimate and not a refusal.
    """
    n_ctx = -(-n_ctx // CONTEXT_STEP) * CONTEXT_STEP
    width, heads = header.of_model("embedding_length"), max(_per_layer(header, "attention.head_count"), default=0)
    keys, values = _key_and_value_widths(header)
    if not flash_attention:
        values = [max(values, default=0) if value else 0 for value in values]
    kv = int(n_ctx * (sum(keys) + sum(values)) * KV_BYTES[kv_type])

    experts = header.of_model("expert_used_count") * header.of_model("expert_feed_forward_length")
    experts += header.of_model("expert_shared_feed_forward_length")
    feed_forward = max(max(_per_layer(header, "feed_forward_length"), default=0), experts)
    vocabulary = header.number("tokenizer.ggml.tokens.length", header.of_model("vocab_size"))
    attention, mask = (0, 2) if flash_attention else (heads * n_ctx, 4)
    mask *= any(keys) * (2 if header.of_model("attention.sliding_window") else 1)
    compute = chunk * (4 * max(attention, vocabulary, 3 * feed_forward) + mask * n_ctx + 12 * 4 * width)
    return Estimate(header.size_bytes, kv + _recurrent_state(header), compute)


def will_it_fit(header: GGUFHeader, options: LoadOptions, memory: Memory | None, *, gpu: bool = False) -> Fit:
    """Tell whether the model, loaded with these options, fits into this memory.

    With a GPU that has a memory of its own, only what stays off it counts; whether the rest fits there, only loading
    can tell. None as the memory means that nobody knows, which passes.
    """
    options = _decided(header, options, gpu, memory)
    needed = _in_main_memory(header, options, gpu)
    if memory is None:
        return Fit("yes", f"it needs about {gigabytes(needed.total)}; how much there is, this system does not tell")
    what = (
        f"it needs about {gigabytes(needed.total)} with a context of {options.n_ctx:,} tokens, and "
        f"{gigabytes(memory.available)} of {gigabytes(memory.total)} are free"
    )
    if needed.total <= FREE * memory.available:
        return Fit("yes", what)
    if needed.total <= ALL * memory.total:
        return Fit("tight", f"{what}; it will be slow unless other programs give memory back")
    return Fit("no", what)


def choose(header: GGUFHeader, options: LoadOptions, *, gpu: bool, memory: Memory | None = None) -> LoadOptions:
    """Return the options with everything decided that they left open, but for flash attention on a GPU.

    `gpu` says whether llama.cpp can use one, `memory` is what there is; None asks the machine.

    Raises:
        InputError: the model with these options is larger than the memory, and they do not say `force`.
    """
    memory = memory or usable_memory()
    decided = _decided(header, options, gpu, memory)
    if options.force or will_it_fit(header, decided, memory, gpu=gpu).verdict != "no":
        return decided
    needed = _in_main_memory(header, decided, gpu)
    smallest = _in_main_memory(header, replace(decided, n_ctx=min(decided.n_ctx, CONTEXTS[-1])), gpu)
    remedy = "a smaller context (n_ctx)" if smallest.total <= ALL * memory.total else "a smaller quantization"
    raise InputError(
        f"{header.path.name} needs about {gigabytes(needed.total)} with a context of {decided.n_ctx:,} tokens, "
        f"and this machine has {gigabytes(memory.total)}; choose {remedy}, or load it all the same with --load force=on"
    )


def gigabytes(size: int) -> str:
    """Return a size in GB of 2**30 bytes, as memory is counted."""
    amount = size / 2**30
    return f"{amount:.0f} GB" if amount >= 9.95 else f"{amount:.1f} GB"


def _decided(header: GGUFHeader, options: LoadOptions, gpu: bool, memory: Memory | None) -> LoadOptions:
    kv_type = options.kv_type or "f16"
    quantized = kv_type.startswith("q")
    if quantized and options.flash_attention is False:
        raise InputError(f"a KV cache of the type {kv_type} needs flash attention; switch it on, or choose kv_type=f16")
    decided = replace(
        options,
        n_threads=options.n_threads or usable_cores(),
        n_gpu_layers=0 if not gpu else -1 if options.n_gpu_layers is None else options.n_gpu_layers,
        kv_type=kv_type,
        flash_attention=_flash_attention(options, quantized, gpu),
        mmap=options.mmap is not False,
    )
    return decided if options.n_ctx else replace(decided, n_ctx=_context(header, decided, gpu, memory))


def _flash_attention(options: LoadOptions, quantized: bool, gpu: bool) -> bool | None:
    """Return whether it is on; None where llama.cpp shall see whether the GPU has it for this model, as most have."""
    if options.flash_attention is None and gpu and not quantized:
        return None
    return quantized if options.flash_attention is None else options.flash_attention


def _context(header: GGUFHeader, options: LoadOptions, gpu: bool, memory: Memory | None) -> int:
    """Return the context that the model gets where nobody asks for one."""
    trained = header.of_model("context_length", CONTEXTS[-2])
    sizes = [size for size in CONTEXTS if size <= trained] or [max(trained, RANGES["n_ctx"][0])]
    if memory is None:
        return min(sizes[0], USUAL_CONTEXT)
    for size in sizes:
        share = AMPLE if size > USUAL_CONTEXT else COMFORTABLE
        # What lies in a GPU's own memory counts, too: there is seldom more of that.
        if _taken(header, options, size, gpu).total <= share * memory.available:
            return size
    return sizes[-1]


def _taken(header: GGUFHeader, options: LoadOptions, n_ctx: int, gpu: bool) -> Estimate:
    chunk = GPU_CHUNK if gpu and options.n_gpu_layers else CPU_CHUNK
    return estimate(header, n_ctx, options.kv_type, flash_attention=options.flash_attention is not False, chunk=chunk)


def _in_main_memory(header: GGUFHeader, options: LoadOptions, gpu: bool) -> Estimate:
    """Return what the model takes of the main memory."""
    needed = _taken(header, options, options.n_ctx, gpu)
    if not (gpu and options.n_gpu_layers) or sys.platform == "darwin":  # a Mac's GPU shares the memory
        return needed
    layers = header.of_model("block_count") + 1
    outside = 0 if options.n_gpu_layers < 0 else max(0.0, 1 - options.n_gpu_layers / layers)
    return Estimate(int(needed.weights * outside), int(needed.kv * outside), needed.compute)


def _key_and_value_widths(header: GGUFHeader) -> tuple[list[int], list[int]]:
    """Return for each layer how many numbers it caches as keys and as values of one token."""
    heads = _per_layer(header, "attention.head_count")
    head_width = header.of_model("embedding_length") // max(max(heads, default=1), 1)
    key_length = header.of_model("attention.key_length", head_width)
    value_length = header.of_model("attention.value_length", head_width)
    kv_heads = _per_layer(header, "attention.head_count_kv") or heads
    # The last layers of some models look at the keys and values of an earlier one.
    kv_heads = kv_heads[: len(kv_heads) - header.of_model("attention.shared_kv_layers")]
    interval = header.of_model("full_attention_interval")
    if interval > 1:
        kv_heads = [count if number % interval == 0 else 0 for number, count in enumerate(kv_heads, 1)]
    return [count * key_length for count in kv_heads], [count * value_length for count in kv_heads]


def _recurrent_state(header: GGUFHeader) -> int:
    """Return the bytes of the state that layers without attention keep."""
    inner, state = header.of_model("ssm.inner_size"), header.of_model("ssm.state_size")
    rows = max(0, header.of_model("ssm.conv_kernel") - 1)
    size = rows * (inner + 2 * header.of_model("ssm.group_count") * state) + inner * state
    size += max(0, header.of_model("shortconv.l_cache") - 1) * header.of_model("embedding_length")
    head = header.of_model("wkv.head_size")
    size += header.of_model("embedding_length") * (head + header.of_model("token_shift_count", 2)) if head else 0
    return 4 * size * header.of_model("block_count")


def _per_layer(header: GGUFHeader, key: str) -> list[int]:
    """Return a number for each layer, which the file gives for all of them or one by one; nothing if it gives none."""
    value = header.metadata.get(f"{header.architecture}.{key}")
    if isinstance(value, list):
        return [item for item in value if isinstance(item, int) and item >= 0]
    layers = min(header.of_model("block_count"), 2_000)
    return [value] * layers if isinstance(value, int) and 0 <= value < 2**31 else []
