import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.checkpoint import open_checkpoint, own_dtype, read_json
from convert.metadata import read_provenance
from convert.template import portable_template
from datasets_cfg.errors import BadInput

WEIGHTS = "model.safetensors"


def damage(folder, how, edit_json):
    weights = folder / WEIGHTS
    if how == "no folder":
        return folder / "nowhere"
    if how == "a file":
        return weights
    if how == "no config":
        (folder / "config.json").unlink()
    if how == "config is not JSON":
        (folder / "config.json").write_text("{")
    if how == "no weights":
        weights.unlink()
    if how == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    if how == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    if how == "adapter":
        (folder / "adapter_config.json").write_text("{}")
    if how == "quantized":
        edit_json(folder / "config.json", quantization_config={"bits": 4})
    if how == "integers":
        save_file({"a": torch.ones(2, 2, dtype=torch.int8)}, weights)
    if how == "config is a folder":
        (folder / "config.json").unlink()
        (folder / "config.json").mkdir()
    if how == "config is deep":
        (folder / "config.json").write_text('{"a":' * 10**5)
    if how == "half a character":
        (folder / "config.json").write_text(r'{"a": ["\ud83d\ude00", {"\uDE00": 1}]}')
    if how in ("no file", "missing shard", "missing tensor", "outside"):
        index = {
            "no file": {"a": ["model.safetensors"]},
            "missing shard": {"a": "model-00001-of-00002.safetensors"},
            "missing tensor": {"a": WEIGHTS},
            "outside": {"a": f"../{WEIGHTS}"},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index[how]}))
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no folder", "no such folder"),
        ("a file", "a checkpoint is a folder"),
        ("no config", "has no config.json"),
        ("config is not JSON", "is not JSON"),
        ("config is a folder", "config.json cannot be read"),
        ("config is deep", "config.json is nested too deeply"),
        ("half a character", "config.json holds half of a character"),
        ("no weights", "neither model.safetensors nor"),
        ("pickle", "only pickled weights.*save_pretrained"),
        ("cut short", "damaged or cut short"),
        ("adapter", "is a PEFT adapter"),
        ("quantized", "already quantized"),
        ("integers", "is I8; only F32, BF16, F16"),
        ("no file", "index.json does not name the file of the tensor a"),
        ("missing shard", "names model-00001-of-00002.safetensors, which is missing"),
        ("missing tensor", "lacks the tensor a that"),
        ("outside", "not a file of this folder"),
    ],
)
def test_what_cannot_be_converted_is_refused(broken, edit_json, how, message):
    with pytest.raises(BadInput, match=message):
        open_checkpoint(damage(broken, how, edit_json))


def test_a_character_in_two_halves_is_whole(tmp_path):
    (tmp_path / "a.json").write_text(r'{"a": "\ud83d\ude00 \\ud83d"}')
    assert read_json(tmp_path / "a.json") == {"a": "\U0001f600 \\ud83d"}


def test_an_empty_tensor_is_finite(broken):
    save_file({**load_file(broken / WEIGHTS), "empty": torch.ones(0, 4)}, broken / WEIGHTS)
    with open_checkpoint(broken).reader() as read:
        assert read("empty").shape == (0, 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(broken, bad):
    weights = load_file(broken / WEIGHTS)
    weights["model.norm.weight"][3] = bad
    save_file(weights, broken / WEIGHTS)
    with open_checkpoint(broken).reader() as read:
        read("lm_head.weight")
        with pytest.raises(BadInput, match=r"the tensor model\.norm\.weight holds NaN"):
            read("model.norm.weight")


def test_the_intermediate_loses_nothing(broken):
    assert own_dtype(open_checkpoint(broken)) == "F32"
    weights = load_file(broken / WEIGHTS)
    halves = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in weights.items()}
    save_file(halves, broken / WEIGHTS)
    assert own_dtype(open_checkpoint(broken)) == "F16"
    save_file({**halves, "lm_head.weight": weights["lm_head.weight"].bfloat16()}, broken / WEIGHTS)
    assert own_dtype(open_checkpoint(broken)) == "F32"


def test_the_model_card_and_koala_json_are_read(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlicense: apache-2.0\nbase_model: [a/b]\ndatasets: [c/d, e]\nlanguage: [en, no]\n---\n# A model\n"
    )
    (tmp_path / "koala.json").write_text(json.dumps({"recipe": "demo", "seed": 1, "mixture": {"sha256": "f0"}}))
    found = read_provenance(tmp_path)
    assert found.license == "apache-2.0"
    assert (found.base_models, found.datasets, found.languages) == (["a/b"], ["c/d", "e"], ["en", "no"])
    assert found.koala == {"recipe": "demo", "seed": 1, "mixture.sha256": "f0"}
    (tmp_path / "README.md").write_text("---\n: [\n---\n")
    with pytest.raises(BadInput, match="front matter is not YAML"):
        read_provenance(tmp_path)


def test_what_the_cards_say_is_kept_but_for_the_folders_of_a_machine(broken):
    (broken / "README.md").write_text(
        "---\nlicense: other\nlicense_name: some-licence\nlicense_link: https://example.org/l\n"
        "base_model: /home/me/base\ndatasets: [a/b, {x: 1}]\n---\n"
    )
    (broken / "koala.json").write_text(
        json.dumps({"recipe": "a recipe: one / two / three", "train": {"data": "/home/me/secret/rows"}})
    )
    told = read_provenance(broken)
    assert (told.license, told.license_name, told.license_link) == ("other", "some-licence", "https://example.org/l")
    assert (told.base_models, told.datasets) == (["base"], ["a/b"])
    assert told.koala == {"recipe": "a recipe: one / two / three", "train.data": "rows"}


@pytest.mark.parametrize("content", [b"---\nlicense: \xff\n---\n", b"---\ndate: 2023-99-99\n---\n"])
def test_a_card_that_cannot_be_read_is_a_sentence(broken, content):
    (broken / "README.md").write_bytes(content)
    with pytest.raises(BadInput, match="mend or remove it"):
        read_provenance(broken)


@pytest.mark.parametrize("template", ["{{ 1/0 }}", "{{ 1 + 'a' }}", "{{ range(100000000)|length }}"])
def test_a_template_that_fails_in_its_own_way_is_a_sentence(template):
    with pytest.raises(BadInput, match="the chat template fails"):
        portable_template(template, {})
