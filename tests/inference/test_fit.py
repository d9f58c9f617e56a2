import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import fit
from inference.errors import InputError
from inference.fit import choose, estimate, gigabytes, will_it_fit
from inference.gguf_header import GGUFHeader, read_header
from inference.load_options import KV_TYPES, LoadOptions
from inference.machine import Memory, usable_cores
from tests.conftest import ROOT
from tests.inference.tiny_architectures import write_attention, write_mamba

GB = 2**30
MODELS = {
    "grouped": {},
    "large vocabulary": {"vocabulary": 32_000},
    "wide": {"feed_forward": 8192},
    "layer by layer": {"architecture": "deci", "kv_heads": (8, 2, 4)},
    "sliding window": {"architecture": "gemma3", "kv_heads": (2,) * 12, "window": 512},
    "many heads": {"heads": 16, "kv_heads": (16,)},
}
# Loads each model with each of the settings and prints what llama.cpp allocated, in bytes.
MEASURE = """
import ctypes, json, sys
from inference import llama_model
from inference.load_options import LoadOptions
out = [[llama_model.CPU_CHUNK, llama_model.GPU_CHUNK]]
for path, n_ctx, kv_type, flash in json.loads(sys.argv[1]):
    options = LoadOptions(n_ctx=n_ctx, n_threads=1, n_gpu_layers=0, kv_type=kv_type, flash_attention=flash)
    model = llama_model.LlamaModel(path, options, ctypes.create_string_buffer(2))
    assert model.flash_attention == (flash is not False)
    out.append([model.state_bytes, model.log.total(r"compute buffer size = *([0-9.]+) MiB") * 2**20])
print(json.dumps(out))
"""


def header(gigabytes: float = 4, **metadata) -> GGUFHeader:
    """The header of a model like Llama-3-8B: 128 kB of KV cache for each token."""
    values = {
        "context_length": 131_072,
        "block_count": 32,
        "embedding_length": 4096,
        "feed_forward_length": 14_336,
        "attention.head_count": 32,
        "attention.head_count_kv": 8,
        **metadata,
    }
    return GGUFHeader(
        Path("big.gguf"), "llama", "Big", "Q4_K_M", values["context_length"], None, int(gigabytes * GB), 8_000_000_000,
        {f"llama.{key}": value for key, value in values.items()} | {"tokenizer.ggml.tokens.length": 128_256},
    )  # fmt: skip


def test_the_estimate_is_what_llama_cpp_takes(tmp_path):
    paths = {name: write_attention(tmp_path / f"{name}.gguf", **layout) for name, layout in MODELS.items()}
    paths["recurrent"] = write_mamba(tmp_path / "mamba.gguf")
    settings = [(4096, "f16", False), (4000, "q8_0", True), (16_384, "f32", False), (4096, "f16", None)]
    cases = [(name, *setting) for name in paths for setting in settings]
    arguments = json.dumps([[str(paths[name]), *setting] for name, *setting in cases])
    done = subprocess.run([sys.executable, "-c", MEASURE, arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    chunks, *measured = json.loads(done.stdout)
    assert chunks == [fit.CPU_CHUNK, fit.GPU_CHUNK]
    for (name, n_ctx, kv_type, flash), (state, compute) in zip(cases, measured, strict=True):
        told = estimate(read_header(paths[name]), n_ctx, kv_type, flash_attention=flash is not False)
        # The log rounds to hundredths of a megabyte, once for each of two caches.
        assert told.kv == pytest.approx(state, abs=0.02 * 2**20), (name, n_ctx, kv_type)
        assert 0.95 * compute <= told.compute <= 1.1 * compute + 4 * 2**20, (
            name,
            n_ctx,
            kv_type,
            told.compute / compute,
        )


def test_a_familiar_model():
    told = estimate(header(4.6), 8192)
    assert told.kv == GB
    assert told.weights == int(4.6 * GB)
    assert 5.6 * GB < told.total < 6.2 * GB
    assert estimate(header(), 8192, "q8_0", flash_attention=True).kv == GB * 34 // 64


def test_a_mixture_of_experts_computes_with_those_it_uses():
    sparse = header(expert_used_count=8, expert_feed_forward_length=8192, expert_count=128)
    assert estimate(sparse, 2048, flash_attention=True).compute > estimate(header(), 2048, flash_attention=True).compute


def test_layers_that_do_not_grow_with_the_context():
    hybrid = header(**{"full_attention_interval": 4, "ssm.inner_size": 4096, "ssm.state_size": 128})
    assert estimate(hybrid, 8192).kv < estimate(header(), 8192).kv / 3
    shared = header(**{"attention.shared_kv_layers": 16})
    assert estimate(shared, 8192).kv == estimate(header(), 8192).kv // 2


def chosen(options: LoadOptions = LoadOptions(), *, model=None, gpu=False, free=16.0, total=32.0) -> LoadOptions:  # noqa: B008
    return choose(model or header(), options, gpu=gpu, memory=Memory(int(total * GB), int(free * GB)))


@pytest.mark.parametrize(
    ("free", "trained", "n_ctx"),
    [
        (64, 131_072, 32_768),
        (15, 131_072, 16_384),
        (12, 131_072, 8192),
        (7.5, 131_072, 8192),
        (6.5, 131_072, 4096),
        (5.9, 131_072, 2048),
        (64, 8192, 8192),
        (64, 10_000, 8192),
        (64, 1024, 1024),
        (64, 0, 4096),
    ],
)
def test_the_context_is_as_large_as_is_comfortable(free, trained, n_ctx):
    model = header(context_length=trained) if trained else header(context_length="?")
    assert chosen(model=model, free=free, total=64).n_ctx == n_ctx


def test_everything_is_decided():
    alone = chosen()
    assert (alone.n_threads, alone.n_gpu_layers, alone.kv_type) == (usable_cores(), 0, "f16")
    assert (alone.flash_attention, alone.mmap) == (False, True)
    helped = chosen(gpu=True)
    assert (helped.n_gpu_layers, helped.flash_attention) == (-1, None)
    assert chosen(LoadOptions(kv_type="q8_0")).flash_attention is True
    assert chosen(LoadOptions(n_gpu_layers=20)).n_gpu_layers == 0  # there is no GPU


def test_what_was_asked_for_stays():
    asked = LoadOptions(
        n_ctx=3000, n_threads=7, n_gpu_layers=5, kv_type="bf16", flash_attention=False, mmap=False,
        template="koala", cache_dir="x", cache_bytes=1,
    )  # fmt: skip
    assert chosen(asked, gpu=True) == asked
    with pytest.raises(InputError, match="needs flash attention"):
        chosen(LoadOptions(kv_type="q4_0", flash_attention=False))


def test_a_model_larger_than_the_memory_is_a_sentence():
    with pytest.raises(
        InputError,
        match=r"big\.gguf needs about 38 GB with a context of 2,048 tokens, and this machine has 24 GB; "
        r"choose a smaller quantization, or load it all the same with --load force=on",
    ):
        chosen(model=header(37.5), free=20, total=24)
    assert chosen(LoadOptions(force=True), model=header(37.5), free=20, total=24).n_ctx == 2048
    with pytest.raises(InputError, match=r"context of 131,072 tokens, .* choose a smaller context"):
        chosen(LoadOptions(n_ctx=131_072), model=header(6), free=10, total=16)


def test_what_lies_in_a_gpu_does_not_count(monkeypatch):
    monkeypatch.setattr(fit.sys, "platform", "linux")
    assert chosen(model=header(37.5), gpu=True, free=20, total=24).n_gpu_layers == -1
    with pytest.raises(InputError):
        chosen(LoadOptions(n_gpu_layers=4), model=header(37.5), gpu=True, free=20, total=24)
    monkeypatch.setattr(fit.sys, "platform", "darwin")
    with pytest.raises(InputError):
        chosen(model=header(37.5), gpu=True, free=20, total=24)


@pytest.mark.parametrize(
    ("free", "total", "verdict"), [(16, 32, "yes"), (5, 32, "tight"), (3, 8, "tight"), (4, 4, "no"), (1, 2, "no")]
)
def test_the_verdict(free, total, verdict):
    told = will_it_fit(
        header(),
        LoadOptions(n_ctx=4096),
        Memory(total * GB, free * GB),
    )
    assert told.verdict == verdict
    assert told.sentence.startswith("it needs about 4.7 GB with a context of 4,096 tokens, and")
    assert f"{gigabytes(free * GB)} of {gigabytes(total * GB)} are free" in told.sentence


def test_where_nobody_knows_the_memory(monkeypatch):
    monkeypatch.setattr(fit, "usable_memory", lambda: None)
    assert choose(header(500), LoadOptions(), gpu=False).n_ctx == 8192
    assert will_it_fit(header(500), LoadOptions(), None).verdict == "yes"


numbers = st.one_of(
    st.integers(-(2**63), 2**64),
    st.floats(),
    st.text(max_size=3),
    st.booleans(),
    st.lists(st.one_of(st.integers(-5, 2**40), st.floats()), max_size=4),
)
KEYS = """
context_length block_count embedding_length feed_forward_length attention.head_count attention.head_count_kv
attention.key_length attention.value_length attention.shared_kv_layers full_attention_interval ssm.inner_size
ssm.conv_kernel expert_used_count wkv.head_size attention.sliding_window
"""


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from(KEYS.split()), numbers), st.sampled_from(KV_TYPES))
def test_any_header_has_an_estimate(metadata, kv_type):
    strange = header(**metadata)
    told = estimate(strange, 4096, kv_type)
    assert min(told.kv, told.compute) >= 0
    assert chosen(LoadOptions(force=True), model=strange).n_ctx >= 8
