import pyarrow.parquet as pq
import pytest

from convert.passages import calibration, conversations, held_out
from datasets_cfg.errors import BadInput
from datasets_cfg.prompt import IGNORED, encode


@pytest.fixture(scope="module")
def tokenizer(byte_level_tokenizer):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(byte_level_tokenizer)


def test_conversations_come_in_an_order_of_their_own(mixture):
    rows = conversations(mixture, "train", most=10_000)
    stored = pq.read_table(next(mixture.glob("train-*.parquet"))).to_pylist()
    assert len(rows) == len(stored) > 300
    sources = [next(other["source"] for other in stored if other["messages"] == row["messages"]) for row in rows[:30]]
    assert len(set(sources)) > 4  # the files have one source after the other
    assert conversations(mixture, "train", most=7) == rows[:7]


def test_only_predictions_of_answers_are_compared(mixture, tokenizer):
    rows = conversations(mixture, "eval", most=100)
    passages = held_out(rows, tokenizer, predictions=300, length=200)
    assert sum(len(passage.positions) for passage in passages) == 300
    encoded = [encode(tokenizer, row["messages"], **row["chat_template_kwargs"]) for row in rows]
    assert len(passages) > 3
    for passage in passages:
        assert len(passage.ids) <= 200 and passage.held_out
        row = next(row for row in encoded if row.input_ids[: len(passage.ids)] == passage.ids)
        answers = [at for at, label in enumerate(row.labels[: len(passage.ids)]) if label != IGNORED]
        assert [at + 1 for at in passage.positions] == answers


def test_a_template_that_does_not_say_what_answers_are_counts_every_token(mixture, byte_level_tokenizer):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(byte_level_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    (passage,) = held_out(conversations(mixture, "eval", most=100)[:1], tokenizer, predictions=10_000, length=50)
    assert passage.positions == list(range(len(passage.ids) - 1))


def test_calibration_stops_at_its_tokens(mixture, tokenizer):
    sequences = calibration(conversations(mixture, "train", most=500), tokenizer, tokens=1000, length=100)
    assert all(len(ids) <= 100 for ids in sequences)
    assert 1000 <= sum(map(len, sequences)) < 1100


def test_a_folder_that_is_no_mixture_is_refused(tmp_path):
    with pytest.raises(BadInput, match="datasets_cfg build"):
        conversations(tmp_path, "eval", most=1)
