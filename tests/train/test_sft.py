"""`train/sft.py`, as a user runs it: what it leaves behind, and what it says of input that cannot be used.

`main` is called in this process where nothing but the arguments matters: libraries are imported once then.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config

from datasets_cfg.prompt import koala_template
from train.sft import main

from ..conftest import ROOT, refusal, succeed
from .runs import LORA, RECIPE, logged, tree, weights

STEPS = ("--max_steps", "4", "--logging_steps", "1", "--max_length", "256")


@pytest.fixture
def given(mixture, base, tmp_path) -> tuple[str, ...]:
    """The flags of a small run into `tmp_path / "out"`."""
    places = ("--mixture", mixture, "--model_name_or_path", base, "--output_dir", tmp_path / "out")
    return (*RECIPE, *map(str, places), *STEPS)


# --- The result -------------------------------------------------------------------------------------------------------


def test_the_checkpoint_is_an_ordinary_folder(checkpoint, base, mixture):
    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), AutoModelForCausalLM.from_pretrained(checkpoint)
    assert tokenizer.chat_template == koala_template()
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    before = AutoModelForCausalLM.from_pretrained(base)
    assert not torch.equal(before.lm_head.weight, model.lm_head.weight)
    assert not list(checkpoint.glob("*.bin")) + list(checkpoint.glob(".*"))
    assert (checkpoint / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (checkpoint / "README.md").read_text(encoding="utf-8").startswith("---\n")

    card = json.loads((checkpoint / "koala.json").read_text())
    manifest = json.loads((mixture / "manifest.json").read_text())
    assert card["mixture"]["content_sha256"] == manifest["content_sha256"]
    assert card["base_model"] == base.name
    assert card["recipe"]["max_steps"] == card["training"]["steps"] == 4
    assert card["training"]["loss_last"] < card["training"]["loss_first"]
    losses = logged(checkpoint, "loss")
    assert (losses[0], losses[-1]) == (card["training"]["loss_first"], card["training"]["loss_last"])


def test_weights_are_float32_where_they_are_computed_in_it(checkpoint):
    assert {tensor.dtype for tensor in weights(checkpoint).values()} == {torch.float32}
    assert AutoConfig.from_pretrained(checkpoint).dtype == torch.float32


def test_bf16_gives_a_bfloat16_model_of_float32_training(given, tmp_path, capsys):
    out = tmp_path / "out"
    saving = ("--save_strategy", "steps", "--save_steps", "4")
    assert main([*given, *saving, "--bf16", "true", "--dtype", "auto"]) == 0
    assert "weights: float32; these are the weights that are trained" in capsys.readouterr().out
    assert {tensor.dtype for tensor in weights(out).values()} == {torch.bfloat16}
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16
    trained = load_file(out / "checkpoint-4" / "model.safetensors")
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    for name, tensor in weights(out).items():
        assert torch.equal(tensor, trained[name].bfloat16())


def test_an_adapter_is_whole_and_its_base_is_what_it_was(given, base, tmp_path, capsys):
    before, out = tree(base), tmp_path / "out"
    assert main([*given, *map(str, LORA), "--learning_rate", "0.01"]) == 0
    capsys.readouterr()
    assert tree(base) == before
    assert {path.name for path in out.iterdir()} == {
        *("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("chat_template.jinja", "koala.json", "README.md", "loss.png", "metrics.jsonl"),
    }
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert AutoTokenizer.from_pretrained(out).chat_template == koala_template()
    card = json.loads((out / "koala.json").read_text())
    assert (card["base_model"], card["recipe"]["lora_r"]) == (base.name, 4)
    assert "library_name: peft" in (out / "README.md").read_text(encoding="utf-8")
    adapter = weights(out)
    assert all(".lora_" in name for name in adapter)
    assert all(tensor.abs().max() > 0 for tensor in adapter.values())

    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        alone = AutoModelForCausalLM.from_pretrained(base)
        without = alone(ids).logits
        model = PeftModel.from_pretrained(alone, out)
        with_adapter = model(ids).logits
        merged = model.merge_and_unload()(ids).logits
    assert (with_adapter - without).abs().max() > 0.01
    torch.testing.assert_close(merged, with_adapter, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_run_killed_while_it_trains_leaves_no_model(mixture, base, tmp_path):
    out = tmp_path / "out"
    flags = ("--mixture", mixture, "--model_name_or_path", base, "--output_dir", out, "--logging_steps", 1)
    arguments = [sys.executable, *map(str, ("train/sft.py", *RECIPE, *flags))]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not ((out / "metrics.jsonl").exists() and logged(out, "loss")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert logged(out, "loss")
    assert not {"config.json", "model.safetensors", "koala.json"} & {path.name for path in out.iterdir()}
    # Nothing of it was saved, so another command may have the folder, if it says so.
    assert "max_steps (400 there, 1 here)" in refusal("train/sft.py", *RECIPE, *flags, "--max_steps", 1)
    succeed("train/sft.py", *RECIPE, *flags, "--max_steps", 1, "--overwrite", "true")
    assert (out / "config.json").is_file()


def test_help_is_the_launch_line_and_more_on_request(capsys):
    assert "accelerate launch" in succeed("train/sft.py", "--help").stdout
    with pytest.raises(SystemExit):
        main(["--help_all"])
    assert "--learning_rate" in capsys.readouterr().out


# --- Bad input --------------------------------------------------------------------------------------------------------


def refused(capsys, *arguments: object) -> str:
    """Hold a run to exit code 2 and one sentence on stderr, and return that."""
    code = main([str(argument) for argument in arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2, line
    assert line.startswith("error: ")
    return line


def test_a_user_sees_a_sentence_and_exit_code_2(given, tmp_path):
    (tmp_path / "typo.yaml").write_text("learning_rat: 1.0e-5\nuse_cpu: true\nbf16: false\n")
    said = refusal("train/sft.py", "--config", tmp_path / "typo.yaml", *given[2:])
    assert "the recipe cannot be used: Unknown arguments from config file: ['--learning_rat', '1e-05']" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--mixture", "nowhere"), "nowhere is not a mixture (it has no manifest.json); build one"),
        (("--model_name_or_path", "nowhere/at-all"), "cannot load a tokenizer from nowhere/at-all"),
        (("--max_length", "8"), "fits into 8 tokens; raise max_length"),
        (("--max_length", "0"), "max_length must be at least 1"),
        (("--learning_rat", "1"), "--learning_rat"),
        (("--max_steps", "many"), "invalid int value: 'many'"),
        (("--lr_scheduler_type", "wave"), "wave"),
        (("--config",), "--config names no file"),
        (("--bf16", "true", "--fp16", "true"), "At most one of fp16 and bf16 can be True"),
        (("--attn_implementation", "flash_attention_9"), "flash_attention_9"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_arguments_that_cannot_be_used(flags, said, given, tmp_path, capsys):
    assert said in refused(capsys, *given, *flags)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_none(given, tmp_path, capsys):
    assert "nowhere.yaml" in refused(capsys, "--config", "nowhere.yaml", *given[2:])
    for content in ("- a list", "a: b: c", "\tx"):
        (tmp_path / "recipe.yaml").write_text(content)
        said = refused(capsys, "--config", tmp_path / "recipe.yaml", *given[2:])
        assert "the recipe cannot be used" in said


def test_no_mixture_is_named(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("model_name_or_path: base\nuse_cpu: true\nbf16: false\n")
    assert "--mixture" in refused(capsys, "--config", tmp_path / "recipe.yaml")


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"splits": {}}', "{", '{"mixture": "x", "splits": []}'])
def test_a_manifest_that_is_none(content, given, tmp_path, capsys):
    (tmp_path / "manifest.json").write_text(content)
    said = refused(capsys, *given, "--mixture", tmp_path)
    assert str(tmp_path / "manifest.json") in said
    assert said.endswith("build the mixture again")


def test_a_mixture_whose_file_is_gone(given, mixture, tmp_path, capsys):
    copy = shutil.copytree(mixture, tmp_path / "mixture")
    (copy / "train-00000.parquet").unlink()
    assert "train-00000.parquet is missing" in refused(capsys, *given, "--mixture", copy)


def test_a_folder_with_something_in_it(given, checkpoint, tmp_path, capsys):
    before = tree(checkpoint)
    assert "holds a finished model" in refused(capsys, *given, "--output_dir", checkpoint)
    assert tree(checkpoint) == before
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(capsys, *given, "--output_dir", tmp_path / "file")
    assert "is not empty" in refused(capsys, *given, "--output_dir", tmp_path)


def copied(base: Path, folder: Path, *without: str) -> Path:
    return shutil.copytree(base, folder, ignore=shutil.ignore_patterns(*without))


def test_a_base_that_cannot_be_used(given, base, tmp_path, capsys):
    no_tokenizer = copied(base, tmp_path / "no_tokenizer", "tokenizer*")
    said = refused(capsys, *given, "--model_name_or_path", no_tokenizer)
    assert f"cannot load a tokenizer from {no_tokenizer}" in said
    no_config = copied(base, tmp_path / "no_config", "config.json")
    assert str(no_config) in refused(capsys, *given, "--model_name_or_path", no_config)
    no_weights = copied(base, tmp_path / "no_weights", "*.safetensors")
    said = refused(capsys, *given, "--model_name_or_path", no_weights)
    assert f"cannot load the base model {no_weights}" in said
    torn = copied(base, tmp_path / "torn")
    with (torn / "model.safetensors").open("r+b") as file:
        file.truncate(10_000)
    assert f"cannot load the base model {torn}" in refused(capsys, *given, "--model_name_or_path", torn)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_larger_than_the_vocabulary(given, base, tmp_path, capsys):
    folder = copied(base, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 500}))
    said = refused(capsys, *given, "--model_name_or_path", folder)
    assert f"the tokenizer of {folder} has 512 tokens, its model only 500" in said


def test_dropout_where_there_is_no_place_for_it(given, base, tmp_path, monkeypatch, capsys):
    folder = copied(base, tmp_path / "gpt2", "*.safetensors", "config.json")
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GPT2Config(vocab_size=len(tokenizer), n_layer=1, n_embd=32, n_head=2, **ids)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    said = refused(capsys, *given, "--model_name_or_path", folder, "--dropout", "0.1")
    assert "gpt2" in said  # whose memory is not planned either; of the models that are, some may lack such layers

    def refuse(model, p):
        raise ValueError("LlamaForCausalLM has no such layers")

    monkeypatch.setattr("train.dropout.add_dropout", refuse)
    said = refused(capsys, *given, "--dropout", "0.1")
    assert "the recipe sets dropout to 0.1, but LlamaForCausalLM has no such layers; set dropout: 0" in said


@pytest.mark.parametrize("dropout", ["-0.1", "1.5"])
def test_dropout_that_is_no_share(dropout, given, capsys):
    assert "dropout" in refused(capsys, *given, "--dropout", dropout)


def test_a_full_disk(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10_000))
    said = refused(capsys, *given)
    assert "has room for 0.0 GB" in said
    assert "make room" in said
    assert not (tmp_path / "out").exists()


def test_bf16_on_a_gpu_without_it(given, monkeypatch, capsys):
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
    monkeypatch.setattr("transformers.training_args.is_torch_cuda_available", lambda: True)
    said = refused(capsys, *given, "--use_cpu", "false", "--bf16", "true")
    assert "bf16: false" in said
    assert "fp16: true" in said


def test_qlora_without_bitsandbytes(given, monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec

    def find_others(name, *package):
        return None if name == "bitsandbytes" else find(name, *package)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    recipe = ("--config", "train/recipes/koala_8b_qlora.yaml", "--use_cpu", "true")
    assert "pip install bitsandbytes" in refused(capsys, *given[2:], *recipe)
