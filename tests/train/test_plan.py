"""`python -m train.plan`: what a run will take."""

import json
import shutil

import pytest
import yaml

from datasets_cfg.errors import BadInput
from datasets_cfg.tokenization import FOLDER
from train.hardware import parse
from train.plan import MARGIN, lines, main, plan
from train.recipe import read_recipe, setup_of, sharding_of

from ..conftest import ROOT, refusal, succeed

RECIPE = {
    "model_name_or_path": "openlm-research/open_llama_13b",
    "num_train_epochs": 2,
    "max_length": 2048,
    "dtype": "bfloat16",
    "bf16": True,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
}
FSDP2 = {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}}


@pytest.fixture(scope="module")
def koala_all(tmp_path_factory):
    """The manifest of a mixture of 164M estimated tokens."""
    folder = tmp_path_factory.mktemp("koala_all")
    train = {"conversations": 400_000, "turns": 1_000_000, "characters": round(164e6 * 3.7), "files": {}}
    splits = {"train": train, "eval": {"conversations": 0, "files": {}}}
    manifest = {"mixture": "koala_all", "content_sha256": "0", "sources": {}, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def test_koala_as_published(koala_all):
    made = plan(RECIPE, koala_all, parse("8xA100-80GB"), launch=FSDP2, mfu=0.5, price=1.5)
    assert made.parameters == made.trained_parameters == 13_015_864_320
    assert made.tokens == pytest.approx(328e6, rel=0.001)
    assert not made.amount.exact
    assert (made.rows_per_step, made.steps) == (64, 2 * -(-made.amount.rows // 64))
    assert 5.5 < made.seconds / 3600 < 6.0  # most conversations are shorter than a row, so attention takes less
    assert made.dollars == pytest.approx(made.seconds / 3600 * 8 * 1.5)
    assert made.fits
    assert made.remedy is None
    assert made.total == sum(made.memory.values())
    assert made.budget == int(parse("A100-80GB").memory * (1 - MARGIN))


def test_what_time_is_reckoned_from(koala_all):
    assumed = plan(RECIPE, koala_all, parse("8xA100-80GB"), launch=FSDP2)
    assert "40% (an assumption)" in assumed.speed
    given = plan(RECIPE, koala_all, parse("8xA100-80GB"), launch=FSDP2, mfu=0.2)
    assert "(as given)" in given.speed
    assert given.seconds == pytest.approx(2 * assumed.seconds)
    measured = plan(RECIPE, koala_all, parse("8xA100-80GB"), launch=FSDP2, tokens_per_second=16_000, price=2)
    assert measured.seconds == pytest.approx(measured.tokens / 16_000)
    unknown = plan(RECIPE, koala_all, parse("8xcustom:80GB"), launch=FSDP2, price=2)
    assert unknown.seconds is unknown.dollars is None
    assert any("not known" in line for line in lines(unknown))
    assert not any("price" in line for line in lines(assumed))


def test_a_run_that_does_not_fit_is_told_what_to_change(koala_all):
    def changes(recipe, hardware, launch=None):
        made = plan({**RECIPE, **recipe}, koala_all, parse(hardware), launch=launch)
        assert not made.fits
        assert made.remedy.fits == (made.remedy.bytes <= made.budget)
        return made, made.remedy.changes

    seven = {"model_name_or_path": "openlm-research/open_llama_7b_v2"}
    made, (change,) = changes({**seven, "gradient_checkpointing": False}, "8xA100-80GB")
    assert change == "gradient_checkpointing: true"
    made, (change,) = changes({**seven, "per_device_train_batch_size": 64}, "1xA100-80GB")
    assert "per_device_train_batch_size: 1, gradient_accumulation_steps: 256" in change
    made, found = changes({}, "8xA100-80GB")
    assert any("fsdp2.yaml" in change for change in found)
    made, (change,) = changes(seven, "1xcustom:48GB")
    assert "paged_adamw_8bit" in change
    made, found = changes({}, "1xA100-40GB")
    assert any("LoRA" in change for change in found)
    made, found = changes({}, "1xRTX4090")
    assert any("QLoRA" in change for change in found)
    made, found = changes({}, "1xcustom:4GB:10TFLOPS")
    assert not made.remedy.fits
    assert any("no setting is enough" in line for line in lines(made))


def test_a_remedy_is_one_that_the_plan_confirms(koala_all):
    too_large = plan(RECIPE, koala_all, parse("1xA100-40GB"))
    changed = {**RECIPE}
    for change in too_large.remedy.changes:
        changed.update(yaml.safe_load("{" + change.partition(" (")[0] + "}"))
    made = plan(changed, koala_all, parse("1xA100-40GB"))
    assert made.fits
    assert made.total <= too_large.remedy.bytes * 1.05  # the recipe's own defaults of LoRA have dropout


def test_a_recipe_says_what_is_held():
    hardware = parse("8xA100-80GB")
    setup = setup_of({}, hardware, "none")
    assert (setup.rows, setup.length, setup.checkpointing, setup.mixed) == (8, 1024, True, "bfloat16")  # TRL's defaults
    assert (setup.dtype, setup.autocast) == ("float32", True)
    assert setup_of({"dtype": "auto"}, hardware, "zero3").dtype == "bfloat16"
    assert setup_of({"dtype": "auto", "bf16": False}, hardware, "none").dtype == "float32"
    lora = setup_of({"use_peft": True, "lora_r": 64, "lora_target_modules": "all-linear"}, hardware, "ddp")
    assert (lora.adapter.rank, lora.adapter.targets) == (64, None)
    assert setup_of({"attn_implementation": "sdpa"}, hardware, "none").attention == "sdpa_mask"
    assert setup_of({"attn_implementation": "eager"}, hardware, "none").attention == "eager"
    assert setup_of({}, hardware, "none").attention == "flash"
    assert setup_of({}, parse("cpu"), "none").attention == "pieces"
    with pytest.raises(BadInput, match="max_length"):
        setup_of({"max_length": "long"}, hardware, "none")
    with pytest.raises(BadInput, match="float7"):
        setup_of({"dtype": "float7"}, hardware, "none")


@pytest.mark.parametrize("file", sorted((ROOT / "train/accelerate").glob("*.yaml")), ids=lambda file: file.name)
def test_every_launch_config_is_understood(file):
    found = sharding_of(yaml.safe_load(file.read_text(encoding="utf-8")), 8)
    expected = "fsdp2" if "fsdp" in file.name else "zero3" if "zero" in file.name or "deepspeed" in file.name else "ddp"
    assert found == expected


def test_launch_configs_that_are_not_known():
    assert sharding_of(yaml.safe_load("distributed_type: NO"), 1) == "none"
    with pytest.raises(BadInput, match="fsdp_version"):
        sharding_of({"distributed_type": "FSDP", "fsdp_config": {}}, 8)
    with pytest.raises(BadInput, match="stage 2"):
        sharding_of({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}}, 8)
    with pytest.raises(BadInput, match="TPU"):
        sharding_of({"distributed_type": "TPU"}, 8)


@pytest.mark.parametrize("file", sorted((ROOT / "train/recipes").glob("koala*.yaml")), ids=lambda file: file.name)
def test_every_recipe_can_be_planned(file, koala_all):
    recipe, launch_file = read_recipe(file)
    assert launch_file is not None, "its first lines do not say how to launch it"
    launch = yaml.safe_load(launch_file.read_text(encoding="utf-8"))
    hardware = parse("1xRTX4090" if "qlora" in file.name else "1xA100-80GB" if "lora" in file.name else "8xA100-80GB")
    made = plan(recipe, koala_all, hardware, launch=launch)
    assert made.fits, lines(made)


@pytest.mark.slow
def test_the_tokens_of_a_tokenized_mixture_are_counted(mixture, base, tmp_path):
    fresh = shutil.copytree(mixture, tmp_path / "mixture", ignore=shutil.ignore_patterns(FOLDER))
    recipe = {"model_name_or_path": str(base), "max_length": 256, "per_device_train_batch_size": 4, "max_steps": 7}
    guessed = plan(recipe, fresh, parse("cpu")).amount
    succeed("-m", "datasets_cfg", "tokenize", fresh, "--tokenizer", base, "--max-length", 256, "--quiet")
    made = plan(recipe, fresh, parse("cpu:0.1TFLOPS"))
    (record,) = [json.loads(file.read_text(encoding="utf-8")) for file in fresh.glob("*/*/tokenized.json")]
    train = record["splits"]["train"]
    assert made.amount.exact
    assert not guessed.exact
    assert (made.amount.tokens, made.amount.trained) == (train["tokens"], train["trained_tokens"])
    assert made.amount.tokens <= 256 * made.amount.rows
    assert made.amount.tokens > 0.9 * 256 * made.amount.rows  # packed
    assert made.amount.tokens**2 / train["conversations"] < made.amount.squared < 256 * made.amount.tokens
    assert made.steps == 7
    # Another length, and another mixture under the same name, are not what was counted.
    assert not plan({**recipe, "max_length": 128}, fresh, parse("cpu")).amount.exact
    manifest = json.loads((fresh / "manifest.json").read_text(encoding="utf-8"))
    (fresh / "manifest.json").write_text(json.dumps({**manifest, "content_sha256": "another"}), encoding="utf-8")
    assert not plan(recipe, fresh, parse("cpu")).amount.exact


@pytest.mark.slow
def test_the_command(mixture, base, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model_name_or_path: {base}\nmixture: {mixture}\nmax_length: 256\n", encoding="utf-8")
    done = succeed("-m", "train.plan", "--recipe", recipe, "--hardware", "cpu:0.1TFLOPS")
    assert "it fits" in done.stdout

    def run(*arguments) -> tuple[int, str]:
        code = main(["--recipe", str(recipe), *arguments])
        return code, capsys.readouterr().out

    code, out = run("--hardware", "cpu", "--json")
    found = json.loads(out)
    assert (code, found["fits"], found["seconds"]) == (0, True, None)
    code, out = run("--hardware", "custom:0.0001GB", "--price", "1")
    assert code == 1
    assert "it does not fit" in out


def test_bad_input_is_a_sentence(tmp_path, koala_all, capsys):
    recipe = tmp_path / "recipe.yaml"
    ask = ("--hardware", "8xA100", "--recipe", str(recipe), "--mixture", str(koala_all))

    def said(*arguments) -> str:
        assert main([*ask, *map(str, arguments)]) == 2
        text = capsys.readouterr().err
        assert text.startswith("error: ")
        assert text.count("\n") == 1
        return text

    assert "cannot be read" in refusal("-m", "train.plan", *ask)
    recipe.write_text("- a list\n", encoding="utf-8")
    assert "no YAML mapping" in said()
    recipe.write_text("max_length: 2048\n", encoding="utf-8")
    assert "model_name_or_path" in said()
    recipe.write_text("model_name_or_path: somebody/unknown\n", encoding="utf-8")
    assert "open_llama_13b" in said()
    recipe.write_text(yaml.safe_dump({**RECIPE, "max_length": "long"}), encoding="utf-8")
    assert "max_length" in said()
    recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    assert "not a mixture" in said("--mixture", tmp_path)
    assert "no device" in said("--hardware", "8xZ9000")
    assert "--mfu" in said("--mfu", "40")
    assert "launch config" in said("--accelerate", tmp_path / "nothing.yaml")
    assert "no config.json" in said("--model_name_or_path", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    assert "Llama" in said("--model_name_or_path", tmp_path)
