"""Each architecture: llama.cpp computes what transformers computes, and what it would compute otherwise is refused."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convert.architecture import (
    gguf_architecture,
    has_tabulated_activation,
    load_config,
    notes,
    permute,
    plan_tensors,
    rope_factors,
)
from convert.checkpoint import open_checkpoint
from convert.families import FAMILIES
from convert.metadata import read_provenance
from convert.tokenizer import tokenizer_fields
from convert.write import write_gguf
from datasets_cfg.errors import BadInput

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
# GELU comes from a table of 16-bit values in llama.cpp, whose error weights as large as the others' would amplify.
GEMMA = {"tie_word_embeddings": True, "head_dim": 32}
GEMMA2 = {**GEMMA, "query_pre_attn_scalar": 32, "sliding_window": 64, "num_hidden_layers": 4}
GEMMA3 = {**GEMMA2, "num_hidden_layers": 7}
GEMMA3_ROPES = {
    "full_attention": {**LINEAR, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
SOME_SLIDE = {"sliding_window": 128, "max_window_layers": 1, "layer_types": None}

# Name → transformers' class and its configuration beyond the small common one.
MODELS = {
    "llama": ("Llama", {}),
    "llama_with_biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama_linear": ("Llama", {"rope_parameters": LINEAR}),
    "llama_yarn": ("Llama", {"rope_parameters": YARN}),
    "llama_3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 32}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen_2": ("Qwen2", {}),
    "qwen_2_yarn": ("Qwen2", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen_3": ("Qwen3", {"head_dim": 32}),
    "qwen_3_yarn": ("Qwen3", {"head_dim": 32, "rope_parameters": YARN}),
    "smollm_3": ("SmolLM3", {"num_hidden_layers": 5}),
    "gemma": ("Gemma", GEMMA),
    "gemma_2": ("Gemma2", GEMMA2),
    "gemma_3": ("Gemma3", GEMMA3),
    "gemma_3_linear": ("Gemma3", {**GEMMA3, "rope_parameters": GEMMA3_ROPES}),
    "gemma_3_untied": ("Gemma3", {**GEMMA3, "tie_word_embeddings": False, "final_logit_softcapping": 20.0}),
}


@pytest.fixture(autouse=True)
def _one_thread():
    """torch's threads only wait for each other in models as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(name, rows):
    import transformers

    family, changes = MODELS[name]
    settings = {
        "vocab_size": rows,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "tie_word_embeddings": False,
    }
    config = getattr(transformers, f"{family}TextConfig" if family == "Gemma3" else f"{family}Config")
    model = getattr(transformers, f"{family}ForCausalLM")(config(**{**settings, **changes})).eval()
    # Drawn here, so that every version of transformers has the same. Far larger than the usual 0.02, so that a wrong
    # weight shows; Gemma's less, because of its activation (see below).
    generator = torch.Generator().manual_seed(12)
    scale = 0.1 if family.startswith("Gemma") else 0.2
    with torch.no_grad():
        for parameter, weights in model.named_parameters():
            drawn = torch.randn(weights.shape, generator=generator)
            if parameter.endswith(("norm.weight", ".bias")):
                weights.add_(drawn * 0.1)
            else:
                weights.copy_(drawn * scale)
    return model


def logits_of_llama_cpp(path, sequences):
    import llama_cpp
    import numpy as np

    width = len(sequences[0])
    model = llama_cpp.Llama(
        str(path),
        **dict.fromkeys(("n_ctx", "n_batch", "n_ubatch"), width),
        **dict.fromkeys(("n_threads", "n_threads_batch"), 1),
        **dict.fromkeys(("type_k", "type_v"), llama_cpp.GGML_TYPE_F32),
        flash_attn=False,
        logits_all=True,
        verbose=False,
    )
    rows = []
    for ids in sequences:
        model.reset()
        model.eval(ids)
        rows.append(model.scores[:width].copy())
    return np.concatenate(rows)


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_what_transformers_computes(byte_level_tokenizer, tmp_path, name):
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(byte_level_tokenizer)
    model = make_model(name, len(tokenizer))
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    config = load_config(checkpoint)
    assert notes(config) == []
    write_gguf(
        tmp_path / "model.gguf",
        "F32",
        checkpoint,
        plan_tensors(config, checkpoint),
        config,
        tokenizer_fields(tokenizer, len(tokenizer), [], tmp_path),
        read_provenance(tmp_path),
        name=name,
        chat_template=None,
        verified=False,
        advance=lambda _: None,
    )
    # 200 tokens: well beyond Gemma's sliding window here, and the context before scaling.
    sequences = torch.randint(3, len(tokenizer), (5, 200), generator=torch.Generator().manual_seed(5))
    actual = logits_of_llama_cpp(tmp_path / "model.gguf", sequences.tolist())
    with torch.inference_mode():
        expected = model(sequences).logits.flatten(0, 1).numpy()
    assert expected.shape == actual.shape == (1000, len(tokenizer))
    # llama.cpp takes Gemma's activation from a table of 16-bit numbers. With this seed nothing tips here, but another
    # processor rounds otherwise, and may tip a near tie.
    tabulated = has_tabulated_activation(config)
    assert (expected.argmax(1) == actual.argmax(1)).mean() >= (0.998 if tabulated else 1)
    assert np.abs(expected - actual).max() <= (2e-3 if tabulated else 1e-3) * np.abs(expected).max()


def unpermute(weights, heads):
    return weights.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(weights.shape)


@given(heads=st.integers(1, 8), half=st.integers(1, 16), columns=st.integers(0, 5))
def test_permute_is_undone_by_its_inverse(heads, half, columns):
    rows = heads * half * 2
    weights = torch.arange(rows * max(columns, 1)).reshape((rows, columns) if columns else (rows,))
    permuted = permute(weights, heads)
    assert torch.equal(unpermute(permuted, heads), weights)
    # Partners in a rotation, half a head apart, become neighbours.
    assert torch.equal(permuted[0:2], weights[[0, half]])


def test_rope_factors_are_those_of_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192}
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, 128, 2, dtype=torch.float32) / 128)
    torch.testing.assert_close(rope_factors(config), plain / scaled)
    assert rope_factors(LlamaConfig()) is None


def test_every_tensor_of_the_checkpoint_has_a_place(checkpoint):
    opened = open_checkpoint(checkpoint)
    plans = plan_tensors(load_config(opened), opened)
    assert {plan.source for plan in plans} == set(opened.tensors)
    assert {plan.target for plan in plans if plan.permuted_heads} == {
        f"blk.{layer}.attn_{kind}.weight" for layer in (0, 1) for kind in "qk"
    }
    assert {plan.permuted_heads for plan in plans if plan.target.endswith("attn_k.weight")} == {2}


def test_norms_get_their_offset_in_float32(tmp_path):
    model = make_model("gemma_2", 400).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    opened = open_checkpoint(tmp_path)
    (plan,) = (plan for plan in plan_tensors(load_config(opened), opened) if plan.target == "output_norm.weight")
    stored = model.model.norm.weight.detach()
    # bfloat16 has eight bits, so that its own sum would lose most of a small weight.
    assert torch.equal(plan.apply(stored), stored.float() + 1)
    assert not torch.equal(plan.apply(stored), (stored + 1).float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["FalconForCausalLM"]},
            f"LM cannot be converted; known: {', '.join(FAMILIES)}$",
        ),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, "of Gemma 3 only the text model"),
        ({"architectures": 5}, "architectures is not a list of names"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is not a list of names"),
        ({"architectures": [["LlamaForCausalLM"]]}, "architectures is not a list of names"),
        ({"hidden_act": "gelu"}, "the activation is gelu, and llama.cpp's llama knows only silu"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "the rope scaling dynamic",
        ),
        ({"hidden_size": 32}, r"has the shape \[374, 64\], but config.json says \[374, 32\]"),
        ({"num_hidden_layers": 3}, r"has no tensor model\.layers\.2"),
        ({"num_hidden_layers": 1}, r"model\.layers\.1\..* is not part of a LlamaForCausalLM as config.json describes"),
        ({"tie_word_embeddings": True}, None),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(broken, edit_json, changes, message):
    edit_json(broken / "config.json", **changes)
    opened = open_checkpoint(broken)
    if message is None:
        plan_tensors(load_config(opened), opened)
        return
    with pytest.raises(BadInput, match=message):
        plan_tensors(load_config(opened), opened)


def configured(tmp_path, edit_json, name, **changes):
    """The configuration of a model as a checkpoint has it, with changes; the weights do not matter."""
    from convert.checkpoint import Checkpoint

    model = make_model(name, 64)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", **changes)
    return load_config(Checkpoint(tmp_path, json.loads((tmp_path / "config.json").read_text()), {}))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama_yarn", {"rope_parameters": {**YARN, "beta_fast": 16.0}}, "beta_fast of YaRN is 16.0"),
        ("llama_yarn", {"rope_parameters": {**YARN, "attention_factor": 1.0}}, "attention_factor of YaRN is 1.0"),
        ("llama_yarn", {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}}, "YaRN has an mscale"),
        ("llama_yarn", {"rope_parameters": {**YARN, "truncate": False}}, "truncate of YaRN is False"),
        (
            "llama_linear",
            {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}},
            "rotates whole heads",
        ),
        ("qwen_2", {"rope_parameters": LLAMA3}, "the rope scaling llama3 is not among those that llama.cpp's qwen2"),
        ("qwen_2", {"head_dim": 32}, "4 heads of 32 are not the hidden size 64"),
        ("qwen_3", {"attention_bias": True}, "self_attn.q_proj has a bias, and llama.cpp's qwen3 has none there"),
        ("smollm_3", {"no_rope_layers": [1, 1, 0, 1, 1]}, "leaves out the rope in every fourth layer"),
        ("gemma", {"tie_word_embeddings": False}, "the head is not tied"),
        ("gemma_2", {"hidden_activation": "gelu"}, "the activation is gelu, and llama.cpp's gemma2 knows only gelu_py"),
        ("gemma_2", {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar is 64, and llama.cpp computes with 32"),
        ("gemma_2", {"num_hidden_layers": 46, "layer_types": None}, "scalar is 32, and llama.cpp computes with 16"),
        ("gemma_2", {"attn_logit_softcapping": None}, "attn_logit_softcapping is None"),
        ("gemma_2", {"layer_types": ["full_attention"] * 4}, "all layers slide but the last of each 2"),
        ("gemma_3", {"layer_types": ["sliding_attention"] * 7}, "all layers slide but the last of each 6"),
        ("gemma_3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ("gemma_3", {"use_bidirectional_attention": True}, "llama.cpp's attention is causal"),
        (
            "gemma_3",
            {"rope_parameters": {**GEMMA3_ROPES, "sliding_attention": LINEAR}},
            "the rope of sliding layers has the type linear",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path, edit_json, name, changes, message):
    with pytest.raises(BadInput, match=message):
        configured(tmp_path, edit_json, name, **changes)


@pytest.mark.parametrize(
    ("name", "changes", "context"),
    [
        ("mistral", {"sliding_window": 128}, 128),
        ("mistral", {"sliding_window": 4096}, 512),
        ("mistral", {"sliding_window": None}, 512),
        ("qwen_2", {**SOME_SLIDE, "use_sliding_window": True}, 128),
        ("qwen_2", {**SOME_SLIDE, "use_sliding_window": False}, 512),
        ("gemma_3", {}, 512),
    ],
)
def test_a_window_that_llama_cpp_does_not_have_limits_the_context(tmp_path, edit_json, name, changes, context):
    import gguf

    from convert.architecture import add_hyperparameters

    config = configured(tmp_path, edit_json, name, **changes)
    writer = gguf.GGUFWriter(None, gguf_architecture(config))
    add_hyperparameters(writer, config)
    assert writer.kv_data[0][f"{gguf_architecture(config)}.context_length"].value == context
    said = notes(config)
    assert len(said) == (context < 512)
    assert all(f"context length is {context} tokens instead of 512" in note for note in said)


def test_the_command_line_does_not_wait_for_the_libraries():
    loaded = "import sys, convert.architecture, convert.tokenizer; print({'torch', 'gguf'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", loaded], text=True).strip() == "set()"
