"""The plan's arithmetic of memory against the tensors that PyTorch makes."""

import contextlib
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from trl.trainer import utils as trl_utils

from datasets_cfg.errors import BadInput
from train import attention
from train import memory as arithmetic
from train.decoder import Decoder, shapes
from train.flops import Adapter
from train.loss import give_losses
from train.memory import ATTENTIONS, HEADS, SHARDED, SHARDINGS, Setup, layer_activations, memory

from .tensor_memory import TensorMemory


class Kernel(torch.autograd.Function):
    """What a FlashAttention kernel keeps for its backward; not what it computes."""

    @staticmethod
    def forward(ctx, queries, keys, values):
        batch, heads, length, size = queries.shape
        out = queries.new_zeros(batch, length, heads, size)
        ctx.save_for_backward(queries, keys, values, out, queries.new_zeros(batch, heads, length, dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, gradient):
        return tuple(torch.zeros_like(tensor) for tensor in ctx.saved_tensors[:3])


def kernel(module, queries, keys, values, attention_mask, **options):
    tensors = queries, keys, values
    if torch.is_autocast_enabled("cpu"):
        tensors = [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]
    return Kernel.apply(*tensors), None


AttentionInterface.register("kernel_stub", kernel)
attention.register()

SHAPE = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 256,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FULL = Setup(rows=2, length=256, mixed=None, checkpointing=False)
LORA = replace(FULL, mixed="bfloat16", adapter=Adapter(16))


def measure(config, setup: Setup) -> dict[str, int]:
    """Bytes of the weights, of what a forward pass leaves, and of the peak of the second of two steps."""
    # PEFT changes modules in a way that fake tensors do not allow.
    with contextlib.nullcontext() if setup.adapter or setup.attention == "pieces" else FakeTensorMode():
        implementation = {"flash": "kernel_stub", "pieces": "varlen", "sdpa_mask": "sdpa", "eager": "eager"}[
            setup.attention
        ]
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, setup.dtype), attn_implementation=implementation
        )
        model.config.use_cache = False
        if setup.head == "logits":
            give_losses(model)
        else:
            trl_utils.add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
        if setup.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if setup.adapter:
            from peft import LoraConfig, get_peft_model

            targets = list(setup.adapter.targets) if setup.adapter.targets else "all-linear"
            lora = LoraConfig(r=setup.adapter.rank, target_modules=targets, lora_dropout=0.0)
            if setup.checkpointing:
                model.enable_input_require_grads()
            model = get_peft_model(model, lora)
        model.train()
        packed = setup.head == "logits"
        rows = (1, setup.tokens) if packed else (setup.rows, setup.length)
        ids = torch.ones(rows, dtype=torch.long)
        inputs = {"labels": ids, "fused_lm_head": True}
        if setup.head == "logits":
            inputs = {"targets": ids[0], "logits_to_keep": torch.arange(setup.tokens)}
        if setup.attention == "pieces":
            inputs["cu_seq_lens_q"] = torch.arange(0, setup.tokens + 1, 128, dtype=torch.int32)
        if setup.attention == "sdpa_mask":
            inputs["attention_mask"] = torch.ones(1, 1, setup.tokens, setup.tokens, dtype=torch.bool)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, fused=True)
        tracker = TensorMemory(*model.parameters(), *model.buffers(), *filter(torch.is_tensor, inputs.values()))
        weights = sum(parameter.nbytes for parameter in model.parameters())
        with tracker:
            for _ in range(2):
                tracker.peak = tracker.now
                for _ in range(setup.accumulation):
                    with torch.autocast("cpu", torch.bfloat16, enabled=setup.mixed is not None):
                        before = tracker.now
                        out = model(input_ids=ids, **inputs)
                        loss = out[0].sum() if setup.head == "logits" else out.loss
                        del out
                        left = tracker.now - before
                    loss.backward()
                    del loss
                optimizer.step()
                optimizer.zero_grad()
        states = sum(tensor.nbytes for state in optimizer.state.values() for tensor in state.values())
    return {"weights": weights, "optimizer": states, "left": left, "peak": tracker.peak}


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of the loss head so narrow that the layers, not the head, make the peak."""
    monkeypatch.setattr(trl_utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 64, raising=False)
    monkeypatch.setattr(arithmetic, "_TILE_VOCAB", 64)


CASES = {
    "llama": ({}, FULL),
    "checkpointing": ({}, replace(FULL, checkpointing=True)),
    "checkpointing, accumulated": ({}, replace(FULL, checkpointing=True, accumulation=2)),
    "deep and checkpointing": ({"num_hidden_layers": 16}, replace(FULL, checkpointing=True)),
    "long": ({}, replace(FULL, rows=1, length=1536)),
    "grouped queries": ({"num_key_value_heads": 1}, FULL),
    "tied": ({"tie_word_embeddings": True, "vocab_size": 4096}, replace(FULL, checkpointing=True)),
    "fp32": ({}, replace(FULL, dtype="float32")),
    "fp32, checkpointing": ({}, replace(FULL, dtype="float32", checkpointing=True)),
    "autocast": ({}, replace(FULL, dtype="float32", mixed="bfloat16")),
    "autocast, checkpointing": ({}, replace(FULL, dtype="float32", mixed="bfloat16", checkpointing=True)),
    "mask": ({}, replace(FULL, attention="sdpa_mask")),
    "mask, grouped queries": ({"num_key_value_heads": 1}, replace(FULL, attention="sdpa_mask")),
    "eager": ({}, replace(FULL, attention="eager")),
    "pieces": ({}, replace(FULL, attention="pieces")),
    "pieces, grouped queries": ({"num_key_value_heads": 1}, replace(FULL, attention="pieces")),
    "logits": ({"vocab_size": 8192}, FULL),
    "logits, checkpointing": ({"vocab_size": 8192}, replace(FULL, checkpointing=True)),
    "logits, long": ({"vocab_size": 4096}, replace(FULL, rows=10, checkpointing=True)),
    "logits, fp32": ({"vocab_size": 8192}, replace(FULL, dtype="float32")),
    "logits, autocast": ({"vocab_size": 8192}, replace(FULL, dtype="float32", mixed="bfloat16")),
    "logits, lora": ({"vocab_size": 8192}, LORA),
    "tiles": ({"vocab_size": 4096}, replace(FULL, head="tiles in torch")),
    "tiles, checkpointing": ({}, replace(FULL, head="tiles in torch", checkpointing=True, accumulation=2)),
    "tiles, lora": ({}, replace(LORA, head="tiles in torch")),
    "qwen2": ({"model_type": "qwen2", "num_key_value_heads": 2}, FULL),
    "qwen3": ({"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 64}, FULL),
    "mistral": ({"model_type": "mistral", "num_key_value_heads": 2}, FULL),
    "gemma": ({"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 64}, FULL),
    "smollm3": ({"model_type": "smollm3", "num_key_value_heads": 2}, FULL),
    "lora": ({}, LORA),
    "lora of two": ({}, replace(LORA, adapter=Adapter(8, ("q_proj", "v_proj")))),
    "lora, checkpointing": ({}, replace(LORA, checkpointing=True)),
    "lora, fp32": ({}, replace(LORA, dtype="float32", mixed=None)),
    "lora, qwen3": ({"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 64}, LORA),
}


@pytest.mark.parametrize("case", CASES)
def test_the_peak_is_that_of_the_tensors(case, small_tiles):
    changed, setup = CASES[case]
    if setup.head != "logits" and not hasattr(trl_utils, "add_fused_lm_head"):
        pytest.skip("this TRL has no such head")
    config = AutoConfig.for_model(**{**SHAPE, **changed})
    decoder = Decoder.of(config)
    planned, measured = memory(decoder, setup), measure(config, setup)
    assert planned.weights == measured["weights"]
    assert planned.optimizer == pytest.approx(measured["optimizer"], rel=0.001)
    saved, _ = layer_activations(decoder, setup)
    if not setup.checkpointing:
        outside, _ = arithmetic._outside_activations(decoder, setup)
        logits = setup.tokens * decoder.vocab * setup.computed if setup.head == "logits" else 0
        assert decoder.layers * saved + outside + logits == pytest.approx(measured["left"], rel=0.1)
    assert planned.total == pytest.approx(measured["peak"], rel=0.05)


@pytest.mark.parametrize(
    ("base", "setup"),
    [
        ("openlm-research/open_llama_7b_v2", Setup(rows=1, length=2048, mixed=None)),
        ("openlm-research/open_llama_7b_v2", Setup(rows=2, length=2048, mixed=None, checkpointing=False)),
        pytest.param("Qwen/Qwen3-8B-Base", Setup(rows=1, length=4096, dtype="float32"), marks=pytest.mark.slow),
        pytest.param(
            "Qwen/Qwen3-8B-Base", Setup(rows=2, length=2048, mixed=None, accumulation=2), marks=pytest.mark.slow
        ),
    ],
    ids=["7B", "7B without checkpointing", "8B autocast", "8B accumulated"],
)
def test_the_peak_of_the_recipes_bases(base, setup):
    """Seven and eight billion parameters without memory behind them, in the shape in which they are trained."""
    config = AutoConfig.for_model(**shapes()[base])
    planned = memory(Decoder.of(config), setup)
    measured = measure(config, setup)
    assert planned.weights == measured["weights"]
    assert planned.total == pytest.approx(measured["peak"], rel=0.05)


@pytest.fixture(scope="module")
def llama_13b() -> Decoder:
    return Decoder.of(AutoConfig.for_model(**shapes()["openlm-research/open_llama_13b"]))


PARAMETERS = 13_015_864_320


def test_what_fsdp_splits(llama_13b):
    """accelerate keeps fp32 weights: 4 + 4 + 8 bytes a parameter, over 8 devices; a layer is gathered in bf16."""
    planned = memory(llama_13b, Setup(rows=2, length=2048, sharding="fsdp2", devices=8))
    assert planned.weights == PARAMETERS * 4 // 8
    assert planned.optimizer == PARAMETERS * 8 // 8
    assert PARAMETERS * 3.8 // 8 < planned.gradients < PARAMETERS * 4.3 // 8
    layer = 4 * 5120**2 + 3 * 5120 * 13824 + 2 * 5120
    assert planned.communication == 2 * (4 * layer + 32_000 * 5120) + 4 * layer


def test_what_other_launches_hold(llama_13b):
    ddp = memory(llama_13b, Setup(rows=1, length=2048, sharding="ddp", devices=8))
    assert (ddp.weights, ddp.communication) == (PARAMETERS * 2, PARAMETERS * 2)  # a bucket for every gradient
    zero = memory(llama_13b, Setup(rows=1, length=2048, sharding="zero3", devices=8))
    # ZeRO's paper: 2 + 2 + 12 bytes a parameter.
    assert (zero.weights, zero.optimizer) == (PARAMETERS * 2 // 8, PARAMETERS * 12 // 8)


def test_what_a_quantized_base_holds(llama_13b):
    setup = Setup(rows=1, length=2048, adapter=Adapter(16), bits=4, nested=True)
    planned = memory(llama_13b, setup)
    quantized = 40 * (4 * 5120**2 + 3 * 5120 * 13824)
    adapters = 40 * 16 * (4 * 2 * 5120 + 3 * (5120 + 13824))
    # QLoRA's paper: 0.127 bits a parameter for the scales, 0.5 without double quantization.
    expected = quantized * (4 + 0.127) / 8 + (PARAMETERS - quantized) * 2 + adapters * 2
    assert planned.weights == pytest.approx(expected, rel=0.001)
    more = memory(llama_13b, replace(setup, nested=False)).weights - planned.weights
    assert more == pytest.approx(quantized * (0.5 - 0.127) / 8, rel=0.001)
    assert planned.optimizer == adapters * 4


def test_optimizers(llama_13b):
    def states(optim):
        return memory(llama_13b, Setup(rows=1, length=512, optim=optim)).optimizer / PARAMETERS

    assert states("adamw_torch_fused") == states("adamw_torch") == 4
    assert states("sgd") == states("adafactor") == 0
    assert 2 < states("adamw_bnb_8bit") < 2.15  # a byte each, with scales; the embedding's are in fp32
    with pytest.raises(BadInput, match="adamw_torch_fused"):
        states("adamw_of_tomorrow")


@given(
    rows=st.integers(1, 4),
    length=st.integers(16, 4096),
    accumulation=st.integers(1, 4),
    sharding=st.sampled_from(SHARDINGS),
    adapter=st.sampled_from([None, Adapter(16)]),
    checkpointing=st.booleans(),
    attention=st.sampled_from(ATTENTIONS),
    head=st.sampled_from(HEADS),
)
def test_less_of_anything_never_takes_more(llama_13b, **chosen):
    setup = Setup(devices=4, **chosen)
    total = memory(llama_13b, setup).total
    assert all(part >= 0 for part in memory(llama_13b, setup).parts().values())
    assert memory(llama_13b, replace(setup, length=setup.length + 64)).total >= total
    assert memory(llama_13b, replace(setup, rows=setup.rows + 1)).total >= total
    # Checkpointing keeps a layer's input beside what that layer saves.
    entry = setup.tokens * llama_13b.hidden * 2
    checkpointed, saved = (memory(llama_13b, replace(setup, checkpointing=on)).total for on in (True, False))
    assert checkpointed <= saved + entry
    assert memory(llama_13b, replace(setup, accumulation=setup.accumulation + 1)).total >= total
    if setup.sharding in SHARDED:
        assert memory(llama_13b, replace(setup, devices=8)).total <= total
