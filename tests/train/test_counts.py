"""What goes through the model is counted by source."""

import torch

from train.counts import Counts


def test_sums_are_by_source_and_add_up():
    counts = Counts(3, torch.device("cpu"))
    batch = {
        "cu_seq_lens_q": torch.tensor([0, 4, 7, 9], dtype=torch.int32),
        "logits_to_keep": torch.tensor([0, 3, 4, 8]),
        "sources": torch.tensor([2, 0, 2]),
        "rows": 2,
    }
    counts.add(batch, torch.tensor([1.0, 2.0, 4.0, 8.0]))
    counts.add(batch, torch.tensor([1.0, 2.0, 4.0, 8.0]))
    once = counts.read(lambda sums: sums)
    assert (once.tokens, once.rows, once.squared) == (18, 4, 2 * (16 + 9 + 4))
    assert once.losses == [8.0, 0.0, 22.0]
    assert once.trained == [2, 0, 6]
    assert counts.read(lambda sums: 2 * sums).tokens == 36  # as two processes with the same rows
    counts.clear()
    assert counts.read(lambda sums: sums).trained == [0, 0, 0]
