"""Rows of whole conversations: which go together, and a row as the trainer's collator wants it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from datasets_cfg.prompt import IGNORED

ROW = "row"
"""The one column of a packed split: the row's number."""


@dataclass(frozen=True)
class Packing:
    """Which conversations stand in which row.

    Attributes:
        conversations: indices of all conversations, row after row, of shape (conversations,).
        ends: how many conversations there are up to the end of each row, of shape (rows,).
        tokens: in all rows.
        capacity: of a row, in tokens.
    """

    conversations: np.ndarray
    ends: np.ndarray
    tokens: int
    capacity: int

    def __len__(self) -> int:
        """How many rows."""
        return len(self.ends)

    @property
    def fill(self) -> float:
        """The share of the rows' capacity that holds tokens."""
        return self.tokens / (len(self) * self.capacity) if len(self) else 0.0

    def row(self, number: int) -> np.ndarray:
        """The indices of the conversations in a row."""
        return self.conversations[self.ends[number - 1] if number else 0 : self.ends[number]]


def pack(lengths: Sequence[int] | np.ndarray, capacity: int, seed: int) -> Packing:
    """Put conversations into rows of at most `capacity` tokens by best-fit decreasing, over the whole split at once.

    Each conversation, the longest first, goes into the fullest row that has room for it. The same lengths and seed give
    the same rows on every machine and for every number of processes. Which of two conversations of one length comes
    first is drawn with the seed, so that rows mix sources. (Best-fit decreasing needs at most 11/9 of the fewest rows:
    Johnson 1973; on real conversations it fills more than 99.9%.)

    Args:
        lengths: of the conversations, in tokens, each from 1 to `capacity`.
        capacity: of a row, in tokens.
        seed: of the draw between equal lengths.
    """
    lengths = np.asarray(lengths, np.int64)
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= capacity:
        raise ValueError(f"conversations of {lengths.min()} to {lengths.max()} tokens do not fit rows of {capacity}")
    drawn = np.random.default_rng(seed).permutation(len(lengths))
    order = drawn[np.argsort(-lengths[drawn], kind="stable")]
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # the rows by how much room they have
    rooms = 0  # bit r is set where a row has room r: the least room that suffices is the lowest bit from there up
    for conversation, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
            rows[row].append(conversation)
        else:
            room, row = capacity, len(rows)
            rows.append([conversation])
        with_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return Packing(
        conversations=np.array([conversation for row in rows for conversation in row], np.int64),
        ends=np.cumsum([len(row) for row in rows], dtype=np.int64),
        tokens=int(lengths.sum()),
        capacity=capacity,
    )


def packed_rows(conversations, packing: Packing, sources: Sequence[str], multiple: int = 1):
    """A packed split as a `datasets.Dataset`, of which `collate` takes a list of rows.

    The rows are put together when they are asked for, from conversations that stay on the disk. The split is made a
    multiple of `multiple` rows long by fillers of one token without loss, so that each optimizer step of an epoch has
    the same rows whatever the number of processes.

    Args:
        conversations: a `datasets.Dataset` with `input_ids`, `labels` and `source`.
        packing: of these conversations.
        sources: the names of all sources; a row tells them by their number.
        multiple: of how many rows the dataset is.
    """
    from datasets import Dataset

    length = -(-len(packing) // multiple) * multiple
    return Dataset.from_dict({ROW: range(length)}).with_transform(_Rows(conversations, packing, sources))


class _Rows:
    """Numbers of rows in, rows out: `input_ids` and `labels` of shape (tokens,), `lengths` and `sources` of shape
    (conversations,), each a list over the rows."""

    def __init__(self, conversations, packing: Packing, sources: Sequence[str]):
        numbers = {name: number for number, name in enumerate(sources)}
        self._tokens = conversations.select_columns(["input_ids", "labels"]).with_format("arrow")
        self._sources = np.array([numbers[name] for name in conversations["source"]], np.int64)
        self._packing = packing

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[np.ndarray]]:
        rows = [self._row(number) for number in batch[ROW]]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _row(self, number: int) -> dict[str, np.ndarray]:
        if number >= len(self._packing):
            return {
                "input_ids": np.zeros(1, np.int64),
                "labels": np.array([IGNORED]),
                "lengths": np.ones(1, np.int64),
                "sources": np.zeros(1, np.int64),
            }
        conversations = self._packing.row(number)
        table = self._tokens[conversations.tolist()]
        ids, labels = (table.column(name).combine_chunks() for name in ("input_ids", "labels"))
        return {
            "input_ids": ids.flatten().to_numpy().astype(np.int64),
            "labels": labels.flatten().to_numpy().astype(np.int64),
            "lengths": np.diff(ids.offsets.to_numpy()).astype(np.int64),
            "sources": self._sources[conversations],
        }


def lengths_of(conversations) -> np.ndarray:
    """The lengths in tokens of the conversations of a `datasets.Dataset` with `input_ids`; shape (conversations,)."""
    import pyarrow.compute as pc

    batches = conversations.select_columns(["input_ids"]).with_format("arrow").iter(10_000)
    return np.concatenate(
        [np.empty(0, np.int64), *(pc.list_value_length(batch["input_ids"]).to_numpy() for batch in batches)]
    )


def collate(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, torch.Tensor | int]:
    """A micro-batch: the rows one after another, without padding, and where each conversation begins and ends.

    Returns:
        `input_ids`, `labels`, `position_ids` of shape (1, tokens);
        `logits_to_keep`, the positions whose next token carries loss, and `targets`, those tokens, of shape (trained,);
        `cu_seq_lens_q` and `cu_seq_lens_k`, the borders of the conversations, int32 of shape (conversations + 1,);
        `max_length_q` and `max_length_k`, the tokens of the longest;
        `sources`, the number of each conversation's source, of shape (conversations,); `rows`, how many.
    """
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    borders = np.concatenate([[0], np.cumsum(joined["lengths"])])
    positions = np.concatenate([np.arange(end - begin) for begin, end in pairwise(borders.tolist())])
    labels = joined["labels"]
    labels[borders[:-1]] = IGNORED  # a conversation's first token has nothing before it
    before = np.flatnonzero(labels != IGNORED) - 1
    cu_seq_lens = torch.from_numpy(borders.astype(np.int32))
    longest = int(joined["lengths"].max())
    return {
        "input_ids": torch.from_numpy(joined["input_ids"])[None],
        "labels": torch.from_numpy(labels)[None],
        "position_ids": torch.from_numpy(positions)[None],
        "logits_to_keep": torch.from_numpy(before),
        "targets": torch.from_numpy(labels[before + 1]),
        "cu_seq_lens_q": cu_seq_lens,
        "cu_seq_lens_k": cu_seq_lens,
        "max_length_q": longest,
        "max_length_k": longest,
        "sources": torch.from_numpy(joined["sources"]),
        "rows": len(rows),
    }
