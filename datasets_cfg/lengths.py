"""How long the training conversations of a mixture are, by source."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from .base_tokenizer import load_tokenizer
from .prompt import encode

PERCENTILES = (50, 90, 99, 100)


@dataclass(frozen=True)
class Lengths:
    """Lengths of the training conversations.

    Attributes:
        by_source: for each source an array of shape (conversations,).
        unit: "tokens" or "characters".
        tokenizer: which one counted the tokens, or None.
    """

    by_source: dict[str, np.ndarray]
    unit: str
    tokenizer: str | None

    def summary(self, name: str) -> dict[str, int]:
        """Count, total and percentiles of one source; the 100th percentile is the longest."""
        lengths = self.by_source.get(name, np.zeros(0, dtype=np.int64))
        percentiles = np.percentile(lengths, PERCENTILES) if len(lengths) else np.zeros(len(PERCENTILES))
        return {
            "conversations": len(lengths),
            "total": int(lengths.sum()),
            **{f"p{which}": int(value) for which, value in zip(PERCENTILES, percentiles, strict=True)},
        }


def measure(folder: Path, splits: dict[str, dict], tokenizer: str | None) -> Lengths:
    """Measure what was written to `folder`: in tokens of `tokenizer` with the whole format, or in characters.

    Raises:
        BadInput: the tokenizer cannot be loaded.
    """
    loaded = load_tokenizer(tokenizer) if tokenizer else None
    found: dict[str, list[int]] = {}
    for name in splits["train"]["files"]:
        for batch in pq.ParquetFile(folder / name).iter_batches(
            batch_size=1024, columns=["source", "messages", "chat_template_kwargs"]
        ):
            for row in batch.to_pylist():
                if loaded:
                    length = len(encode(loaded, row["messages"], **row["chat_template_kwargs"]).input_ids)
                else:
                    length = sum(len(message["content"]) for message in row["messages"])
                found.setdefault(row["source"], []).append(length)
    by_source = {name: np.array(lengths) for name, lengths in found.items()}
    return Lengths(by_source, "tokens" if tokenizer else "characters", tokenizer and Path(tokenizer).name)
