"""The README.md of a finished model."""

import copy
import re
from itertools import pairwise

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from train.labels import label
from train.model_card import model_card

CARD = {
    "license": "apache-2.0",
    "base_model": "openlm-research/open_llama_7b",
    "datasets": ["HC3", "Mine"],
    "language": ["en"],
    "parameters": 6_738_415_616,
    "seed": 42,
    "mixture": {
        "name": "koala_all",
        "content_sha256": "c" * 64,
        "manifest_sha256": "d" * 64,
        "sources": {"hc3": {"conversations": 1234, "tokens": 200_000, "trained_tokens": 75_000}}
        | {"mine": {"conversations": 100, "tokens": 50_000, "trained_tokens": 25_000}},
    },
    "tokenizer": {"name": "open_llama_7b", "proof": "Its ids of 500 texts are those of its tokenizer.model."},
    "recipe": {"output_dir": "koala_7b", "learning_rate": 2e-5, "num_train_epochs": 2.0, "packing": True},
    "hardware": {"device": "NVIDIA H200", "processes": 8},
    "training": {"steps": 1200, "tokens": 500_000, "loss_first": 2.5, "loss_last": 1.25, "mfu": 0.5},
    "evaluation": {
        **{"step": 1200, "loss": 1.5, "perplexity": 4.48, "tokens": 900},
        "sources": {"hc3": {"loss": 1.0, "perplexity": 2.72}, "mine": {"loss": 1.75, "perplexity": 1304.76}},
    },
    "commit": "e" * 40,
    "versions": {"koala": "0.1.0", "torch": "2.13.0+cpu"},
}
SOURCE = {"rows": 1500, "revision": None, "files": {"a.jsonl": "0"}, "options": {}}
MANIFEST = {
    "sources": {
        "hc3": {**SOURCE, "title": "HC3", "license": "CC-BY-SA-4.0", "repo": "Hello-SimpleAI/HC3", "revision": "abc"},
        "mine": {**SOURCE, "title": "Mine", "license": "not stated", "repo": None},
    },
    "splits": {"eval": {"conversations": 28}},
}


def variant(**changes) -> dict:
    return {**copy.deepcopy(CARD), **changes}


def titled(title: str, license: str = "MIT") -> dict:
    manifest = copy.deepcopy(MANIFEST)
    manifest["sources"]["mine"] |= {"title": title, "license": license}
    return manifest


def tables(text: str) -> list[list[list[str]]]:
    """Of each table its rows of cells, as a reader sees them; no markup may be in the cells but bold type and code."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    found: list = []
    for token, after in pairwise(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("td_open", "th_open"):
            assert {child.type for child in after.children} <= {"text", "strong_open", "strong_close", "text_special"}
            found[-1][-1].append("".join(child.content for child in after.children))
    return found


def body(text: str) -> str:
    return ModelCard(text).text


def test_the_hub_understands_the_front_matter():
    text = model_card(CARD, MANIFEST)
    told = ModelCard(text).data.to_dict()
    assert told == yaml.safe_load(text.split("---\n")[1])
    assert told == {
        "license": "apache-2.0",
        "base_model": "openlm-research/open_llama_7b",
        "base_model_relation": "finetune",
        "datasets": ["Hello-SimpleAI/HC3"],
        "language": ["en"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["koala", "conversational", "sft", "trl"],
    }


def test_an_adapter_says_that_it_is_one():
    text = model_card(variant(recipe={**CARD["recipe"], "use_peft": True, "lora_r": 64}), MANIFEST)
    told = ModelCard(text).data.to_dict()
    assert (told["base_model_relation"], told["library_name"]) == ("adapter", "peft")
    assert "a LoRA adapter for openlm-research/open\\_llama\\_7b" in text
    assert "AutoPeftModelForCausalLM" in text
    assert "| LoRA rank | 64 |" in text


def test_what_is_not_known_is_left_out():
    manifest = titled("Mine")
    manifest["sources"]["hc3"]["repo"] = None  # from files: they may be anything
    card = variant(license=None, base_model="base", commit=None, evaluation=None, parameters=None, training={})
    text = model_card(card, manifest)
    assert not {"license", "base_model", "base_model_relation", "datasets"} & set(ModelCard(text).data.to_dict())
    assert "No license was stated" in text
    assert "a fine-tune of “base”, a local model about which nothing more is recorded here" in text
    assert "has not been measured" in text
    assert not re.search(r"\bcommit\b", body(text))
    assert "None" not in text


@pytest.mark.parametrize(
    ("license", "told"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("For research, only!", {"license": "other", "license_name": "for-research-only"}),
        ("---\nevil: true", {"license": "other", "license_name": "evil-true"}),
    ],
)
def test_a_license_becomes_an_identifier(license, told):
    found = ModelCard(model_card(variant(license=license), MANIFEST)).data.to_dict()
    assert {key: found.get(key) for key in told} == told
    assert "evil" not in found


def test_the_figures_stand_in_its_tables():
    data, recipe, training, evaluation = tables(body(model_card(CARD, MANIFEST)))
    assert data[1:] == [
        ["HC3", "Hello-SimpleAI/HC3 at abc", "1,500", "1,234", "200,000", "75,000", "75.0%", "CC-BY-SA-4.0"],
        ["Mine", "1 local file", "1,500", "100", "50,000", "25,000", "25.0%", "not stated"],
    ]
    assert ["learning rate", "2e-05"] in recipe
    assert ["packing", "yes"] in recipe
    assert ["processes", "8"] in recipe
    assert ["training loss at the last record", "1.250"] in training
    assert ["model FLOPs utilization", "50.0%"] in training
    assert ["hardware", "8 × NVIDIA H200"] in training
    assert evaluation[1:] == [["all", "1.500", "4.480"], ["mine", "1.750", "1,305"], ["hc3", "1.000", "2.720"]]


def test_limits_licenses_and_markers_follow_the_data():
    plain = model_card(CARD, MANIFEST)
    for fact in ("research prototype", "falsehoods", "arithmetic", "stereotypes", "misinformation", "commercially"):
        assert fact in plain.partition("## Limits")[2]
    assert "ChatGPT" not in plain.partition("## Limits")[2]
    assert "no commercial use" not in plain
    assert "Unhelpful" not in plain
    manifest = titled("ShareGPT", "CC-BY-NC-4.0")
    manifest["sources"]["sharegpt"] = manifest["sources"].pop("mine") | {"options": {"markers": "both"}}
    other = model_card(CARD, manifest)
    assert "dialogues with ChatGPT" in other
    assert "some of which allow no commercial use" in other
    assert "An Unhelpful Answer:" in other


def test_the_picture_is_shown_where_there_is_one():
    assert "![" not in model_card(CARD, MANIFEST)
    assert "](loss.png)" in model_card(CARD, MANIFEST, curve="loss.png")


ODD = st.text(st.one_of(st.characters(), st.sampled_from("`*_[]()<>|\\#~&!@$\n-:./w")), max_size=40)


@given(title=ODD, license=ODD)
def test_odd_titles_show_as_they_are(title, license):
    text = body(model_card(CARD, titled(title, license)))
    row = tables(text)[0][2]
    assert row[0] == label(title)
    assert row[-1] == label(license or "not stated")


@given(name=ODD)
def test_odd_names_change_nothing_around_them(name):
    card = variant(base_model=name, license=name, recipe={**CARD["recipe"], "output_dir": name, "optim": name})
    card["mixture"] = {**CARD["mixture"], "name": name}
    card["tokenizer"] = {"name": name, "proof": name}
    card["hardware"] = {"device": name, "processes": 1}
    card["evaluation"] = {**CARD["evaluation"], "sources": {name: {"loss": 1.0}}}
    text = model_card(card, MANIFEST)
    ModelCard(text)
    text.encode("utf-8")
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body(text))
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", *["h2"] * 7]
    assert [token.type for token in tokens].count("table_open") == 4
    inline = {child.type for token in tokens for child in token.children or ()}
    assert inline <= {"text", "text_special", "softbreak", "strong_open", "strong_close", "code_inline"}
    assert not any(token.type.startswith("html") for token in tokens)


@pytest.mark.parametrize("title", ["https://evil.example", "www.evil.example", "mail@evil.example"])
def test_bare_addresses_are_no_links(title):
    text = model_card(CARD, titled(title))
    assert title not in text
    assert tables(body(text))[0][2][0] == title


def test_the_snippet_runs(checkpoint, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    card = variant()
    (code,) = re.findall(r"```python\n(.*?)```", model_card(card, MANIFEST), re.DOTALL)
    exec(code.replace("FOLDER", str(checkpoint)), {})
    assert capsys.readouterr().out


def test_the_adapters_snippets_run(base, checkpoint, capsys, monkeypatch, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained("adapter")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained("adapter")
    card = variant(recipe={**CARD["recipe"], "use_peft": True})
    ask, save = re.findall(r"```python\n(.*?)```", model_card(card, MANIFEST), re.DOTALL)
    exec(f"{ask}\n{save}".replace("FOLDER", "adapter"), {})
    assert capsys.readouterr().out
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert (tmp_path / "merged" / "chat_template.jinja").is_file()
