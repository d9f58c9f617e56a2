"""How many floating-point operations a model's training takes, whatever the hardware does besides.

The convention is PaLM's (Chowdhery et al. 2022, appendix B), which MFU is defined by: a matrix entry takes 2 FLOPs per
token forward and 4 backward, attention 12 per layer, head entry and pair of tokens of a conversation (not halved for
the causal mask), the embedding's lookup none. What gradient checkpointing computes again is not counted. A frozen
matrix needs no gradient of its own, so it takes 4; an adapter's entry takes 6.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from .decoder import Decoder, Linear


@dataclass(frozen=True)
class Adapter:
    """A LoRA: its rank and the linears that it stands beside.

    Attributes:
        rank: of the two matrices.
        targets: names of linears ("q_proj"); None means all but the head (PEFT's "all-linear").
    """

    rank: int
    targets: tuple[str, ...] | None = None

    def of(self, linears: Iterable[Linear]) -> list[Linear]:
        """Those of the linears that it stands beside."""
        return [linear for linear in linears if self.targets is None or linear.name in self.targets]

    def parameters(self, linears: Iterable[Linear]) -> int:
        """Entries of the adapters of one layer."""
        return sum(self.rank * (linear.inputs + linear.outputs) for linear in self.of(linears))


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs of training, forward and backward.

    Attributes:
        per_token: in the matrices of the layers.
        per_logits: in the head, for each token whose logits are made.
        per_squared_token: in attention, for each token of a conversation and each token of the same conversation.
    """

    per_token: int
    per_logits: int
    per_squared_token: int

    @classmethod
    def of(cls, config, *, trained: Adapter | None = None) -> "ModelFlops":
        """Of a transformers config (or a `Decoder`), trained in full or, with `trained`, by an adapter alone."""
        decoder = config if isinstance(config, Decoder) else Decoder.of(config)
        each = 4 if trained else 6
        matrices = decoder.layers * sum(linear.parameters for linear in decoder.linears)
        adapters = decoder.layers * trained.parameters(decoder.linears) if trained else 0
        return cls(
            per_token=each * matrices + 6 * adapters,
            per_logits=each * decoder.head_parameters,
            per_squared_token=12 * decoder.layers * decoder.heads * decoder.head_dim,
        )

    def of_tokens(self, tokens: int, squared: int, logits: int | None = None) -> float:
        """FLOPs of `tokens` tokens in conversations whose squared lengths add up to `squared`.

        `logits`: for how many of them the head is computed; by default, and by PaLM's convention, for all.
        """
        of_head = self.per_logits * (tokens if logits is None else logits)
        return float(self.per_token * tokens + of_head + self.per_squared_token * squared)
