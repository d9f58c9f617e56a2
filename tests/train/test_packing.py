"""Rows of whole conversations: nothing lost, nothing too long, nearly full, the same everywhere."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from train.packing import ROW, collate, lengths_of, pack, packed_rows

from ..conftest import succeed

SOURCES = ("alpaca", "hc3", "oig")


def conversations(lengths) -> Dataset:
    """Conversations of which each token tells where it stands: 1000 × conversation + position."""
    ids = [[1000 * number + position for position in range(length)] for number, length in enumerate(lengths)]
    labels = [[-100, *row[1:]] for row in ids]
    return Dataset.from_dict(
        {"input_ids": ids, "labels": labels, "source": [SOURCES[number % 3] for number in range(len(ids))]}
    )


@given(st.lists(st.integers(1, 32), max_size=200), st.integers(32, 40), st.integers(0, 5))
def test_each_conversation_stands_in_one_row_that_it_fits(lengths, capacity, seed):
    packing = pack(lengths, capacity, seed)
    assert sorted(packing.conversations.tolist()) == list(range(len(lengths)))
    rows = [sum(lengths[i] for i in packing.row(number)) for number in range(len(packing))]
    assert all(0 < row <= capacity for row in rows)
    assert sum(rows) == packing.tokens == sum(lengths)
    # No two rows could be one: of rows that are at most half full there is at most one.
    assert sum(2 * row <= capacity for row in rows) <= 1
    again = pack(np.array(lengths), capacity, seed)
    assert again.conversations.tolist() == packing.conversations.tolist()


def test_conversations_that_fit_no_row_are_refused():
    with pytest.raises(ValueError, match="1 to 9 tokens do not fit rows of 8"):
        pack([1, 9], 8, 0)


def test_the_seed_mixes_conversations_of_one_length():
    lengths = [8] * 100
    assert pack(lengths, 16, 0).conversations.tolist() != pack(lengths, 16, 1).conversations.tolist()


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=30), st.integers(1, 7))
def test_a_row_holds_its_conversations_one_after_another(lengths, multiple):
    data = conversations(lengths)
    assert lengths_of(data).tolist() == lengths
    assert lengths_of(data.select(range(len(lengths) // 2, len(lengths)))).tolist() == lengths[len(lengths) // 2 :]
    packing = pack(lengths, 16, 3)
    rows = packed_rows(data, packing, SOURCES, multiple)
    assert len(rows) % multiple == 0
    assert len(rows) - len(packing) < multiple
    for number, row in enumerate(rows):
        if number >= len(packing):
            assert row["labels"].tolist() == [-100]
            continue
        expected = [data[int(i)] for i in packing.row(number)]
        assert row["input_ids"].tolist() == [token for one in expected for token in one["input_ids"]]
        assert row["labels"].tolist() == [label for one in expected for label in one["labels"]]
        assert row["lengths"].tolist() == [len(one["input_ids"]) for one in expected]
        assert [SOURCES[number] for number in row["sources"]] == [one["source"] for one in expected]


def test_a_micro_batch_knows_borders_positions_and_where_the_losses_are():
    data = conversations([3, 2, 4])
    rows = packed_rows(data, pack([3, 2, 4], 5, 0), SOURCES, multiple=3)
    batch = collate([rows[0], rows[1], rows[2]])
    # By length: 4 alone, then 3 + 2, then a filler.
    assert batch["input_ids"].tolist() == [[2000, 2001, 2002, 2003, 0, 1, 2, 1000, 1001, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 0]]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 4, 7, 9, 10]
    assert batch["cu_seq_lens_q"].dtype == torch.int32
    assert batch["max_length_q"] == batch["max_length_k"] == 4
    assert batch["logits_to_keep"].tolist() == [0, 1, 2, 4, 5, 7]
    assert batch["targets"].tolist() == [2001, 2002, 2003, 1, 2, 1001]
    assert batch["sources"].tolist() == [2, 0, 1, 0]
    assert batch["rows"] == 3


def test_no_conversation_is_to_be_foretold_from_the_one_before():
    data = Dataset.from_dict({"input_ids": [[5, 6], [7, 8]], "labels": [[5, 6], [7, 8]], "source": ["oig", "oig"]})
    batch = collate(list(packed_rows(data, pack([2, 2], 4, 0), SOURCES)))
    assert (batch["labels"] != -100).tolist() == [[False, True, False, True]]


def test_the_dataset_has_one_column_that_numbers_the_rows():
    rows = packed_rows(conversations([2]), pack([2], 4, 0), SOURCES)
    assert rows.column_names == [ROW]


@pytest.mark.slow
def test_real_conversations_fill_their_rows(real_data, tmp_path):
    from datasets_cfg.base_tokenizer import load_tokenizer
    from datasets_cfg.tokenization import tokenized
    from train.mixture import load_ids

    build = ("-m", "datasets_cfg", "build", "demo", "--raw-dir", real_data, "--skip", "webgpt")
    succeed(*build, "--out", tmp_path / "mixture")
    ids = tokenized(tmp_path / "mixture", load_tokenizer(str(real_data / "tokenizers" / "hf" / "llama")), 2048)
    packing = pack(lengths_of(load_ids(ids, "train")), 2048, 0)
    assert packing.fill > 0.995
