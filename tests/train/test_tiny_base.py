"""`python -m train.tiny_base`: an ordinary Hugging Face folder."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..conftest import refusal, succeed


def test_the_base_is_an_ordinary_folder(base):
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    assert model.config.model_type == "llama"
    assert model.config.vocab_size == len(tokenizer) == 512
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    for text in ("Who are you?", "\tif x:\n        return 'é 🐨 漢字'", "\x00"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.slow
def test_the_same_seed_makes_the_same_base(mixture, base, tmp_path):
    size = ("--vocab-size", 512, "--hidden-size", 128, "--layers", 1)
    succeed("-m", "train.tiny_base", "--mixture", mixture, "--out", tmp_path / "again", *size)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (base / name).read_bytes()


@pytest.mark.slow
def test_bad_input_is_a_sentence(mixture, base, tmp_path):
    make = ("-m", "train.tiny_base", "--mixture", mixture, "--out")
    assert "not empty" in refusal(*make, base)
    assert "at least 259" in refusal(*make, tmp_path / "out", "--vocab-size", 100)
    assert "multiple of 64" in refusal(*make, tmp_path / "out", "--hidden-size", 100)
    assert "no manifest.json" in refusal("-m", "train.tiny_base", "--mixture", tmp_path, "--out", tmp_path / "out")
