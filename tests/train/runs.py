"""Training runs, as users start them, and what they leave behind."""

import json
import os
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file

RECIPE = ("--config", "train/recipes/demo.yaml")

# More than an epoch, which ends with fillers; a checkpoint every third step, an evaluation every sixth.
STEPS = (
    *("--max_steps", 12, "--max_length", 512, "--warmup_steps", 2, "--logging_steps", 1),
    *("--save_strategy", "steps", "--save_steps", 3),
    *("--eval_strategy", "steps", "--eval_steps", 6, "--per_device_eval_batch_size", 4),
)
ROWS_PER_STEP = 8

LORA = ("--use_peft", "true", "--lora_r", 4, "--lora_target_modules", "all-linear", "--lora_dropout", 0.1)
KINDS = {"full": (), "lora": LORA}

# transformers' train_loss is, as the time is, of what this process did.
_OF_THIS_PROCESS = ("_per_second", "_runtime", "preparation_time", "train_loss")


def flags(kind: str, processes: int, mixture: Path, base: Path, out: Path) -> tuple[str, ...]:
    """Of a run of twelve steps of eight rows, in which no step depends on the number of processes."""
    given = ("--mixture", mixture, "--model_name_or_path", base, "--output_dir", out)
    accumulation = ("--gradient_accumulation_steps", ROWS_PER_STEP // processes)
    return tuple(map(str, (*given, *STEPS, *accumulation, *KINDS[kind])))


def launched(*arguments: object, processes: int = 1, script: str = "train/sft.py") -> tuple[str, ...]:
    """The arguments for `python` that run a script as `accelerate launch` does; of one process without it."""
    if processes == 1:
        return (script, *RECIPE, *map(str, arguments))
    launch = ("-m", "accelerate.commands.launch", "--config_file", "train/accelerate/cpu.yaml")
    ports = ("--num_processes", str(processes), "--main_process_port", "0")
    return (*launch, *ports, script, *RECIPE, *map(str, arguments))


def environment(**more: str) -> dict[str, str]:
    """Processes that share the cores take one each, so that their sums are those of any other run."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def records(out: Path) -> list[dict]:
    """The records of metrics.jsonl, without what differs each time."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [what_was_learned(json.loads(line)) for line in lines]


def what_was_learned(record: dict) -> dict:
    return {key: value for key, value in record.items() if not key.endswith(_OF_THIS_PROCESS)}


def logged(out: Path, key: str) -> list[float]:
    """What metrics.jsonl has under a key, in order."""
    return [record[key] for record in records(out) if key in record]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Of a finished model or adapter."""
    (file,) = out.glob("*.safetensors")
    return load_file(file)


def final_state(out: Path, kind: str) -> dict:
    """All that a run has learned and would go on from: the finished weights, and all of the last checkpoint."""
    last = out / "checkpoint-12"
    name = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    state = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))
    state["log_history"] = [what_was_learned(record) for record in state["log_history"]]
    pickles = [file for file in sorted(last.iterdir()) if file.suffix in (".pt", ".pth")]
    assert {"optimizer.pt", "scheduler.pt"} < {file.name for file in pickles}
    return {
        "finished": weights(out),
        "checkpoint": load_file(last / name),
        "state": state,
        # Written by the run under test, so there is no reason not to unpickle them.
        **{file.name: torch.load(file, weights_only=False) for file in pickles},
    }


def differences(one, other, where: str = "") -> list[str]:
    """The places at which two nested structures are not the same, to the bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [where]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{where}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [place for key in one for place in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return [f"{where}: {len(one)} and {len(other)}"]
        pairs = zip(one, other, strict=True)
        return [place for i, pair in enumerate(pairs) for place in differences(*pair, f"{where}/{i}")]
    return [] if repr(one) == repr(other) else [f"{where}: {one} and {other}"]


def tree(folder: Path) -> dict[str, tuple]:
    """Every file and folder below, with what is in it and when it was last changed."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            sha256(path.read_bytes()).hexdigest() if path.is_file() else None,
        )
        for path in sorted(folder.rglob("*"))
    }
