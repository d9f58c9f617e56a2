"""What went through the model since the last record, by source."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Counted:
    """Sums over all processes.

    Attributes:
        tokens, rows: how many.
        squared: the sum of the squares of the conversations' lengths.
        losses, trained: of each source, the sum of its tokens' losses and how many they are.
    """

    tokens: int
    rows: int
    squared: int
    losses: list[float]
    trained: list[int]


class Counts:
    """Sums that stay on the device until they are read, so that counting never waits for it."""

    def __init__(self, sources: int, device: torch.device):
        self._sources = sources
        self._sums = torch.zeros(3 + 2 * sources, dtype=torch.float64, device=device)

    def add(self, batch: dict, losses: torch.Tensor) -> None:
        """Count a micro-batch (`train.packing.collate`) and the losses of its trained tokens, of shape (trained,)."""
        ends = batch["cu_seq_lens_q"][1:].long()
        lengths = ends.diff(prepend=ends.new_zeros(1))
        source = batch["sources"][torch.bucketize(batch["logits_to_keep"], ends, right=True)]
        self._sums[0] += ends[-1]
        self._sums[1] += batch["rows"]
        self._sums[2] += lengths.square().sum()
        of_sources = self._sums[3:].view(2, self._sources)
        of_sources[0].index_add_(0, source, losses.double())
        of_sources[1].index_add_(0, source, torch.ones_like(losses, dtype=torch.float64))

    def read(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> Counted:
        """The sums, of all processes if `reduce` adds them up."""
        tokens, rows, squared, *rest = reduce(self._sums.clone()).tolist()
        losses, trained = rest[: self._sources], rest[self._sources :]
        return Counted(int(tokens), int(rows), int(squared), losses, [int(count) for count in trained])

    def clear(self) -> None:
        """Begin anew."""
        self._sums.zero_()
