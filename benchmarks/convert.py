"""Time and memory of a conversion, against llama.cpp's own converter and quantizer on the same checkpoint.

    KOALA_REAL_DATA=… python -m benchmarks.convert --llama-cpp DIR

DIR is llama.cpp's source; the head of benchmarks/convert_parity.py says where to get it. The checkpoint has the shape
of TinyLlama-1.1B with random weights in bfloat16, in shards, and LLaMA's tokenizer; both sides make BF16, Q8_0 and
Q4_K_M of it with two threads. Theirs is convert_hf_to_gguf.py and then, for each type, llama.cpp's quantizer at its
defaults, as llama-quantize calls it. Ours is `python -m convert --no-verify`, which refuses NaN and computes the digest
of the checkpoint's weights; the verification is left out, as theirs has none.

Memory is the largest sum of the resident sizes of all processes, looked up four times a second; pages of mapped files
are part of it, so it is also given without them. Runs alternate, and of each side the fastest counts.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

THREADS = 2
TYPES = {"Q8_0": 7, "Q4_K_M": 15}
SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
QUANTIZE = """
import llama_cpp, sys
source, target, number, threads = sys.argv[1:]
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype, parameters.nthread = int(number), int(threads)
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), parameters))
"""


def main() -> int:
    """Run both sides and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="folder of llama.cpp's source")
    parser.add_argument("--runs", type=int, default=2, help="of each side (default %(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder for about 15 GB of files (default: the system's)")
    options = parser.parse_args()
    if not os.environ.get("KOALA_REAL_DATA"):
        print("error: set KOALA_REAL_DATA to the folder with real rows and tokenizers", file=sys.stderr)
        return 2
    script = (options.llama_cpp / "convert_hf_to_gguf.py").resolve()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        checkpoint = make_checkpoint(scratch / "checkpoint")
        theirs, ours, quantizer = [], [], []
        for number in range(options.runs):
            written, *quantized = llama_cpp(script, checkpoint, scratch / f"theirs{number}")
            theirs.append(total([written, *quantized]))
            quantizer += quantized
            ours.append(koala(checkpoint, scratch / f"ours{number}"))
            shutil.rmtree(scratch / f"theirs{number}")
            shutil.rmtree(scratch / f"ours{number}")
    report(min(theirs), min(ours), quantizer)
    return 0


def make_checkpoint(folder: Path) -> Path:
    """The checkpoint with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, bos_token_id=1, eos_token_id=2, dtype="bfloat16")
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="1GB")
    tokenizers = Path(os.environ["KOALA_REAL_DATA"]) / "tokenizers"
    for file in (*(tokenizers / "hf" / "llama").iterdir(), tokenizers / "raw" / "llama" / "tokenizer.model"):
        shutil.copyfile(file, folder / file.name)
    return folder


def llama_cpp(script: Path, checkpoint: Path, out: Path) -> list[tuple[float, int, int]]:
    """llama.cpp's way: seconds, bytes and bytes without mapped files of the converter and of each quantization."""
    out.mkdir()
    whole = out / "BF16.gguf"
    arguments = [script, checkpoint, "--outfile", whole, "--outtype", "bf16"]
    measured = [watched([sys.executable, *map(str, arguments)])]
    for name, number in TYPES.items():
        arguments = [whole, out / f"{name}.gguf", number, THREADS]
        measured.append(watched([sys.executable, "-c", QUANTIZE, *map(str, arguments)]))
    return measured


def koala(checkpoint: Path, out: Path) -> tuple[float, int, int]:
    """Ours: the same three figures of the whole command."""
    types = ["--quantize", "BF16", *TYPES]
    options = ["--no-verify", "--quiet", "--threads", str(THREADS)]
    return watched([sys.executable, "-m", "convert", str(checkpoint), "--out", str(out), *types, *options])


def watched(command: list[str]) -> tuple[float, int, int]:
    """Run a command; return its seconds, and the peaks of its processes' resident bytes, with and without files."""
    peak, peak_without = 0, 0
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    root = psutil.Process(process.pid)
    while process.poll() is None:
        memory = [found for one in tree(root) if (found := resident(one))]
        peak = max(peak, sum(rss for rss, _ in memory))
        peak_without = max(peak_without, sum(rss - mapped for rss, mapped in memory))
        time.sleep(0.25)
    seconds = time.perf_counter() - begin
    reader.join()
    if process.returncode:
        sys.exit(f"{' '.join(command[:4])} failed: {errors[0][-2000:]}")
    return seconds, peak, peak_without


def tree(root: psutil.Process) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def resident(process: psutil.Process) -> tuple[int, int] | None:
    """Resident bytes of a process, and how many of them are pages of files (Linux)."""
    try:
        memory = process.memory_info()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    return memory.rss, memory.shared


def total(steps: list[tuple[float, int, int]]) -> tuple[float, int, int]:
    """Several steps one after the other."""
    return sum(step[0] for step in steps), max(step[1] for step in steps), max(step[2] for step in steps)


def report(
    theirs: tuple[float, int, int], ours: tuple[float, int, int], quantizer: list[tuple[float, int, int]]
) -> None:
    """Print what was found."""
    import importlib.metadata

    alone = max(step[1] for step in quantizer), max(step[2] for step in quantizer)
    rows = {"llama.cpp's converter + quantizer": theirs, "python -m convert": ours}
    print(f"1.1B parameters, bfloat16 → BF16, {', '.join(TYPES)}; {THREADS} threads, {platform.machine()}")
    print(json.dumps({name: importlib.metadata.version(name) for name in ("llama-cpp-python", "gguf", "torch")}))
    print(f"{'':36}{'seconds':>9}{'peak RSS':>11}{'without mapped files':>23}")
    for name, (seconds, peak, without) in rows.items():
        print(f"{name:36}{seconds:9.1f}{peak / 1e9:8.2f} GB{without / 1e9:20.2f} GB")
    print(f"{'llama.cpp quantizer alone':36}{'':9}{alone[0] / 1e9:8.2f} GB{alone[1] / 1e9:20.2f} GB")
    print(f"time: {ours[0] / theirs[0]:.2f} of llama.cpp's")
    print(f"memory above the quantizer's: {(ours[1] - alone[0]) / 1e9:+.2f} GB ({(ours[2] - alone[1]) / 1e9:+.2f} GB)")


if __name__ == "__main__":
    sys.exit(main())
