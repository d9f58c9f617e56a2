"""Give the files of a conversion their names, and what stands beside them: report, card, picture, Modelfile."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets_cfg.files import sync

from .plot import draw
from .report import Report, as_json, as_markdown

REPORT, REPORT_TEXT, PICTURE, MODELFILE = "report.json", "report.md", "size_kld.png", "Modelfile"


def publish(
    report: Report,
    beside: Mapping[str, str],
    work: Path,
    out: Path,
    *,
    more: Sequence[str] = (),
    prefix: str = "",
) -> None:
    """Write the texts beside the GGUFs in `work`, put all on the disk, and move them into `out` by renames.

    The GGUFs come first, so that a text never speaks of a file that is not there.

    Args:
        report: names the GGUFs.
        beside: other texts by the names of their files.
        work: where they lie.
        out: where they go.
        more: names of other files in `work` that go too.
        prefix: before the names of the report's files, where they are not the folder's only ones.
    """
    picture_name = f"{prefix}{PICTURE}"
    names = [*(name for file in report.files for name in file.names), *more]
    picture = _picture(report, work / picture_name)
    texts = {
        f"{prefix}{REPORT}": as_json(report),
        f"{prefix}{REPORT_TEXT}": as_markdown(report, plot=picture_name if picture else None),
        **beside,
    }
    for name, text in texts.items():
        (work / name).write_text(text, encoding="utf-8")
    written = [*names, *([picture_name] if picture else []), *texts]
    for name in written:
        sync(work / name)
        (work / name).replace(out / name)
    for path in _replaced(report, out, prefix):
        if path.name not in written:
            path.unlink(missing_ok=True)
    handle = os.open(out, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replaced(report: Report, out: Path, prefix: str) -> list[Path]:
    """What an earlier conversion of the same model may have left that this one stands for, and would contradict."""
    found = [out / f"{prefix}{PICTURE}"]
    if not prefix:
        found.append(out / MODELFILE)
    for file in report.files:
        whole = f"{prefix or f'{report.name}-'}{file.file_type}"
        parts = re.compile(rf"{re.escape(whole)}(-\d{{5}}-of-\d{{5}})?\.gguf")
        found += [path for path in out.iterdir() if parts.fullmatch(path.name)]
    return found


def _picture(report: Report, path: Path) -> bool:
    """Draw size against KLD if any file was compared; return whether there is a picture."""
    points = [(file.file_type, file.size, file.divergence.kld) for file in report.files if file.divergence]
    if not points:
        return False
    own = next((file for file in report.files if file.speed and not file.divergence), None)
    draw(path, points, unquantized=own and (own.file_type, own.size))
    return True
