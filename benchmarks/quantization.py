"""What quantization costs a trained model, and what an importance matrix saves.

    KOALA_REAL_DATA=… python -m benchmarks.quantization

A Llama of 4.6 million parameters is trained from scratch on the real rows (about 5 million tokens, a quarter of an hour
on two cores), then converted twice: as it is, and with an importance matrix of its mixture's training conversations.
The figures are those of report.json, on held-out conversations; the reference is the unquantized file. The model is
small and trained for minutes, so a large model's figures are others: the factors are what is published here.

With `--work DIR` the model is kept there, and taken from there the next time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")
Q8_LIMIT = 0.002
"""Mean KLD that Q8_0 must keep on this model."""

STEPS = 2400
TRAINING = (
    *("--max_steps", STEPS, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 1),
    *("--warmup_steps", 200, "--learning_rate", 3e-3, "--weight_decay", 0.1),
)


def main() -> int:
    """Train unless there is a model, convert twice, print a table; exit code 1 where the matrix does not help."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, help="folder that keeps mixture and model (default: a temporary one)")
    options = parser.parse_args()
    if not os.environ.get("KOALA_REAL_DATA"):
        print("error: set KOALA_REAL_DATA to the folder with real rows and tokenizers", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        checkpoint, mixture = work / "checkpoint", work / "mixture"
        if not (checkpoint / "koala.json").is_file():
            train(work)
        plain = converted(checkpoint, Path(scratch) / "plain", "--mixture", mixture)
        weighed = converted(checkpoint, Path(scratch) / "imatrix", "--imatrix", mixture)
    return report(plain, weighed)


def train(work: Path) -> None:
    """Make the mixture of all real rows, a base with random weights, and the model."""
    raw, mixture, base = Path(os.environ["KOALA_REAL_DATA"]).resolve(), work / "mixture", work / "base"
    run("-m", "datasets_cfg", "build", "demo", "--raw-dir", raw, "--skip", "webgpt", "--out", mixture, "--overwrite")
    shape = ("--vocab-size", 4096, "--hidden-size", 256, "--layers", 6)
    run("-m", "train.tiny_base", "--mixture", mixture, "--out", base, *shape, "--overwrite")
    launch = ("-m", "accelerate.commands.launch", "--config_file", "train/accelerate/cpu.yaml")
    recipe = ("train/sft.py", "--config", "train/recipes/demo.yaml")
    places = ("--mixture", mixture, "--model_name_or_path", base, "--output_dir", work / "checkpoint", "--overwrite")
    run(*launch, *recipe, *places, *TRAINING)


def converted(checkpoint: Path, out: Path, *arguments: object) -> dict:
    """The report of a conversion to all types."""
    run("-m", "convert", checkpoint, "--out", out, "--quantize", *TYPES, *arguments)
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def run(*arguments: object) -> None:
    """Run `python ARGUMENTS` in the project folder; what it prints goes to standard error."""
    folder = Path(__file__).parents[1]
    subprocess.run([sys.executable, *map(str, arguments)], cwd=folder, check=True, stdout=sys.stderr)


def report(plain: dict, weighed: dict) -> int:
    """Print what was found, and return the exit code."""
    against = plain["transformers"]
    print(f"{plain['parameters']:,} parameters, {plain['mixture']} of all real rows, {STEPS} steps")
    print(
        f"{against['subject']} against transformers: {against['positions']:,} positions, top-1 {against['top1']:.2%}, "
        f"mean KLD {against['kld']:.1e}, largest difference {against['largest']:.1e}; perplexity "
        f"{against['perplexity']:.2f}"
    )
    print(
        f"{'':8}{'bits/weight':>12}{'mean KLD':>11}{'with imatrix':>14}{'factor':>8}{'p99 KLD':>10}{'with imatrix':>14}"
    )
    factors, q8 = {}, None
    for one, other in zip(plain["files"], weighed["files"], strict=True):
        before, after = one["against_unquantized"], other["against_unquantized"]
        factors[one["type"]] = before["kld"] / after["kld"]
        q8 = before["kld"] if one["type"] == "Q8_0" else q8
        print(
            f"{one['type']:8}{one['bits_per_weight']:12.2f}{before['kld']:11.2e}{after['kld']:14.2e}"
            f"{factors[one['type']]:8.2f}{before['kld_p99']:10.2e}{after['kld_p99']:14.2e}"
        )
    print(f"Q8_0: mean KLD {q8:.1e}, limit {Q8_LIMIT}")
    print(
        f"an importance matrix lowers the mean KLD of Q4_K_M {factors['Q4_K_M']:.2f}x, of Q2_K {factors['Q2_K']:.2f}x"
    )
    return 0 if q8 <= Q8_LIMIT and min(factors["Q4_K_M"], factors["Q2_K"]) > 1 else 1


if __name__ == "__main__":
    sys.exit(main())
