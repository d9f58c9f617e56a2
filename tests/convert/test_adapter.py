"""LoRA adapters: merged as PEFT merges them, and as adapter files of llama.cpp; PEFT itself writes what is tested."""

import contextlib
import json
import shutil
import warnings
import weakref
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.adapter import base_name, is_adapter, open_adapter
from convert.adapter_gguf import write_adapter_gguf
from convert.adapter_merge import merged
from convert.architecture import load_config, plan_tensors
from convert.checkpoint import Checkpoint, open_checkpoint
from convert.metadata import Provenance
from datasets_cfg.errors import BadInput
from tests.conftest import succeed

pytestmark = pytest.mark.slow


DTYPES = ("float32", "bfloat16", "float16")
PATTERNS = {
    "target_modules": "all-linear",
    "use_rslora": True,
    "rank_pattern": {"q_proj": 3, r"model\.layers\.1\.mlp\.down_proj": 7},
    # PEFT matches the whole end of a name, so the last pattern is none of these modules'.
    "alpha_pattern": {"k_proj": 5, "1.mlp.up_proj": 1, "self_attn": 90},
}
# What differs in the base, in the adapter, and the size of the vocabulary after resizing.
CASES = {
    "all linear layers": ({}, {"target_modules": "all-linear"}, None),
    "rank and alpha patterns": ({}, PATTERNS, None),
    "embedding and head": ({}, {"target_modules": ["embed_tokens", "lm_head", "v_proj"]}, None),
    "saved modules": ({}, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]}, None),
    "biases": ({"attention_bias": True}, {"target_modules": ["q_proj", "v_proj"], "bias": "all"}, None),
    "resized": ({}, {"target_modules": ["q_proj"]}, 512),
    "trained tokens": ({}, {"target_modules": ["k_proj"], "trainable_token_indices": [1, 5]}, None),
    "tied, plain": ({"tie_word_embeddings": True}, {"target_modules": "all-linear"}, None),
    "tied, trained tokens": (
        {"tie_word_embeddings": True},
        {"target_modules": ["k_proj"], "trainable_token_indices": [1, 5]},
        None,
    ),
    "tied, saved embedding": (
        {"tie_word_embeddings": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        None,
    ),
    "tied, saved both": (
        {"tie_word_embeddings": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        None,
    ),
    "tied, resized": ({"tie_word_embeddings": True}, {"target_modules": ["q_proj"]}, 512),
    "tied, resized, trained tokens": (
        {"tie_word_embeddings": True},
        {"target_modules": ["q_proj"], "trainable_token_indices": [500, 501]},
        512,
    ),
    "tied, embedding": ({"tie_word_embeddings": True}, {"target_modules": ["embed_tokens", "o_proj"]}, None),
    "tied, resized, embedding": ({"tie_word_embeddings": True}, {"target_modules": ["embed_tokens", "o_proj"]}, 512),
    "tied, head": ({"tie_word_embeddings": True}, {"target_modules": ["lm_head"]}, None),
}


@pytest.fixture(autouse=True)
def _peft_is_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def make_base(make_checkpoint, tmp_path_factory):
    """A function from a dtype and what differs in the configuration to a checkpoint; each is made once."""
    made = {}

    def make(dtype="float32", **changes) -> Path:
        key = (dtype, *sorted(changes.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("base") / "base"
            made[key] = make_checkpoint(folder, dtype=dtype, max_shard_size="60KB", **changes)
        return made[key]

    return make


def load_base(folder: Path, *, vocabulary: int | None = None, untie: bool = False):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    if vocabulary:
        torch.manual_seed(3)
        model.resize_token_embeddings(vocabulary)
    if untie:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return model


def train_adapter(base: Path, folder: Path, vocabulary: int | None = None, **settings) -> Path:
    """An adapter as PEFT saves it, with random numbers in all that it would have trained."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_base(base, vocabulary=vocabulary), LoraConfig(**{"r": 4, "lora_alpha": 6, **settings}))
    torch.manual_seed(5)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad:
                weights.add_(torch.randn_like(weights) * 0.1)
    model.save_pretrained(folder)
    return folder


def load_with_peft(base: Path, adapter: Path, vocabulary: int | None = None, *, untie: bool = False):
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(base, vocabulary=vocabulary, untie=untie), adapter).eval()


def load_merged(model):
    """The merged model in transformers, in the type that it is merged in."""
    from transformers import AutoModelForCausalLM

    config = load_config(model.base)
    config.vocab_size, config.tie_word_embeddings = model.config["vocab_size"], model.config["tie_word_embeddings"]
    loaded = AutoModelForCausalLM.from_config(config).eval()
    with model.reader() as read:
        state = {name: read(name) for name in model.tensors}
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    loaded.load_state_dict(state, assign=True)
    return loaded


def assert_same_tensors(model, expected) -> None:
    import torch

    state = expected.state_dict()
    tied = expected.get_input_embeddings().weight.data_ptr() == expected.get_output_embeddings().weight.data_ptr()
    assert set(model.tensors) == set(state) - ({"lm_head.weight"} if tied else set())
    with model.reader() as read:
        for name in model.tensors:
            weights = read(name)
            assert weights.dtype == state[name].dtype
            assert tuple(weights.shape) == model.tensors[name].shape
            assert torch.equal(weights, state[name]), name


@pytest.fixture(scope="module")
def plain_adapter(make_base, tmp_path_factory) -> Path:
    return train_adapter(make_base(), tmp_path_factory.mktemp("adapter") / "a", target_modules="all-linear")


@pytest.fixture
def broken_adapter(plain_adapter, tmp_path) -> Path:
    return Path(shutil.copytree(plain_adapter, tmp_path / "broken"))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *((case, "bfloat16") for case in CASES),
        *((case, dtype) for case in ("embedding and head", "saved modules") for dtype in ("float32", "float16")),
    ],
)
def test_merging_gives_the_bits_of_peft(case, dtype, make_base, tmp_path):
    changes, lora, vocabulary = CASES[case]
    base = make_base(dtype, **changes)
    folder = train_adapter(base, tmp_path / "adapter", vocabulary, **lora)
    # PEFT advises to untie before LoRA on a tied embedding is merged: its own merge would change the other of the two.
    untie = case in ("tied, embedding", "tied, resized, embedding", "tied, head")
    expected = load_with_peft(base, folder, vocabulary, untie=untie).merge_and_unload()

    model = merged(open_checkpoint(base), open_adapter(folder))

    assert_same_tensors(model, expected)
    assert model.config["vocab_size"] == expected.config.vocab_size
    assert model.config["tie_word_embeddings"] == expected.config.tie_word_embeddings


@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_any_scaling_merges_to_the_bits_of_peft(data, make_base, tmp_path_factory):
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    named = st.sampled_from([*modules, "layers.0.self_attn.q_proj", "mlp.*", "self_attn.[qk]_proj"])
    alphas = st.one_of(st.integers(1, 64), st.floats(0.1, 64))
    lora = {
        "r": data.draw(st.integers(1, 9)),
        "lora_alpha": data.draw(alphas),
        "use_rslora": data.draw(st.booleans()),
        "target_modules": data.draw(st.lists(st.sampled_from(modules), min_size=1, unique=True)),
        # PEFT sorts patterns when it saves them, so it cannot load ranks again that several patterns decide on.
        "rank_pattern": data.draw(st.dictionaries(named, st.integers(1, 9), max_size=1)),
        "alpha_pattern": data.draw(st.dictionaries(named, alphas, max_size=3)),
    }
    base = make_base(data.draw(st.sampled_from(DTYPES)))
    folder = train_adapter(base, tmp_path_factory.mktemp("drawn") / "adapter", **lora)
    expected = load_with_peft(base, folder).merge_and_unload()
    assert_same_tensors(merged(open_checkpoint(base), open_adapter(folder)), expected)


@pytest.mark.parametrize("rename", ["{}", "base_model.model.{}", "base_model.model.{}.default"])
def test_names_of_tensors_as_other_programs_write_them(rename, plain_adapter, make_base, broken_adapter):
    def renamed(key: str) -> str:
        module, kind = key.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".", 1)
        return rename.format(f"{module}.{kind}") + ".weight"

    edit_tensors(broken_adapter, lambda tensors: {renamed(key): value for key, value in tensors.items()})
    base = open_checkpoint(make_base())
    with (
        merged(base, open_adapter(broken_adapter)).reader() as read,
        merged(base, open_adapter(plain_adapter)).reader() as expected,
    ):
        name = "model.layers.1.mlp.down_proj.weight"
        assert read(name).equal(expected(name))


def test_lora_with_tied_weights_is_added_once(make_base, tmp_path):
    """With `ensure_weight_tying` both ends use the sum; the tensor that they share must not get it twice."""
    import torch

    base = make_base(tie_word_embeddings=True)
    targets = {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}
    folder = train_adapter(base, tmp_path / "adapter", **targets)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        expected = load_with_peft(base, folder)(ids).logits
        model = merged(open_checkpoint(base), open_adapter(folder))
        actual = load_merged(model)(ids).logits
    assert "lm_head.weight" not in model.tensors
    torch.testing.assert_close(actual, expected)


def test_exact_merging_is_what_the_adapter_computes(make_base, tmp_path):
    import torch

    base = make_base("bfloat16")
    folder = train_adapter(base, tmp_path / "adapter", target_modules="all-linear")
    model = merged(open_checkpoint(base), open_adapter(folder), exact=True)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        actual = load_merged(model)(ids).logits
        expected = load_with_peft(base, folder).float()(ids).logits
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_one_tensor_of_the_base_is_read_at_a_time(make_base, plain_adapter):
    alive, asked = [0], []

    class Counting(Checkpoint):
        @contextlib.contextmanager
        def reader(self):
            with super().reader() as read:

                def counted(name):
                    assert alive[0] == 0, f"{name} was read while another tensor was held"
                    tensor = read(name).clone()
                    alive[0] += 1
                    weakref.finalize(tensor, lambda: alive.__setitem__(0, alive[0] - 1))
                    asked.append(name)
                    return tensor

                yield counted

    opened = open_checkpoint(make_base())
    model = merged(Counting(opened.folder, opened.config, opened.tensors), open_adapter(plain_adapter))
    assert asked == []
    with model.reader() as read:
        for name in model.tensors:
            read(name)
    assert asked == list(model.tensors)


def edit_tensors(folder: Path, edit) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    save_file(edit(tensors), path)


def without(part):
    return lambda tensors: {key: value for key, value in tensors.items() if part not in key}


def with_tensor(name, *shape):
    import torch

    return lambda tensors: {**tensors, name: torch.ones(shape)}


def with_nan(tensors):
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"][0, 0] = float("nan")
    return tensors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "type IA3.*merge it with PEFT"),
        ({"use_dora": True}, "DoRA.*merge it with PEFT"),
        ({"lora_bias": True}, "biases.*merge it with PEFT"),
        ({"fan_in_fan_out": True}, "transposed.*merge it with PEFT"),
        ({"target_parameters": ["experts.gate"]}, "single parameters.*merge it with PEFT"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4.*merge it with PEFT"),
        ({"r": 5}, "has the rank 5 .* not of one adapter"),
        ({"r": "many"}, "the rank of .* is many"),
        ({"lora_alpha": None}, "lora_alpha of .* is None"),
        ({"lora_alpha": 10**400}, "lora_alpha of .* not a number"),
        ({"rank_pattern": {"(": 3}}, r"'\(', which is no regular expression"),
        ({"rank_pattern": {"a{99999999999}": 3}}, "which is no regular expression"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern is not an object"),
        ({"alpha_pattern": "q_proj"}, "alpha_pattern is not an object"),
        ({"revision": 5}, "the revision of the base is not a name"),
    ],
)
def test_settings_that_are_refused(settings, message, broken_adapter, edit_json):
    edit_json(broken_adapter / "adapter_config.json", **settings)
    with pytest.raises(BadInput, match=message):
        open_adapter(broken_adapter)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without("1.mlp.up_proj.lora_A"), r"layers\.1\.mlp\.up_proj has no matrix A"),
        (without("1.mlp.up_proj.lora_B"), r"layers\.1\.mlp\.up_proj has no matrix B"),
        (without(""), "holds no tensors"),
        (with_tensor("base_model.model.lm_head.lora_magnitude_vector.weight", 3), "lora_magnitude_vector.*PEFT"),
        (with_tensor("base_model.model.lm_head.lora_B.bias", 3), "lora_B.bias.*PEFT"),
    ],
)
def test_tensors_that_are_refused(edit, message, broken_adapter):
    edit_tensors(broken_adapter, edit)
    with pytest.raises(BadInput, match=message):
        open_adapter(broken_adapter)


def test_files_that_are_refused(broken_adapter, tmp_path):
    path = broken_adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadInput, match="damaged or cut short"):
        open_adapter(broken_adapter)
    path.rename(broken_adapter / "adapter_model.bin")
    with pytest.raises(BadInput, match=r"pickled.*save it again"):
        open_adapter(broken_adapter)
    (broken_adapter / "adapter_model.bin").unlink()
    with pytest.raises(BadInput, match=r"has no adapter_model.safetensors"):
        open_adapter(broken_adapter)
    assert is_adapter(broken_adapter)
    assert not is_adapter(tmp_path)


def test_the_base_is_named(plain_adapter, broken_adapter, make_base, edit_json):
    assert base_name(open_adapter(plain_adapter)) == str(make_base())
    edit_json(broken_adapter / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(BadInput, match="name it with --base"):
        base_name(open_adapter(broken_adapter))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 32}, r"shape \[.*the base that the adapter was trained on"),
        ({"num_hidden_layers": 1}, r"layers\.1\..* does not have; name the base"),
    ],
)
def test_another_base_is_refused(changes, message, make_base, plain_adapter):
    with pytest.raises(BadInput, match=message):
        merged(open_checkpoint(make_base(**changes)), open_adapter(plain_adapter))


def test_rows_beyond_the_vocabulary_are_refused(make_base, tmp_path, edit_json):
    folder = train_adapter(make_base(), tmp_path / "a", target_modules=["k_proj"], trainable_token_indices=[1, 5])
    edit_json(folder / "adapter_config.json", trainable_token_indices=[1, 5000])
    with pytest.raises(BadInput, match=r"embed_tokens.weight is for a tensor of the shape"):
        merged(open_checkpoint(make_base()), open_adapter(folder))
    edit_json(folder / "adapter_config.json", trainable_token_indices=None)
    with pytest.raises(BadInput, match=r"does not list the tokens of model.embed_tokens"):
        open_adapter(folder)


def test_numbers_that_are_refused(make_base, broken_adapter):
    base, name = open_checkpoint(make_base("float16")), "model.layers.0.self_attn.q_proj.weight"
    for factor, message in ((1e9, "overflow F16; save the base in bfloat16"), (float("nan"), "NaN or infinity")):
        edit_tensors(broken_adapter, lambda tensors, by=factor: {key: value * by for key, value in tensors.items()})
        with merged(base, open_adapter(broken_adapter)).reader() as read, pytest.raises(BadInput, match=message):
            read(name)


# The adapter as a file of llama.cpp.


# A failed assertion in llama.cpp ends the process, so it runs in one of its own.
LLAMA_CPP = """
import json, sys
import llama_cpp
gguf, adapter, sequences, logits = sys.argv[1:]
f32 = llama_cpp.GGML_TYPE_F32
model = llama_cpp.Llama(
    gguf, lora_path=adapter, n_ctx=64, n_threads=1, n_gpu_layers=0, type_k=f32, type_v=f32, logits_all=True,
    flash_attn=False, verbose=False,
)
with open(logits, "wb") as file:
    for ids in json.loads(sequences):
        model.reset()
        model.eval(ids)
        model.scores[: len(ids)].tofile(file)
"""


@pytest.fixture(scope="module")
def base_gguf(make_base, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "base"
    succeed("-m", "convert", make_base(), "--out", out, "--name", "base", "--quantize", "F32", "--no-verify")
    return out / "base-F32.gguf"


def write(path: Path, base: Path, adapter: Path, file_type: str = "F32", **options) -> Path:
    opened = open_checkpoint(base)
    config = load_config(opened)
    written = []
    write_adapter_gguf(
        path,
        file_type,
        merged(opened, open_adapter(adapter)),
        plan_tensors(config, opened),
        config,
        Provenance(license="apache-2.0", base_models=["some/base"]),
        name="koala-lora",
        verified=False,
        advance=written.append,
        **options,
    )
    assert 0 < path.stat().st_size - sum(written) < 20_000
    return path


@pytest.mark.parametrize(
    ("lora", "file_type", "limit"),
    [
        ({"target_modules": "all-linear"}, "F32", 1e-3),
        (PATTERNS, "F32", 1e-3),
        ({"target_modules": ["embed_tokens", "lm_head", "q_proj"], "lora_alpha": 3}, "F32", 1e-3),
        (PATTERNS, "BF16", 3e-2),
    ],
    ids=["plain", "patterns", "embedding and head", "patterns in BF16"],
)
def test_llama_cpp_computes_what_peft_computes(lora, file_type, limit, make_base, base_gguf, tmp_path):
    import numpy as np
    import torch

    folder = train_adapter(make_base(), tmp_path / "adapter", **lora)
    written = write(tmp_path / "adapter.gguf", make_base(), folder, file_type)
    sequences = [list(range(3, 40)), [5, 9, 200, 3, 3]]
    logits = tmp_path / "logits"
    succeed("-c", LLAMA_CPP, base_gguf, written, json.dumps(sequences), logits)

    model, plain = load_with_peft(make_base(), folder), load_base(make_base())
    with torch.inference_mode():
        expected = torch.cat([model(torch.tensor([ids])).logits[0] for ids in sequences]).numpy()
        without_adapter = torch.cat([plain(torch.tensor([ids])).logits[0] for ids in sequences]).numpy()
    actual = np.fromfile(logits, dtype=np.float32).reshape(expected.shape)
    scale = np.abs(expected).max()
    assert np.abs(actual - expected).max() / scale <= limit
    assert np.abs(without_adapter - expected).max() / scale > 0.1


def test_the_adapter_file_says_what_it_is(make_base, plain_adapter, tmp_path):
    import gguf

    reader = gguf.GGUFReader(write(tmp_path / "a.gguf", make_base(), plain_adapter, "F16"))
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.type"] == "adapter"
    assert said["general.architecture"] == "llama"
    assert said["adapter.type"] == "lora"
    assert said["adapter.lora.alpha"] == 6.0
    assert said["general.base_model.0.name"] == "some/base"
    assert said["koala.verified"] is False
    names = [tensor.name for tensor in reader.tensors]
    assert names[:2] == ["blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"]
    assert len(names) == len(set(names)) == 2 * 7 * 2


@pytest.mark.parametrize("case", ["saved modules", "trained tokens", "tied, embedding", "tied, head"])
def test_what_an_adapter_file_cannot_say_is_refused(case, make_base, tmp_path):
    changes, lora, vocabulary = CASES[case]
    folder = train_adapter(make_base(**changes), tmp_path / "adapter", vocabulary, **lora)
    with pytest.raises(BadInput, match=r"llama.cpp cannot .*without --adapter-only"):
        write(tmp_path / "a.gguf", make_base(**changes), folder)
    assert not (tmp_path / "a.gguf").exists()


def test_an_alpha_of_zero_is_refused_in_an_adapter_file(make_base, broken_adapter, tmp_path, edit_json):
    edit_json(broken_adapter / "adapter_config.json", lora_alpha=0)
    with pytest.raises(BadInput, match="lora_alpha is 0"):
        write(tmp_path / "a.gguf", make_base(), broken_adapter)
