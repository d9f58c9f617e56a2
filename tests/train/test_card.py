"""What koala.json says."""

import json

from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerState

from datasets_cfg.digest import file_digest
from train.card import _name, card, recipe
from train.sft import parse

from ..conftest import ROOT

RECIPE = str(ROOT / "train/recipes/demo.yaml")
COUNTS = {"conversations": 3, "tokens": 40, "trained_tokens": 20, "cut": 1, "left_out": 0}
IDS = {"tokenizer": "base", "splits": {"train": {"sources": {"hc3": COUNTS}}}}
MANIFEST = {"mixture": "m", "content_sha256": "c0", "sources": {"hc3": {"title": "HC3"}}}
EVALUATIONS = [
    {"step": 2, "eval_loss": 2.0, "eval_loss/hc3": 2.0},
    {
        **{"step": 4, "eval_loss": 1.5, "eval_perplexity": 4.48, "eval_tokens": 900},
        **{
            "eval_loss/hc3": 1.0,
            "eval_perplexity/hc3": 2.7,
            "eval_loss/oig": 800.0,
            "eval_perplexity/oig": float("inf"),
        },
    },
    {"step": 4, "train_runtime": 3.0},
]


def made(*flags: str, manifest: dict = MANIFEST, log=(), training=None, proof: str = "Proven.") -> dict:
    koala, args, model_args = parse(["--config", RECIPE, *flags])
    given, base = recipe(koala, args, model_args), model_args.model_name_or_path
    state = TrainerState(log_history=list(log))
    return card(given, args, base, manifest, IDS, training or {}, tokenizer_proof=proof, state=state)


def test_it_says_what_the_model_was_made_of(mixture):
    manifest = json.loads((mixture / "manifest.json").read_text(encoding="utf-8"))
    told = made(manifest=manifest, log=EVALUATIONS, training={"steps": 4, "loss_last": float("nan")})
    assert told["mixture"] == {
        "name": "demo",
        "content_sha256": manifest["content_sha256"],
        "manifest_sha256": file_digest(mixture / "manifest.json"),
        "sources": {"hc3": {"conversations": 3, "tokens": 40, "trained_tokens": 20}},
    }
    assert told["tokenizer"] == {"name": "base", "proof": "Proven."}
    assert told["hardware"]["processes"] == 1
    assert told["hardware"]["device"].startswith("cpu")
    assert told["training"] == {"steps": 4, "loss_last": None}
    assert told["evaluation"] == {
        **{"step": 4, "loss": 1.5, "perplexity": 4.48, "tokens": 900},
        "sources": {"hc3": {"loss": 1.0, "perplexity": 2.7}, "oig": {"loss": 800.0, "perplexity": None}},
    }
    json.dumps(told, allow_nan=False)


def test_without_an_evaluation_there_is_none():
    assert made()["evaluation"] is None


def test_the_recipe_holds_what_was_chosen_and_what_matters():
    kwargs = '{"min_lr": 1.0e-5}'
    told = made("--learning_rate", "3e-4", "--lr_scheduler_kwargs", kwargs, "--hub_token", "secret")["recipe"]
    assert told["learning_rate"] == 3e-4
    assert told["lr_scheduler_kwargs"] == {"min_lr": 1e-5}
    assert told["optim"].startswith("adamw")  # at its default
    assert "lora_r" not in told
    assert "secret" not in json.dumps(told)
    assert made("--use_peft", "true")["recipe"]["lora_r"] == 16


def test_no_path_of_this_machine_is_told(tmp_path, base):
    config = tmp_path / "zero3.json"
    config.write_text("{}")
    flags = (
        "--model_name_or_path",
        str(base),
        "--mixture",
        str(tmp_path / "mix"),
        "--output_dir",
        str(tmp_path / "out"),
    )
    kwargs = json.dumps({"file": [str(config)]})
    told = made(*flags, "--lr_scheduler_kwargs", kwargs, proof=f"{base}/tokenizer.model gives the same ids.")
    assert str(tmp_path.parent) not in json.dumps(told)
    assert str(base.parent) not in json.dumps(told)
    assert told["base_model"] == told["recipe"]["model_name_or_path"] == base.name
    assert told["tokenizer"]["proof"] == f"{base.name}/tokenizer.model gives the same ids."
    assert told["recipe"]["lr_scheduler_kwargs"] == {"file": ["zero3.json"]}
    assert made("--model_name_or_path", "owner/model")["base_model"] == "owner/model"


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_name_never_leads_out_of_the_folder(text):
    for path in (f"/home/{text}", f"~/{text}", f"../{text}", f"C:\\Users\\{text}"):
        assert not {"/", "\\"} & set(_name(path)), _name(path)


def test_without_git_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert made()["commit"] is None
