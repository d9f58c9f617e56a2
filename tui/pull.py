"""`koala-tui --pull REPO [FILE]`: a model from the Hugging Face Hub onto this machine."""

import asyncio
import time
from pathlib import Path
from typing import TextIO

from . import paths
from .hub import choose, download, find_models, parse_name, size_text
from .text import harmless

BAR_CELLS = 24
TERMINAL_SECONDS, LINE_SECONDS = 0.1, 10.0


def pull(repository: str, wanted: str | None, out: TextIO, err: TextIO, folder: Path | None = None) -> int:
    """Download a model into `folder` (that of all models), print its path to `out` and the progress to `err`.

    `wanted` is a file or a quantization such as Q4_K_M; it may be left out where the repository has only one model.

    Returns:
        The exit code, 0.

    Raises:
        InputError: there is no such model, or it cannot be had.
        EngineError: the hub or the disk failed.
    """
    path = asyncio.run(_pull(repository, wanted, folder or paths.models_folder(), err))
    out.write(f"{harmless(str(path))}\n")
    out.flush()
    return 0


async def _pull(named: str, wanted: str | None, folder: Path, err: TextIO) -> Path:
    repository, in_name = parse_name(named)
    model = choose(await find_models(repository), wanted or in_name)
    err.write(f"download {harmless(f'{repository} {model.name}')} ({size_text(model.size)})\n")
    bar = _Bar(err)
    try:
        header = await download(model, folder, bar.show)
    finally:
        bar.end()
    return header.path


class _Bar:
    """A line that replaces itself in a terminal; elsewhere a line now and then."""

    def __init__(self, err: TextIO) -> None:
        self._err, self._is_terminal = err, err.isatty()
        self._begun = self._said = time.monotonic()
        self._before: int | None = None
        self._shown = False

    def show(self, done: int, total: int) -> None:
        """Say how far it is, unless that was said just now."""
        now = time.monotonic()
        if self._before is None:
            self._before = done
        if now - self._said < (TERMINAL_SECONDS if self._is_terminal else LINE_SECONDS) and done < total:
            return
        self._said = now
        text = f"{100 * done // max(total, 1):3}%  {size_text(done)} of {size_text(total)}"
        rate = (done - self._before) / max(now - self._begun, 1e-3)
        if rate > 0:
            text += f"  {size_text(int(rate))}/s"
            text += f"  {_duration((total - done) / rate)} left" if done < total else ""
        if self._is_terminal:
            filled = BAR_CELLS * done // max(total, 1)
            self._err.write(f"\r\x1b[2K{'━' * filled}{'─' * (BAR_CELLS - filled)} {text}")
        else:
            self._err.write(f"{text.strip()}\n")
        self._err.flush()
        self._shown = True

    def end(self) -> None:
        """Leave the line."""
        if self._is_terminal and self._shown:
            self._err.write("\n")
            self._err.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
