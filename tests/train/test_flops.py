"""FLOPs of training: by hand, and as PyTorch counts them."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from train.decoder import Decoder, shapes
from train.flops import Adapter, ModelFlops
from train.hardware import parse

SHAPE = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def test_llama_13b_by_hand():
    flops = ModelFlops.of(AutoConfig.for_model(**shapes()["openlm-research/open_llama_13b"]))
    layer = 4 * 5120 * 5120 + 3 * 5120 * 13824  # q, k, v, o; gate, up, down
    assert layer == 317_194_240
    head = 32_000 * 5120
    assert flops.per_token + flops.per_logits == 6 * (40 * layer + head) == 77_109_657_600
    assert flops.per_squared_token == 12 * 40 * 5120
    # A token of a full row of 2048 sees 2048: 77.1 and 5.0 GFLOP.
    a_row = flops.of_tokens(2048, 2048**2)
    assert a_row / 2048 == 82_142_822_400


def test_the_published_run():
    """13B, two epochs of 164M tokens, six hours on eight A100s: about half of what they can do."""
    flops = ModelFlops.of(AutoConfig.for_model(**shapes()["openlm-research/open_llama_13b"]))
    tokens = 328_000_000
    hardware = parse("8xA100-80GB")
    mfu = flops.of_tokens(tokens, tokens * 2048) / (6 * 3600 * hardware.count * hardware.bf16)
    assert mfu == pytest.approx(0.50, abs=0.005)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"tie_word_embeddings": True},
        {"model_type": "qwen2"},
        {"model_type": "qwen3", "head_dim": 32},
        {"model_type": "mistral", "num_key_value_heads": 1},
        {"model_type": "gemma", "head_dim": 32},
        {"model_type": "smollm3"},
    ],
    ids=str,
)
@pytest.mark.parametrize("targets", ["full", ("q_proj", "v_proj"), None], ids=str)
def test_pytorch_counts_the_same(changed, targets):
    config = AutoConfig.for_model(**{**SHAPE, **changed})
    trained = None if targets == "full" else Adapter(4, targets)
    # Eager attention computes all scores, as the convention counts them.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if trained:
        from peft import LoraConfig, get_peft_model

        model.enable_input_require_grads()  # else the first layer needs no gradient of its input
        model = get_peft_model(model, LoraConfig(r=4, target_modules=list(targets) if targets else "all-linear"))
    rows, length = 2, 24
    ids = torch.ones(rows, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    ours = ModelFlops.of(config, trained=trained).of_tokens(rows * length, rows * length**2)
    assert counter.get_total_flops() == ours


def test_logits_that_are_not_made_are_not_counted():
    config = AutoConfig.for_model(**SHAPE)
    flops = ModelFlops.of(config)
    assert flops.of_tokens(10, 100) - flops.of_tokens(10, 100, logits=4) == 6 * 6 * 300 * 64


def test_the_parameters_are_those_of_the_model():
    for name, parameters in {
        "openlm-research/open_llama_13b": 13_015_864_320,  # 13.0B, as LLaMA's paper has it
        "openlm-research/open_llama_7b_v2": 6_738_415_616,  # LLaMA-7B's count
        "Qwen/Qwen3-8B-Base": 8_190_735_360,  # its model card: 8.2B, 6.95B without the embeddings
    }.items():
        decoder = Decoder.of(AutoConfig.for_model(**shapes()[name]))
        assert decoder.parameters == parameters
    assert round((parameters - 2 * decoder.head_parameters) / 1e9, 2) == 6.95
