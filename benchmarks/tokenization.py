"""How fast a mixture is tokenized, beside TRL's own preparation of the same rows, and whether both give the same.

    KOALA_REAL_DATA=… python benchmarks/tokenization.py

The rows are the first 20,000 of koala_all (without WebGPT) built from the real rows. TRL is timed in the SFTTrainer's
own `_prepare_dataset`, with `messages`, the Koala template and `assistant_only_loss=True`; ours from the mixture's
files to Parquet files with everything in between, the start of processes included. Each has its tokenizer loaded. The
best of several runs counts.

(This file is not called tokenize.py: beside the other scripts, it would be found in place of Python's own `tokenize`.)
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pyarrow.parquet as pq

LENGTH = 2048
ROWS = 20_000


def main() -> int:
    """Build the mixture, time both, compare what they made, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="of each (default %(default)s)")
    parser.add_argument(
        "--tokenizers", nargs="+", default=["llama", "llama3"], help="names in tokenizers/hf (default %(default)s)"
    )
    options = parser.parse_args()
    if not os.environ.get("KOALA_REAL_DATA"):
        print("error: set KOALA_REAL_DATA to the folder with real rows and tokenizers", file=sys.stderr)
        return 2
    real = Path(os.environ["KOALA_REAL_DATA"]).resolve()
    import trl

    print(
        f"{ROWS:,} real rows, at most {LENGTH} tokens; {os.cpu_count()} cores ({processor()}), "
        f"Python {platform.python_version()}, trl {trl.__version__}"
    )
    unexplained = 0
    with tempfile.TemporaryDirectory() as scratch:
        mixture = first_rows(build(real, Path(scratch) / "built"), Path(scratch) / "mixture")
        for name in options.tokenizers:
            unexplained += compare(mixture, real / "tokenizers" / "hf" / name, options.runs, Path(scratch) / name)
    return 1 if unexplained else 0


def compare(mixture: Path, tokenizer_folder: Path, runs: int, scratch: Path) -> int:
    """Time both with one tokenizer and compare the rows; returns how many differ for no known reason."""
    from datasets_cfg.base_tokenizer import load_tokenizer
    from datasets_cfg.prompt import control_tokens
    from datasets_cfg.tokenization import tokenized

    tokenizer = load_tokenizer(str(tokenizer_folder))
    timed: dict[str, tuple[float, float]] = {}
    for run in range(runs):
        for processes in (1, 2):
            seconds, theirs = by_trl(mixture, str(tokenizer_folder), processes)
            best(timed, f"TRL, {processes} process{'es' * (processes > 1)}", seconds)
        for processes in (1, 2):
            begun = clock()
            ours = tokenized(
                mixture, tokenizer, LENGTH, processes=processes, quiet=True, out=scratch / f"{run}-{processes}"
            )
            best(timed, f"datasets_cfg, {processes} process{'es' * (processes > 1)}", since(begun))

    print(f"\n{tokenizer_folder.name} ({ours.record['splits']['train']['tokens']:,} tokens)")
    print(f"{'':26} {'seconds':>8} {'of CPU':>8} {'rows/s':>8} {'ratio':>6}")
    for title, (seconds, of_cpu) in timed.items():
        # Against TRL with as many processes.
        against = timed[f"TRL, {title.partition(', ')[2]}"][0]
        print(f"{title:26} {seconds:8.2f} {of_cpu:8.2f} {ROWS / seconds:8,.0f} {against / seconds:6.1f}")
    ratio = timed["TRL, 1 process"][0] / timed["datasets_cfg, 2 processes"][0]
    print(f"2 processes against TRL as it comes (1 process): {ratio:.1f}")

    found = judge(mixture, ours.files("train"), theirs, control_tokens(tokenizer))
    for verdict, count in found.items():
        print(f"{count:8,} rows {verdict}")
    return found["differ for no known reason"]


def judge(mixture: Path, files: list[Path], theirs, control: frozenset[str]) -> dict[str, int]:
    """How many rows are the same in our files and TRL's dataset, and why the others are not."""
    ours = {row["id"]: row for file in files for row in pq.read_table(file).to_pylist()}
    trl = {row["id"]: row for row in theirs.select_columns(["id", "input_ids", "labels"])}
    identical = "have identical input_ids and labels"
    spelled = "differ because a message spells a control token, which TRL obeys"
    cut = f"exceed {LENGTH} tokens: ours end with their last whole answer, TRL's wherever the limit falls"
    left_out = f"have no whole answer within {LENGTH} tokens: ours are left out"
    unknown = "differ for no known reason"
    counts = dict.fromkeys((identical, spelled, cut, left_out, unknown), 0)
    for conversation in pq.read_table(mixture / "train-00000.parquet", columns=["id", "messages"]).to_pylist():
        our, their = ours.get(conversation["id"]), trl.get(conversation["id"])
        at_limit = their is None or len(their["input_ids"]) == LENGTH
        if our and their and (our["input_ids"], our["labels"]) == (their["input_ids"], their["labels"]):
            counts[identical] += 1
        elif any(token in message["content"] for message in conversation["messages"] for token in control):
            counts[spelled] += 1
        elif (
            our
            and their
            and at_limit
            and all(our[name] == their[name][: len(our["input_ids"])] for name in ("input_ids", "labels"))
        ):
            counts[cut] += 1
        elif our is None and at_limit:
            counts[left_out] += 1
        else:
            counts[unknown] += 1
    return counts


def by_trl(mixture: Path, tokenizer_folder: str, processes: int):
    """(seconds, of CPU) of TRL's preparation, and the dataset that it makes."""
    import datasets
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging
    from trl import SFTConfig, SFTTrainer

    from datasets_cfg.base_tokenizer import load_tokenizer
    from train.mixture import load_split

    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    datasets.disable_caching()
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    spent: list[tuple[float, float]] = []

    class Timed(SFTTrainer):
        def _prepare_dataset(self, *args, **kwargs):
            begun = clock()
            prepared = super()._prepare_dataset(*args, **kwargs)
            spent.append(since(begun))
            return prepared

    size = dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size"), 8)
    with tempfile.TemporaryDirectory() as out:
        trainer = Timed(
            model=LlamaForCausalLM(LlamaConfig(**size, num_hidden_layers=1, num_attention_heads=1)),
            args=SFTConfig(
                output_dir=out,
                max_length=LENGTH,
                assistant_only_loss=True,
                dataset_num_proc=processes if processes > 1 else None,
                shuffle_dataset=False,
                use_cpu=True,
                bf16=False,
                report_to="none",
            ),
            train_dataset=load_split(mixture, "train"),
            processing_class=tokenizer,
        )
    return spent[0], trainer.train_dataset


def clock() -> tuple[float, float]:
    """Now, and the seconds of CPU of this process and those that it has waited for."""
    times = os.times()
    return time.perf_counter(), times.user + times.system + times.children_user + times.children_system


def since(begun: tuple[float, float]) -> tuple[float, float]:
    """Seconds, and seconds of CPU."""
    now = clock()
    return now[0] - begun[0], now[1] - begun[1]


def best(timed: dict[str, tuple[float, float]], title: str, seconds: tuple[float, float]) -> None:
    """Keep the shorter of two runs."""
    timed[title] = min(timed.get(title, seconds), seconds)


def build(real: Path, out: Path) -> Path:
    """koala_all of the real rows."""
    command = ["build", "koala_all", "--skip", "webgpt", "--raw-dir", real, "--drop-malformed", "--out", out, "--quiet"]
    subprocess.run([sys.executable, "-m", "datasets_cfg", *map(str, command)], check=True)
    return out


def first_rows(built: Path, folder: Path) -> Path:
    """The first training conversations of a mixture, as a mixture."""
    folder.mkdir()
    table = pq.read_table(built / "train-00000.parquet").slice(0, ROWS)
    if len(table) < ROWS:
        raise SystemExit(f"error: the real rows make {len(table):,} conversations only")
    pq.write_table(table, folder / "train-00000.parquet", compression="zstd")
    manifest = json.loads((built / "manifest.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256((folder / "train-00000.parquet").read_bytes()).hexdigest()
    manifest["content_sha256"] = digest
    manifest["splits"] = {
        "train": {"conversations": ROWS, "files": {"train-00000.parquet": digest}},
        "eval": {"conversations": 0, "files": {}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def processor() -> str:
    """The name of the processor, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
