"""Reading a mixture for training: its ids are made once, whoever needs them."""

import shutil

import pytest
from transformers import AutoTokenizer

from datasets_cfg.prompt import encode, koala_template
from datasets_cfg.tokenization import FOLDER, tokenized
from train.mixture import load_ids, load_split

from ..conftest import sft, succeed


@pytest.fixture
def fresh(mixture, tmp_path):
    """The demo mixture without ids."""
    return shutil.copytree(mixture, tmp_path / "mixture", ignore=shutil.ignore_patterns(FOLDER))


def test_conversations_become_ids_and_labels(fresh, base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = koala_template()
    ids = tokenized(fresh, tokenizer, 2048, quiet=True)
    for split in ("train", "eval"):
        rows = load_ids(ids, split)
        assert rows.column_names == ["input_ids", "labels", "source"]
        assert rows.cache_files  # mapped from disk, not held in memory
        for conversation, row in zip(load_split(fresh, split), rows, strict=True):
            expected = encode(tokenizer, conversation["messages"], **conversation["chat_template_kwargs"])
            assert (row["input_ids"], row["labels"]) == (expected.input_ids, expected.labels)
            assert row["source"] == conversation["source"]


def folders(mixture) -> list[str]:
    return sorted(path.name for path in (mixture / FOLDER).iterdir() if path.is_dir())


@pytest.mark.slow
def test_training_makes_the_ids_and_finds_them_again(fresh, base, tmp_path):
    def train(number: int, processes: int, *flags) -> str:
        given = ("--mixture", fresh, "--model_name_or_path", base, "--output_dir", tmp_path / str(number))
        done = succeed(*sft(*given, *flags, "--max_steps", 1, processes=processes))
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("train: "))
        return line

    first = train(1, 2)
    (made,) = folders(fresh)
    assert first.endswith(f"tokenized now and kept in {fresh / FOLDER / made}")
    again = train(2, 1)
    assert again.endswith(f"read from {fresh / FOLDER / made}")
    assert train(3, 2, "--eval_strategy", "steps", "--eval_steps", 1).endswith(f"read from {fresh / FOLDER / made}")
    assert folders(fresh) == [made]


@pytest.mark.slow
def test_training_uses_what_the_command_made(fresh, base, tmp_path):
    succeed("-m", "datasets_cfg", "tokenize", fresh, "--tokenizer", base, "--max-length", 200)
    (made,) = folders(fresh)
    flags = ("--mixture", fresh, "--model_name_or_path", base, "--output_dir", tmp_path / "out")
    done = succeed("train/sft.py", "--config", "train/recipes/demo.yaml", *flags, "--max_length", 200, "--max_steps", 1)
    assert f"read from {fresh / FOLDER / made}" in done.stdout
