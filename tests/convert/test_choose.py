"""The type for a given RAM: the order, the edges, and the reckoning against llama.cpp's own figures."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.choose import TYPES, choose_type, ram_needed
from datasets_cfg.errors import BadInput

LLAMA_3_8B = SimpleNamespace(
    num_hidden_layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=128256,
    max_position_embeddings=8192,
)
# Sizes of published files of this model.
SIZES = {"Q8_0": 8.54e9, "Q6_K": 6.60e9, "Q5_K_M": 5.73e9, "Q4_K_M": 4.92e9, "Q3_K_M": 4.02e9, "Q2_K": 3.18e9}

BUFFERS = """
import json, re, sys
import llama_cpp as C
log = []
@C.llama_log_callback
def take(level, text, _):
    log.append(text.decode())
C.llama_log_set(take, None)
parameters = C.llama_model_default_params()
parameters.n_gpu_layers = 0
model = C.llama_model_load_from_file(sys.argv[1].encode(), parameters)
options = C.llama_context_default_params()
options.n_ctx, options.n_threads = int(sys.argv[2]), 1
context = C.llama_init_from_model(model, options)
said = "".join(log)
sizes = {kind: float(re.search(kind + r" buffer size = +([0-9.]+) MiB", said)[1]) * 2**20 for kind in ("KV", "compute")}
resident = int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
print(json.dumps({**sizes, "resident": resident}))
"""


def sizes(name):
    return int(SIZES[name])


@pytest.mark.parametrize(
    ("ram", "expected"), [(64e9, "Q8_0"), (12e9, "Q8_0"), (10e9, "Q6_K"), (8e9, "Q4_K_M"), (6e9, "Q2_K")]
)
def test_the_best_type_that_fits(ram, expected):
    name, reckoning = choose_type(sizes, int(ram), LLAMA_3_8B)
    assert name == expected
    assert reckoning.startswith(f"{expected} is the best type that fits: {SIZES[expected] / 1e9:.2f} GB file + 0.54 GB")


def test_a_machine_too_small_gets_the_reckoning():
    with pytest.raises(BadInput) as refused:
        choose_type(sizes, int(4e9), LLAMA_3_8B)
    assert str(refused.value) == (
        "--quantize auto: even Q2_K does not fit into --ram: 3.18 GB file + 0.54 GB cache for 4,096 tokens + "
        "0.28 GB compute buffers + 0.10 GB program = 4.10 GB, and there are 3.00 GB (4.00 GB RAM less 1.00 GB for the "
        "system); use a machine with more RAM or a smaller model"
    )


@given(ram=st.integers(10**6, 10**11), context=st.integers(1, 10**5))
def test_what_is_chosen_fits_and_the_next_better_does_not(ram, context):
    try:
        name, _ = choose_type(sizes, ram, LLAMA_3_8B, context)
    except BadInput:
        name = None
    fit = [ram_needed(sizes(kind), LLAMA_3_8B, context).total <= ram - min(2e9, ram // 4) for kind in TYPES]
    assert fit == sorted(fit)  # a smaller file never needs more
    assert name == next((kind for kind, fits in zip(TYPES, fit, strict=True) if fits), None)


def test_the_context_is_no_longer_than_the_models_own():
    short = SimpleNamespace(**{**vars(LLAMA_3_8B), "max_position_embeddings": 2048})
    assert ram_needed(0, short).context == 2048
    assert ram_needed(0, short).cache * 2 == ram_needed(0, LLAMA_3_8B).cache == 512 * 2**20


def test_a_config_without_a_head_dimension_divides_the_hidden_size():
    plain = SimpleNamespace(**{key: value for key, value in vars(LLAMA_3_8B).items() if key != "head_dim"})
    assert ram_needed(1, plain) == ram_needed(1, LLAMA_3_8B)


@pytest.mark.parametrize(
    "shape",
    [{"vocab_size": 32000, "intermediate_size": 1376}, {"vocab_size": 1000, "intermediate_size": 5504}],
    ids=["most for the logits", "most for the MLP"],
)
def test_the_reckoning_is_what_llama_cpp_allocates(tmp_path, shape):
    config = SimpleNamespace(
        num_hidden_layers=3,
        hidden_size=512,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=8192,
        **shape,
    )
    path = empty_model(tmp_path / "empty.gguf", config)
    done = subprocess.run([sys.executable, "-c", BUFFERS, path, "4096"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    memory = ram_needed(path.stat().st_size, config)
    assert memory.cache == found["KV"]
    assert found["compute"] <= 1.03 * memory.buffers
    assert memory.buffers <= found["compute"] + 2**22 + 2**20  # the mask is counted where the logits need more, too
    # The buffers are not in use yet, so they are not resident.
    assert found["resident"] <= memory.total - memory.buffers


def empty_model(path, config):
    """A GGUF of these shapes whose weights are a hole in the file."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{number}" for number in range(config.vocab_size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    writer.add_token_merges(["t 1"])
    hidden, inner, keys = config.hidden_size, config.intermediate_size, config.num_key_value_heads * config.head_dim
    layer = {"attn_q": (hidden, hidden), "attn_k": (keys, hidden), "attn_v": (keys, hidden)}
    layer |= {"attn_output": (hidden, hidden), "ffn_gate": (inner, hidden), "ffn_up": (inner, hidden)}
    layer |= {"ffn_down": (hidden, inner), "attn_norm": (hidden,), "ffn_norm": (hidden,)}
    vocabulary = (config.vocab_size, hidden)
    shapes = {"token_embd": vocabulary, "output": vocabulary, "output_norm": (hidden,)}
    shapes |= {f"blk.{n}.{key}": shape for n in range(config.num_hidden_layers) for key, shape in layer.items()}
    size = 0
    for name, shape in shapes.items():
        dtype = np.dtype(np.float16 if len(shape) > 1 else np.float32)
        writer.add_tensor_info(f"{name}.weight", shape, dtype, int(np.prod(shape)) * dtype.itemsize)
        size += int(np.prod(shape)) * dtype.itemsize
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, path.stat().st_size + 32 + size)
    return path
