"""`--quantize auto --ram 8G`: the best type whose file runs in the memory that the user names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datasets_cfg.errors import BadInput

TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
"""The types to choose from, the most faithful first.

llama.cpp's own table for Llama-3-8B on Wikitext-2 gives a mean KLD of 0.0014 (Q8_0), 0.0055 (Q6_K), 0.0108 (Q5_K_M) and
0.031 (Q4_K_M); 0.072 for Q4_0 at about the size of Q4_K_M is why the older types are not here. The last two go on with
fewer bits.
"""

CONTEXT = 4096
"""Tokens of context that memory is reckoned for; koala-tui opens as many."""

_BATCH = 512
"""Tokens that llama.cpp computes at once by default (`--ubatch-size`)."""
_PROCESS = 100_000_000
"""Bytes of a program with llama.cpp and a loaded vocabulary; measured: 35 to 60 MB (32,000 and 128,256 tokens)."""
_RESERVE, _RESERVED_SHARE = 2_000_000_000, 0.25
"""What is left to the system and other programs: this share of the RAM, but no more than these bytes."""


@dataclass(frozen=True)
class Memory:
    """Bytes of RAM that a model takes in llama.cpp on a CPU.

    Attributes:
        file: the GGUF, all of which is read for each token.
        cache: keys and values of the context, in F16.
        buffers: llama.cpp's compute buffers.
        process: the program around it.
        context: tokens that the cache holds.
    """

    file: int
    cache: int
    buffers: int
    process: int
    context: int

    @property
    def total(self) -> int:
        """Bytes of all together."""
        return self.file + self.cache + self.buffers + self.process

    def __str__(self) -> str:
        return (
            f"{_gb(self.file)} file + {_gb(self.cache)} cache for {self.context:,} tokens + {_gb(self.buffers)} "
            f"compute buffers + {_gb(self.process)} program = {_gb(self.total)}"
        )


def ram_needed(size: int, config: Any, context: int = CONTEXT) -> Memory:
    """The memory that a GGUF of `size` bytes takes with a context of `context` tokens, or the model's if that is less.

    The cache is exact where every layer looks at the whole context, and too large for sliding windows (Gemma).
    The compute buffers are those that llama.cpp reports at its defaults (512 tokens at once, flash attention): the
    float32 logits and two hidden states, or three states of the MLP and four hidden ones, and the attention mask in
    F16. The formula was found by, and holds within 3% for, the shapes of eleven models from SmolLM-135M to Llama-13B.
    Memory that llama.cpp takes to reorder 4-bit weights replaces pages of the file, so it is not counted.
    """
    context = min(context, config.max_position_embeddings)
    heads = config.num_key_value_heads or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    logits = config.vocab_size + 2 * config.hidden_size
    layer = 3 * config.intermediate_size + 4 * config.hidden_size
    return Memory(
        file=size,
        cache=2 * 2 * config.num_hidden_layers * heads * head_dim * context,
        buffers=_BATCH * (4 * max(logits, layer) + 2 * context),
        process=_PROCESS,
        context=context,
    )


def choose_type(sizes: Callable[[str], int], ram_bytes: int, config: Any, context: int = CONTEXT) -> tuple[str, str]:
    """The first of `TYPES` that fits.

    Args:
        sizes: from a type's name to the bytes that its file would have.
        ram_bytes: RAM of the machine.
        config: the model's transformers configuration.
        context: tokens that a conversation may have.

    Returns:
        The type, and a sentence with the reckoning.

    Raises:
        BadInput: not even the smallest fits; the message has the reckoning.
    """
    reserve = min(_RESERVE, int(ram_bytes * _RESERVED_SHARE))
    room = ram_bytes - reserve
    left = f"{_gb(room)} ({_gb(ram_bytes)} RAM less {_gb(reserve)} for the system)"
    for name in TYPES:
        memory = ram_needed(sizes(name), config, context)
        if memory.total <= room:
            return name, f"{name} is the best type that fits: {memory}, of {left}"
    raise BadInput(
        f"--quantize auto: even {TYPES[-1]} does not fit into --ram: {memory}, and there are {left}; "
        "use a machine with more RAM or a smaller model"
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
