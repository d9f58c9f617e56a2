"""Whether what a run writes fits on the disk, before it begins."""

import shutil
from pathlib import Path

from datasets_cfg.errors import BadInput


def check_space(out: Path, parameters: int, trained: int, args) -> None:
    """Refuse a run whose checkpoints and finished model do not fit beside what is on the disk of `out`.

    Args:
        out: the output folder, which need not exist.
        parameters: of the model; trained: those of them, or of its adapters, that are trained.
        args: the SFTConfig.

    Raises:
        BadInput: less is free than is needed.
    """
    finished = 4 * trained if trained < parameters else parameters * (4 if args.mixed_precision == "no" else 2)
    checkpoints = 0
    if args.save_strategy != "no":
        checkpoints = (args.save_total_limit or 1) + 1  # a new one is whole before an old one goes
    needed = finished + checkpoints * 12 * trained  # weights and the two states of Adam in float32
    there = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(there).free + sum(f.stat().st_size for f in out.glob("checkpoint-*/**/*") if f.is_file())
    if free < needed:
        raise BadInput(
            f"the disk of {out} has room for {free / 1e9:,.1f} GB, and this run needs about {needed / 1e9:,.1f} GB for "
            f"{checkpoints} checkpoints and the model; make room, lower save_total_limit, or choose another output_dir"
        )
