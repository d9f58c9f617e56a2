"""`--dry_run`: the plan, two steps on a shrunk model, and nothing left of them."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen3Config

from train.dry_run import shrunk
from train.run import UNFINISHED
from train.sft import main

from ..conftest import succeed
from .runs import tree

SAID = "dry run: two steps on a shrunk model went well, and nothing is left of them"
# bfloat16 is slow on CPUs.
RECIPES = {"koala_13b": (), "koala_8b_lora": ("--gradient_accumulation_steps", "1")}
ACCELERATE = ("-m", "accelerate.commands.launch", "--config_file", "train/accelerate/cpu.yaml")


def flags(recipe: str, mixture: Path, base: Path, out: Path) -> tuple[str, ...]:
    given = ("--config", f"train/recipes/{recipe}.yaml", "--model_name_or_path", base, "--mixture", mixture)
    return tuple(map(str, (*given, "--output_dir", out, "--use_cpu", "true", "--dry_run", "true")))


@pytest.fixture
def folder(tmp_path):
    """Where output_dir is to be, with a neighbour."""
    (tmp_path / "neighbour").mkdir()
    (tmp_path / "neighbour" / "file").write_text("")
    return tmp_path


@pytest.mark.parametrize("recipe", ["demo", *(pytest.param(name, marks=pytest.mark.slow) for name in RECIPES)])
def test_it_prints_the_plan_and_leaves_nothing(recipe, mixture, base, folder, capsys):
    before, base_before = tree(folder), tree(base)
    assert main([*flags(recipe, mixture, base, folder / "out"), *RECIPES.get(recipe, ())]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == SAID
    assert f"base           {base}: " in said
    assert "hardware       1xcpu, one device" in said
    assert "verdict        it fits" in said
    # The plan is of the whole run, the steps are two.
    assert "run            400 steps" in said if recipe == "demo" else "2 epochs" in said
    assert [line[:8] for line in said.splitlines() if line.startswith("step ")] == ["step 1/2", "step 2/2"]
    assert tree(folder) == before
    assert tree(base) == base_before


@pytest.mark.parametrize("content", ["a finished model", "an unfinished run", "files of others"])
def test_output_dir_stays_as_it_was(content, mixture, base, checkpoint, folder, capsys):
    out = folder / "out"
    if content == "a finished model":
        shutil.copytree(checkpoint, out)
    else:
        (out / "checkpoint-3").mkdir(parents=True)
        (out / "checkpoint-3" / "optimizer.pt").write_text("state")
        (out / (UNFINISHED if content == "an unfinished run" else "mine")).write_text('{"seed": 1}')
    before = tree(folder)
    assert main([*flags("demo", mixture, base, out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == SAID
    assert tree(folder) == before


def test_what_a_killed_rehearsal_left_does_not_stand_in_the_way(mixture, base, folder, capsys):
    before = tree(folder)
    left = folder / ".out.dry-run"
    left.mkdir()
    (left / UNFINISHED).write_text('{"seed": 1}')
    (left / "metrics.jsonl").write_text('{"step": 1, "los')
    assert main([*flags("demo", mixture, base, folder / "out")]) == 0
    assert tree(folder).keys() == before.keys()


@pytest.mark.parametrize("flag", [("--mixture", "nowhere"), ("--max_length", "8")], ids=str)
def test_what_cannot_be_used_is_said_and_leaves_nothing(flag, mixture, base, folder, capsys):
    before = tree(folder)
    assert main([*flags("demo", mixture, base, folder / "out"), *flag]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert tree(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_processes_rehearse_together(recipe, mixture, base, folder):
    before = tree(folder)
    launch = (*ACCELERATE, "--num_processes", 2, "--main_process_port", 0, "train/sft.py")
    done = succeed(*launch, *flags(recipe, mixture, base, folder / "out"), *RECIPES[recipe])
    assert done.stdout.count(SAID) == 1
    assert "hardware       2xcpu, each device with the whole model (DDP)" in done.stdout
    assert tree(folder) == before


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(num_hidden_layers=40, hidden_size=5120, num_attention_heads=40, vocab_size=320),
        Qwen3Config(num_hidden_layers=36, hidden_size=4096, num_attention_heads=32, head_dim=128, vocab_size=320),
        Gemma3TextConfig(num_hidden_layers=26, head_dim=256, vocab_size=320),
    ],
    ids=lambda config: config.model_type,
)
def test_a_shrunk_model_is_of_the_same_kind(config):
    small = shrunk(config)
    assert type(small) is type(config)
    assert (small.num_attention_heads, small.vocab_size) == (config.num_attention_heads, config.vocab_size)
    assert config.num_hidden_layers > small.num_hidden_layers == 2
    model = AutoModelForCausalLM.from_config(small)
    assert model.num_parameters() < 5_000_000
