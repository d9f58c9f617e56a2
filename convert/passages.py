"""Conversations of a mixture as token ids: the ones that files are measured on, and those for an importance matrix."""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets_cfg.digest import digest
from datasets_cfg.errors import BadInput
from datasets_cfg.prompt import IGNORED, encode
from datasets_cfg.tokenization import load_manifest, split_files

LENGTH = 512
"""Tokens of a conversation that are read at most."""


@dataclass(frozen=True)
class Passage:
    """Token ids that models are compared on.

    Attributes:
        ids: shape (tokens,).
        positions: after which tokens the predictions are compared, by their index.
        held_out: whether what follows each position was written by someone else than the model, so that its
            probability says something about the model (perplexity).
    """

    ids: list[int]
    positions: list[int]
    held_out: bool = False


def conversations(mixture: Path, split: str, *, most: int) -> list[Mapping[str, Any]]:
    """The first rows of a split, `messages` and `chat_template_kwargs`, in an order that mixes the sources.

    The order is that of the rows' hashed ids, so it is the same on every machine. Only the rows that are returned are
    ever in memory as Python's objects.

    Args:
        mixture: the folder.
        split: `train` or `eval`.
        most: how many rows at most.

    Raises:
        BadInput: the folder is no mixture, or its split is empty.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for file in split_files(mixture, split):
        ids = pq.read_table(file, columns=["id"]).column("id").to_pylist()
        found += [(digest(name), file, number) for number, name in enumerate(ids)]
    if not found:
        raise BadInput(f"{mixture} has no conversations in its {split} split; build it with more rows")
    chosen = heapq.nsmallest(most, found)
    rows: dict[tuple[Path, int], Mapping[str, Any]] = {}
    for file in {file for _, file, _ in chosen}:
        wanted = {number for _, other, number in chosen if other == file}
        first = 0
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(1024, columns=["messages", "chat_template_kwargs"]):
                here = [number - first for number in wanted if first <= number < first + len(batch)]
                taken = batch.take(pa.array(here, pa.int64())).to_pylist()
                rows |= {(file, first + number): row for number, row in zip(here, taken, strict=True)}
                first += len(batch)
    return [rows[file, number] for _, file, number in chosen]


def mixture_name(mixture: Path) -> str:
    """What the mixture calls itself.

    Raises:
        BadInput: the folder is no mixture.
    """
    return str(load_manifest(mixture)["mixture"])


def held_out(rows: list[Mapping[str, Any]], tokenizer: Any, *, predictions: int, length: int) -> list[Passage]:
    """Conversations until so many `predictions` of answers' tokens are to be compared, each cut at `length` tokens."""
    passages = []
    left = predictions
    for ids, trained in _encoded(rows, tokenizer):
        positions = [at - 1 for at in range(1, min(len(ids), length)) if trained[at]][:left]
        if positions:
            passages.append(Passage(ids[: positions[-1] + 2], positions, held_out=True))
            left -= len(positions)
        if left <= 0:
            break
    return passages


def calibration(rows: list[Mapping[str, Any]], tokenizer: Any, *, tokens: int, length: int) -> list[list[int]]:
    """Ids of conversations, each cut at `length` tokens, until there are so many `tokens`."""
    sequences = []
    left = tokens
    for ids, _ in _encoded(rows, tokenizer):
        if left <= 0:
            break
        sequences.append(ids[:length])
        left -= len(sequences[-1])
    return sequences


def _encoded(rows: list[Mapping[str, Any]], tokenizer: Any) -> Iterator[tuple[list[int], list[bool]]]:
    """Ids of each conversation in the model's own format, and which of them are of an answer."""
    from jinja2 import TemplateError

    for row in rows:
        try:
            encoded = encode(tokenizer, row["messages"], **(row["chat_template_kwargs"] or {}))
        except TemplateError:
            continue  # a template may refuse a kind of conversation
        trained = [label != IGNORED for label in encoded.labels]
        # A template without `{% generation %}` blocks does not say what the answers are: then every token counts.
        yield encoded.input_ids, trained if any(trained) else [True] * len(trained)
