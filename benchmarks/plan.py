"""How near `train.plan` comes to what is measured: seconds per step and bytes at the worst moment, on the CPU.

    python -m benchmarks.plan

The first model calibrates the utilization; the time of the others is predicted with it. Memory needs no calibration.
The step is that of training: packed rows of conversations, `train.attention`, `train.loss`, AdamW. The bytes are those
of all tensors that live, counted as PyTorch makes and frees them, in a step of its own; the time is the best of some
steps, as other programs may have the processor for a moment.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.train.tensor_memory import TensorMemory
from train import attention
from train.decoder import Decoder
from train.flops import Adapter, ModelFlops
from train.loss import give_losses
from train.memory import Setup, memory

BASE = {
    "model_type": "llama",
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "vocab_size": 4096,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}
FULL = Setup(rows=1, length=1024, dtype="float32", mixed=None, checkpointing=False, attention="pieces")
CASES: dict[str, tuple[dict, dict]] = {
    "calibration": ({}, {}),
    "wider": (
        {"hidden_size": 640, "intermediate_size": 1728, "num_attention_heads": 10, "num_key_value_heads": 10},
        {},
    ),
    "deeper, grouped queries": ({"num_hidden_layers": 12, "num_key_value_heads": 2}, {}),
    "large vocabulary": ({"vocab_size": 16384}, {}),
    "qwen3": ({"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 64}, {}),
    "two rows, twice": ({}, {"rows": 2, "accumulation": 2}),
    "checkpointing": ({"num_hidden_layers": 12}, {"checkpointing": True}),
    "LoRA": ({}, {"adapter": Adapter(16)}),
}
CONVERSATIONS = (300, 120, 180, 60, 240, 124)
"""Lengths in tokens of the conversations that fill a row."""


def main() -> int:
    """Measure every case, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="timed steps of each (default %(default)s)")
    options = parser.parse_args()
    attention.register()
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; Python {platform.python_version()}, "
        f"torch {torch.__version__}; fp32, rows of {FULL.length} tokens\n"
    )
    print(f"{'':24} {'seconds/step':>23}  {'MB at the worst moment':>25}")
    print(f"{'':24} {'plan':>7} {'measured':>8} {'ratio':>6}  {'plan':>8} {'measured':>8} {'ratio':>7}")
    steps = {name: prepare(*case) for name, case in CASES.items()}
    peaks, seconds = {}, dict.fromkeys(CASES, float("inf"))
    for name, (step, tensors) in steps.items():
        step()  # makes the optimizer's states
        with TensorMemory(*tensors()) as tracker:
            step()
        peaks[name] = tracker.peak
    for _ in range(options.steps):  # round after round, so that what else the machine does meets all alike
        for name, (step, _) in steps.items():
            begun = time.perf_counter()
            step()
            seconds[name] = min(seconds[name], time.perf_counter() - begun)

    rate = None
    for name, (shape, setting) in CASES.items():
        setup = replace(FULL, **setting)
        decoder = Decoder.of(AutoConfig.for_model(**{**BASE, **shape}))
        flops = model_flops(decoder, setup)
        rate = rate or flops / seconds[name]
        planned = memory(decoder, setup).total
        print(
            f"{name:24} {flops / rate:7.3f} {seconds[name]:8.3f} {flops / rate / seconds[name]:6.2f}  "
            f"{planned / 1e6:8.1f} {peaks[name] / 1e6:8.1f} {planned / peaks[name]:7.3f}"
        )
    print(f"\nthe calibration ran at {rate / 1e9:.1f} GFLOP/s; load {os.getloadavg()[0]:.1f} after")
    return 0


def model_flops(decoder: Decoder, setup: Setup) -> float:
    """Of a step."""
    squared = setup.rows * sum(length**2 for length in CONVERSATIONS)
    flops = setup.accumulation * ModelFlops.of(decoder, trained=setup.adapter).of_tokens(setup.tokens, squared)
    # The forward pass again: the plan leaves it to the utilization, which here is the same for all.
    return flops * 4 / 3 if setup.checkpointing else flops


def prepare(shape: dict, setting: dict):
    """`training_step` of a case."""
    return training_step(AutoConfig.for_model(**{**BASE, **shape}), replace(FULL, **setting))


def training_step(config, setup: Setup) -> tuple[Callable[[], None], Callable[[], list[torch.Tensor]]]:
    """A function that does one step of training, and one that gives the tensors that live between steps."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.VARLEN)
    model.config.use_cache = False
    give_losses(model)
    if setup.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if setup.adapter:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=setup.adapter.rank, target_modules="all-linear", lora_dropout=0.0))
    model.train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), fused=True)
    ids = torch.randint(3, config.vocab_size, (1, setup.tokens))
    lengths = CONVERSATIONS * setup.rows
    batch = {
        "input_ids": ids,
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
        "logits_to_keep": torch.arange(setup.tokens),
        "targets": ids[0],
    }

    def step() -> None:
        for _ in range(setup.accumulation):
            (losses,) = model(**batch)
            (losses.sum() / (setup.tokens * setup.accumulation)).backward()
            del losses
        optimizer.step()
        optimizer.zero_grad()

    def tensors() -> list[torch.Tensor]:
        states = [tensor for state in optimizer.state.values() for tensor in state.values()]
        return [*model.parameters(), *model.buffers(), *batch.values(), *states]

    return step, tensors


if __name__ == "__main__":
    sys.exit(main())
