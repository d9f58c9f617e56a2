"""Settings that would be ignored are refused, and a run is known by those that make it."""

from pathlib import Path

import pytest
import yaml
from trl import ModelConfig, SFTConfig

from datasets_cfg.errors import BadInput
from train.settings import KoalaArguments, check, identity

from ..conftest import ROOT

RECIPES = sorted((ROOT / "train" / "recipes").glob("*.yaml"))


def arguments(**settings):
    """SFTConfig and ModelConfig of a recipe on the CPU."""
    on_cpu = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    settings = {"packing": True, "loss_type": "nll", **on_cpu, **settings}
    of_model = {name: settings.pop(name) for name in list(settings) if name in ModelConfig.__dataclass_fields__}
    return SFTConfig(output_dir="out", **settings), ModelConfig(**{"model_name_or_path": "base", **of_model})


def test_a_plain_recipe_passes():
    check(*arguments())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"packing": False}, "packing to False; Koala needs True"),
        ({"loss_type": "dft"}, "loss_type to dft"),
        ({"assistant_only_loss": True}, "assistant_only_loss"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"save_only_model": True}, "resumed"),
        ({"max_length": None}, "longest row in tokens"),
        ({"model_name_or_path": None}, "names no base model"),
        ({"load_in_4bit": True}, "use_peft"),
    ],
)
def test_what_would_be_ignored_is_refused(settings, said):
    with pytest.raises(BadInput, match=said):
        check(*arguments(**settings))


def test_a_quantized_base_needs_its_library_and_a_gpu(monkeypatch):
    import importlib.util

    import torch

    quantized = arguments(load_in_4bit=True, use_peft=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install bitsandbytes"):
        check(*quantized)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="CUDA GPU"):
        check(*quantized)


def test_a_run_is_known_by_what_its_weights_depend_on(base):
    from datasets_cfg.base_tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(base))

    def known(rows=8, content="a" * 64, **settings) -> dict:
        koala = KoalaArguments(mixture="mixture")
        return identity(koala, *arguments(**settings), {"content_sha256": content}, tokenizer, rows)

    assert known() == known(logging_steps=3)
    for other in ({"rows": 4}, {"content": "b"}, {"learning_rate": 1.0}, {"max_steps": 7}, {"lora_r": 3}):
        assert known(**other) != known()
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert (
        known()["tokenizer"]
        != identity(KoalaArguments(mixture="m"), *arguments(), {"content_sha256": ""}, load_tokenizer(str(base)), 8)[
            "tokenizer"
        ]
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_opens_with_its_launch_line_and_means_something(recipe: Path):
    text = recipe.read_text(encoding="utf-8")
    first = text.splitlines()[0]
    assert first.startswith("# accelerate launch --config_file train/accelerate/")
    assert first.endswith(f"train/sft.py --config train/recipes/{recipe.name}")
    assert (ROOT / first.split()[4]).is_file()
    known = {field for kind in (KoalaArguments, SFTConfig, ModelConfig) for field in kind.__dataclass_fields__}
    assert set(yaml.safe_load(text)) <= known
