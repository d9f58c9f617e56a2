"""Give the files of a conversion their names, and what stands beside them: report, card, picture, Modelfile."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets_cfg.files import sync

from .plot import draw
from .report import Report, as_json, as_markdown

REPORT, REPORT_TEXT, PICTURE = "report.json", "report.md", "size_kld.png"


def publish(report: Report, beside: Mapping[str, str], work: Path, out: Path, *, more: Sequence[str] = ()) -> None:
    """Write the texts beside the GGUFs in `work`, put all on the disk, and move them into `out` by renames.

    The GGUFs come first, so that a text never speaks of a file that is not there.

    Args:
        report: names the GGUFs.
        beside: other texts by the names of their files.
        work: where they lie.
        out: where they go.
        more: names of other files in `work` that go too.
    """
    names = [*(name for file in report.files for name in file.names), *more]
    picture = _picture(report, work / PICTURE)
    texts = {
        REPORT: as_json(report),
        REPORT_TEXT: as_markdown(report, plot=PICTURE if picture else None),
        **beside,
    }
    for name, text in texts.items():
        (work / name).write_text(text, encoding="utf-8")
    if not picture:
        (out / PICTURE).unlink(missing_ok=True)  # of an earlier conversion that this one replaces
    for name in [*names, *([PICTURE] if picture else []), *texts]:
        sync(work / name)
        (work / name).replace(out / name)
    handle = os.open(out, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _picture(report: Report, path: Path) -> bool:
    """Draw size against KLD if any file was compared; return whether there is a picture."""
    points = [(file.file_type, file.size, file.divergence.kld) for file in report.files if file.divergence]
    if not points:
        return False
    own = next((file for file in report.files if file.speed and not file.divergence), None)
    draw(path, points, unquantized=own and (own.file_type, own.size))
    return True
