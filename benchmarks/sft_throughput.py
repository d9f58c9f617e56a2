"""How many useful tokens a second training takes, beside TRL's SFTTrainer with its defaults: the same rows and model.

    KOALA_REAL_DATA=… python benchmarks/sft_throughput.py
    KOALA_REAL_DATA=… python benchmarks/sft_throughput.py --model 8b --length 2048 4096 --conversations 2000  (on a GPU)

The rows are real conversations of the demo's mixture without WebGPT, drawn with a seed, none longer than the length, so
that both train on every token of each. The weights are random. A run is one epoch, what prepares the rows not counted;
the runs take turns, and the median counts. Useful tokens are those of the conversations: padding is none. The reference
is TRL's SFTTrainer with its defaults: eight conversations a batch, padded; gradient checkpointing; PyTorch's scaled dot
product attention. Our steps hold as many tokens. On the CPU both compute in float32. On a GPU both have weights,
gradients and optimizer in bfloat16, since an 8B would not fit otherwise; the recipes train float32 weights, split over
several GPUs.
"""

import argparse
import gc
import logging
import os
import platform
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

SHAPES = {
    # hidden size, intermediate size, layers, heads, key-value heads: a toy, Llama 3.2 1B, LLaMA 7B, Llama 3 8B
    "toy": (256, 688, 4, 4, 2),
    "1b": (2048, 8192, 16, 32, 8),
    "7b": (4096, 11008, 32, 32, 32),
    "8b": (4096, 14336, 32, 32, 8),
}
REFERENCE = "TRL, defaults"


def main() -> int:
    """Build the rows, let the variants take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=SHAPES, default="toy", help="shape of the model (default %(default)s)")
    parser.add_argument("--lora", action="store_true", help="adapters of rank 64 at every linear layer")
    parser.add_argument("--length", type=int, nargs="+", default=[1024], help="of a row (default: TRL's, 1024)")
    parser.add_argument("--conversations", type=int, default=256, help="of an epoch (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each variant (default %(default)s)")
    options = parser.parse_args()
    if not os.environ.get("KOALA_REAL_DATA"):
        print("error: set KOALA_REAL_DATA to the folder with real rows and tokenizers", file=sys.stderr)
        return 2
    import datasets
    import torch
    import trl

    datasets.disable_progress_bars()
    for noise in ("transformers", "trl", "datasets", "accelerate"):
        logging.getLogger(noise).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    print(
        f"{device}, torch {torch.__version__}, trl {trl.__version__}, Python {platform.python_version()}; "
        f"model {options.model}, {'LoRA' if options.lora else 'full'}, {options.conversations} conversations, "
        f"median of {options.runs}"
    )
    real = Path(os.environ["KOALA_REAL_DATA"]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        mixture = build(real, Path(scratch) / "mixture")
        for length in options.length:
            compare(mixture, real / "tokenizers" / "hf", length, options, Path(scratch))
    return 0


def build(real: Path, out: Path) -> Path:
    """The demo's mixture of real rows."""
    from datasets_cfg.__main__ import main as datasets_cfg

    arguments = ["build", "demo", "--raw-dir", str(real), "--skip", "webgpt", "--out", str(out), "--quiet"]
    if datasets_cfg(arguments):
        raise SystemExit("the mixture could not be built")
    return out


def compare(mixture: Path, tokenizers: Path, length: int, options, scratch: Path) -> None:
    """Time every variant at one length and print its line."""
    import numpy as np
    import torch

    from datasets_cfg.base_tokenizer import load_tokenizer
    from datasets_cfg.tokenization import tokenized
    from train.flops import Adapter, ModelFlops
    from train.hardware import peak_flops
    from train.mixture import load_ids, load_split
    from train.packing import lengths_of

    tokenizer = load_tokenizer(str(tokenizers / ("llama3" if options.model in ("1b", "8b") else "llama")))
    ids = load_ids(tokenized(mixture, tokenizer, 2**20, quiet=True), "train")
    short = np.flatnonzero(lengths_of(ids) <= length)
    chosen = np.random.default_rng(0).permutation(short)[: options.conversations]
    ids, lengths = ids.select(chosen), lengths_of(ids)[chosen]
    messages = load_split(mixture, "train").select(chosen).select_columns(["messages", "chat_template_kwargs"])
    tokens, squared = int(lengths.sum()), int((lengths**2).sum())
    logits = sum(label != -100 for row in ids["labels"] for label in row)
    flops = ModelFlops.of(config(options.model, tokenizer, length), trained=Adapter(64) if options.lora else None)
    peak = peak_flops(torch.cuda.get_device_name(), "bfloat16") if torch.cuda.is_available() else None

    rows = max(1, round(8 * tokens / len(lengths) / length))
    variants = {
        REFERENCE: lambda out, few: train_trl(messages, tokenizer, length, options, out, few),
        "TRL, packing": lambda out, few: train_trl(messages, tokenizer, length, options, out, few, rows=rows),
        "Koala, gradient checkpointing": lambda out, few: train_koala(
            ids, tokenizer, length, options, out, few, rows=rows, checkpointing=True
        ),
        "Koala": lambda out, few: train_koala(
            ids, tokenizer, length, options, out, few, rows=rows, checkpointing=False
        ),
    }
    print(
        f"\nlength {length}: {tokens:,} useful tokens, {tokens / len(lengths):.0f} a conversation; {rows} rows a step"
    )
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    memory: dict[str, int] = {}
    for run in range(-1, options.runs):  # the first is to warm up
        for name, train in list(variants.items()):
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                taken = train(scratch / "out", run < 0)
            except torch.OutOfMemoryError:
                print(f"{name:32} does not fit into the memory")
                del variants[name]
                continue
            if run >= 0:
                speeds[name].append(tokens / taken)
            if torch.cuda.is_available():
                memory[name] = torch.cuda.max_memory_allocated()
    reference = statistics.median(speeds[REFERENCE]) if speeds[REFERENCE] else None
    for name in variants:
        speed = statistics.median(speeds[name])
        line = f"{name:32} {speed:>10,.0f} tokens/s ({min(speeds[name]):,.0f} to {max(speeds[name]):,.0f})"
        if reference:
            line += f"  {speed / reference:.2f}x"
        if peak:
            line += f"  MFU {flops.of_tokens(tokens, squared, logits) * speed / tokens / peak:.1%}"
        if name in memory:
            line += f"  peak {memory[name] / 2**30:.1f} GiB"
        print(line, flush=True)


def config(shape: str, tokenizer, length: int):
    """A Llama of this shape."""
    from transformers import LlamaConfig

    hidden, intermediate, layers, heads, kv_heads = SHAPES[shape]
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=length,
        tie_word_embeddings=shape == "1b",
    )


def model(shape: str, tokenizer, length: int, attention: str):
    """Random weights: the same ones every time."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    half = torch.cuda.is_available()
    with torch.device("cuda" if half else "cpu"):
        return AutoModelForCausalLM.from_config(
            config(shape, tokenizer, length),
            attn_implementation=attention,
            dtype=torch.bfloat16 if half else torch.float32,
        )


def arguments(length: int, out: Path, few: bool, **settings):
    """TRL's defaults, but for what a benchmark needs."""
    import torch
    from trl import SFTConfig

    on_gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(out),
        max_length=length,
        max_steps=2 if few else -1,
        num_train_epochs=1,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        **settings,
    )


def adapters(options):
    """The LoRA, if one is asked for."""
    from peft import LoraConfig

    return LoraConfig(r=64, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM") if options.lora else None


def train_trl(messages, tokenizer, length: int, options, out: Path, few: bool, rows: int | None = None) -> float:
    """Seconds of an epoch with TRL's SFTTrainer; with packing where `rows` of a step are given."""
    from trl import SFTTrainer

    settings = {"packing": True, "per_device_train_batch_size": rows} if rows else {}
    trainer = SFTTrainer(
        model=model(options.model, tokenizer, length, "sdpa"),
        args=arguments(length, out, few, **settings),
        train_dataset=messages,
        processing_class=tokenizer,
        peft_config=adapters(options),
    )
    return seconds(trainer)


def train_koala(ids, tokenizer, length: int, options, out: Path, few: bool, rows: int, checkpointing: bool) -> float:
    """Seconds of an epoch with ours."""
    import torch

    from train import attention
    from train.packing import lengths_of, pack, packed_rows
    from train.trainer import PackedTrainer

    attention.register()
    sources = sorted(set(ids["source"]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kernel, _ = attention.choose(config(options.model, tokenizer, length), device, torch.cuda.is_available())
    trainer = PackedTrainer(
        model=model(options.model, tokenizer, length, kernel),
        args=arguments(
            length, out, few, per_device_train_batch_size=rows, packing=True, gradient_checkpointing=checkpointing
        ),
        sources=sources,
        train_dataset=packed_rows(ids, pack(lengths_of(ids), length, 0), sources, multiple=rows),
        processing_class=tokenizer,
        peft_config=adapters(options),
    )
    return seconds(trainer)


def seconds(trainer) -> float:
    """What training takes, without a word."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer.train().metrics["train_runtime"]


if __name__ == "__main__":
    sys.exit(main())
