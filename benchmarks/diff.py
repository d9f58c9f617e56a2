"""How fast weight diffs are made and applied, and in how much memory, beside the way in which such diffs were released.

    python benchmarks/diff.py

The checkpoint is random, in bfloat16, of about a gigabyte in four files; the tuned one is the base with a small normal
difference, as fine-tuning makes it. The reference is written as the release scripts of 2023 work: load both models
whole, subtract (or add) tensor by tensor in floating point, save; it has no checksums, and its round trip is not exact.
A copy of the tuned model's files is timed as well. All of them put their files on the disk before the clock stops
(fsync). Each runs in a process of its own, libraries loaded beforehand; the best of several runs counts; files that are
read lie in the system's cache.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WIDTH = 2048


def main() -> int:
    """Make the checkpoints, time everything, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the checkpoint (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the files go for a while (default: the system's)")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, folder = options.measure
        print(json.dumps(measure(WORK[what], Path(folder))))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        size = write_checkpoints(folder, options.gigabytes)
        print(
            f"{size / 1e9:.2f} GB of bfloat16 in 4 files; {os.cpu_count()} cores ({processor()}), "
            f"Python {platform.python_version()}\n"
        )
        # In turns, so that whatever else the machine does meets all alike.
        runs = [{what: in_child(what, folder) for what in WORK} for _ in range(options.runs)]
        best = {what: min(run[what] for run in runs) for what in WORK}
        print(f"{'':20} {'seconds':>8} {'of CPU':>7} {'GB/s':>6} {'times reference':>16} {'memory, MB':>11}")
        for what, (seconds, of_cpu, memory) in best.items():
            reference = best["make, reference" if what.startswith("make") else "apply, reference"][0]
            ratio = "" if what == "copy" else f"{seconds / reference:.2f}"
            print(
                f"{what:20} {seconds:8.2f} {of_cpu:7.2f} {size / seconds / 1e9:6.2f} {ratio:>16} {memory / 1e6:11,.0f}"
            )
        print("\nGB/s: of the tuned model's weights. Memory: the most above what the libraries take.")
        compressed = sum(file.stat().st_size for file in (folder / "compressed").glob("*.safetensors"))
        print(f"Compressed: {compressed / size:.2f} of the size.")
        exact, restored = (
            same(folder / "tuned", folder / "applied"),
            same(folder / "tuned", folder / "reference_applied"),
        )
        print(f"Tensors that came back to the bit: {exact:.0%}; with the reference {restored:.0%}.")
    return 0 if exact == 1 else 1


def write_checkpoints(folder: Path, gigabytes: float) -> int:
    """`base` and `tuned` in the folder; returns the bytes of one of them."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    count = max(4, round(gigabytes * 1e9 / (2 * WIDTH * WIDTH)))
    names = [f"model.layers.{number}.weight" for number in range(count)]
    for kind in ("base", "tuned"):
        (folder / kind).mkdir()
        (folder / kind / "config.json").write_text("{}")
    weight_map = {}
    for shard in range(4):
        file = f"model-{shard + 1:05}-of-00004.safetensors"
        base = {name: torch.randn(WIDTH, WIDTH).mul_(0.02) for name in names[shard::4]}
        tuned = {name: weights + torch.randn(WIDTH, WIDTH).mul_(3e-4) for name, weights in base.items()}
        for kind, tensors in (("base", base), ("tuned", tuned)):
            save_file({name: weights.bfloat16() for name, weights in tensors.items()}, folder / kind / file)
        weight_map |= dict.fromkeys(base, file)
    for kind in ("base", "tuned"):
        (folder / kind / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return count * WIDTH * WIDTH * 2


def copy(folder: Path) -> None:
    """The tuned model's files, copied."""
    shutil.copytree(folder / "tuned", folder / "copied")
    synced(folder / "copied")


def reference(folder: Path, first: str, second: str, out: str, sign: int) -> None:
    """`first + sign * second` as the release scripts of 2023 do it: both whole in memory, in floating point."""
    from safetensors.torch import load_file, save_file

    model = {file.name: load_file(file) for file in sorted((folder / first).glob("*.safetensors"))}
    other = {
        name: weights for file in (folder / second).glob("*.safetensors") for name, weights in load_file(file).items()
    }
    (folder / out).mkdir()
    for file, tensors in model.items():
        for name, weights in tensors.items():
            weights.add_(other[name], alpha=sign)
        save_file(tensors, folder / out / file)
    synced(folder / out)


def ours(command: str, folder: Path, *arguments: str) -> None:
    """`python -m convert diff`, in this process."""
    from convert.diff.command import main as diff

    paths = [value if value.startswith("--") else str(folder / value) for value in arguments]
    if diff([command, *paths, "--quiet"]):
        raise SystemExit(f"error: {command} failed")


WORK: dict[str, Callable[[Path], None]] = {
    "copy": copy,
    "make, reference": lambda folder: reference(folder, "tuned", "base", "reference", -1),
    "make": lambda folder: ours("make", folder, "--base", "base", "--tuned", "tuned", "--out", "diff"),
    "make --compress": lambda folder: ours(
        "make", folder, "--base", "base", "--tuned", "tuned", "--out", "compressed", "--compress"
    ),
    "apply, reference": lambda folder: reference(folder, "reference", "base", "reference_applied", 1),
    "apply": lambda folder: ours("apply", folder, "--base", "base", "--diff", "diff", "--out", "applied"),
    "apply, compressed": lambda folder: ours(
        "apply", folder, "--base", "base", "--diff", "compressed", "--out", "applied_compressed"
    ),
}
OUTPUTS = {
    "copy": "copied",
    "make, reference": "reference",
    "make": "diff",
    "make --compress": "compressed",
    "apply, reference": "reference_applied",
    "apply": "applied",
    "apply, compressed": "applied_compressed",
}


def in_child(what: str, folder: Path) -> tuple[float, float, int]:
    """Seconds, seconds of CPU, and bytes of memory, of one of `WORK` in a process of its own."""
    shutil.rmtree(folder / OUTPUTS[what], ignore_errors=True)
    # What earlier runs left to be written must not be counted here.
    os.sync()
    child = [sys.executable, __file__, "--measure", what, str(folder)]
    return tuple(json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout))


def measure(work: Callable[[Path], None], folder: Path) -> tuple[float, float, int]:
    """Seconds, seconds of CPU, and the bytes by which the process's memory rose."""
    import safetensors.torch  # noqa: F401

    import convert.diff.make_apply  # noqa: F401

    before = most_memory()
    begun, begun_cpu = time.perf_counter(), time.process_time()
    work(folder)
    return time.perf_counter() - begun, time.process_time() - begun_cpu, most_memory() - before


def most_memory() -> int:
    """The most bytes that this process has had in memory (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def synced(folder: Path) -> None:
    """Wait until the files are on the disk."""
    from datasets_cfg.files import sync

    for file in folder.iterdir():
        sync(file)


def same(folder: Path, other: Path) -> float:
    """The share of the tensors that are the same in both folders, to the bit."""
    import torch
    from safetensors.torch import load_file

    equal = [
        torch.equal(weights.view(torch.int16), others[name].view(torch.int16))
        for file in sorted(folder.glob("*.safetensors"))
        for others in [load_file(other / file.name)]
        for name, weights in load_file(file).items()
    ]
    return sum(equal) / len(equal)


def processor() -> str:
    """The name of the processor, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
