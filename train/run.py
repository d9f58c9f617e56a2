"""The output folder of a run: what is in it while it trains, and how the finished model gets there whole."""

import json
import re
import shutil
from pathlib import Path

from datasets_cfg.errors import BadInput, one_line
from datasets_cfg.files import sync

CARD = "koala.json"
"""Stands in a folder whose run has ended well: recipe, mixture, seed, versions."""

UNFINISHED = ".unfinished.json"
"""Stands in a folder whose run has begun: what must not change when it is resumed."""

STAGED = ".saving"
"""In the output folder: where the finished model is saved before it is moved."""

SEAL = ".whole.json"
"""Stands in a checkpoint that is whole: its files and their sizes in bytes."""


def resume_point(out: Path, identity: dict, *, overwrite: bool) -> Path | None:
    """The newest whole checkpoint in `out` from which a run with this `identity` goes on; None where it begins.

    Nothing is written.

    Raises:
        BadInput: the folder holds a finished model, another run, or something else, and `overwrite` is false.
    """
    if out.is_file():
        raise BadInput(f"{out} is a file; name a folder for the output")
    begun = _begun(out)
    if begun == identity:
        return next((checkpoint for checkpoint in _newest_first(out) if is_whole(checkpoint)), None)
    if overwrite or not out.is_dir() or not any(out.iterdir()):
        return None
    if begun is None:
        finished = (out / CARD).is_file()
        raise BadInput(
            f"the output folder {out} {'holds a finished model' if finished else 'is not empty'}; "
            "choose another output_dir or pass --overwrite"
        )
    changed = [key for key in identity if begun.get(key) != identity[key]]
    raise BadInput(
        f"{out} holds an unfinished run with another {' and '.join(changed)} "
        f"({', '.join(f'{_short(begun.get(key))} there, {_short(identity[key])} here' for key in changed)}); "
        "choose another output_dir, or pass --overwrite to start over"
    )


def _short(value: object) -> str:
    """A digest is told from another by its beginning."""
    text = str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text


def claim(out: Path, identity: dict) -> None:
    """Make `out` the folder of the run with this `identity`.

    Checkpoints of another run are removed, and so are those that a killed run did not finish writing.
    """
    out.mkdir(parents=True, exist_ok=True)
    same = _begun(out) == identity
    shutil.rmtree(out / STAGED, ignore_errors=True)
    for checkpoint in _newest_first(out):
        if not (same and is_whole(checkpoint)):
            _remove_checkpoint(checkpoint)
    if not same:
        _write(out / UNFINISHED, json.dumps(identity, indent=2))


def seal(checkpoint: Path) -> None:
    """Put all files of a checkpoint on the disk, then say that it is whole: their sizes, in `SEAL`."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    for path in files:
        sync(path)
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
    _write(checkpoint / SEAL, json.dumps(sizes, indent=2))


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was sealed and its files are still as long as they were."""
    try:
        sizes = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def remove_older_checkpoints(out: Path, limit: int, *, spare: str | None = None) -> None:
    """Keep the newest `limit` whole checkpoints in `out`, and the one that `spare` names."""
    whole = [checkpoint for checkpoint in _newest_first(out) if is_whole(checkpoint)]
    for checkpoint in whole[limit:]:
        if spare is None or checkpoint.name != Path(spare).name:
            _remove_checkpoint(checkpoint)


def _newest_first(out: Path) -> list[Path]:
    """The checkpoints in `out`, whole or not, that of the last step first."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in out.glob("checkpoint-*") if path.is_dir()}
    return sorted((path for path, step in steps.items() if step.isdigit()), key=lambda path: -int(steps[path]))


def _remove_checkpoint(checkpoint: Path) -> None:
    # Without its seal first, so that what a killed removal leaves is no checkpoint.
    (checkpoint / SEAL).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def _write(file: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    partial.rename(file)
    sync(file.parent)


def _begun(out: Path) -> dict | None:
    """The identity of the run that has begun in `out` and not ended, if there is one."""
    marker = out / UNFINISHED
    if not marker.is_file():
        return None
    try:
        return json.loads(marker.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(
            f"{marker} is not valid JSON ({one_line(error)}), so the run in {out} cannot be resumed; "
            "remove that file, or choose another output_dir"
        ) from error


def finish(out: Path, staged: Path, card: dict) -> None:
    """Move the model that was saved in `staged` into `out`, and remove what the run needed.

    `config.json` (or an adapter's) is taken away first and comes back last: at no moment can a mixture of two models
    be loaded.
    """
    if not list(staged.glob("*.safetensors")):
        raise RuntimeError(f"no weights were saved in {staged}")
    (staged / "training_args.bin").unlink(missing_ok=True)  # a pickle; koala.json says the same and more
    (staged / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    files = sorted(path for path in staged.iterdir() if path.is_file())
    for path in files:
        sync(path)
    configs = ("config.json", "adapter_config.json")
    for name in configs:
        (out / name).unlink(missing_ok=True)
    for stale in [*out.glob("*.safetensors"), *out.glob("*.safetensors.index.json")]:
        stale.unlink()
    for path in sorted(files, key=lambda path: path.name in configs):
        path.rename(out / path.name)
    shutil.rmtree(staged)
    (out / UNFINISHED).unlink()
