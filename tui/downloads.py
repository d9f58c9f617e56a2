"""Downloads in the making. They go on whatever the screen shows; what has come stays when one is cancelled."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from inference.errors import EngineError

from . import paths

if TYPE_CHECKING:
    from .hub import HubModel

RATE_SECONDS = 5.0  # the rate is that of the last seconds


@dataclass(eq=False)
class Download:
    """One model on its way: `done` of `total` bytes are there. `error` is why it ended, `path` where it is at last."""

    model: "HubModel"
    done: int = 0
    total: int = 0
    error: str = ""
    path: Path | None = None
    task: "asyncio.Task[None] | None" = None
    _seen: list[tuple[float, int]] = field(default_factory=list)

    @property
    def is_running(self) -> bool:
        """Whether more is to come."""
        return self.task is not None and not self.task.done()

    @property
    def rate(self) -> float:
        """Bytes in a second, of late; 0 where it cannot be told yet."""
        if len(self._seen) < 2:
            return 0.0
        (begun, before), (now, done) = self._seen[0], self._seen[-1]
        return (done - before) / max(now - begun, 1e-3)

    @property
    def seconds_left(self) -> float | None:
        """How long it will take at this rate, None where nobody knows."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None

    def note(self, done: int, total: int) -> None:
        """Take down how far it is."""
        now = time.monotonic()
        self.done, self.total = done, total
        self._seen.append((now, done))
        while now - self._seen[0][0] > RATE_SECONDS and len(self._seen) > 2:
            self._seen.pop(0)


class Downloads:
    """All downloads since the app began, the newest last. `say` is given a sentence when one ends, and whether well."""

    def __init__(self, say: Callable[[str, bool], None]) -> None:
        self._say = say
        self.all: list[Download] = []

    def find(self, model: "HubModel") -> Download | None:
        """Return the last download of the model."""
        return next((each for each in reversed(self.all) if each.model == model), None)

    @property
    def running(self) -> list[Download]:
        """Those that are not over."""
        return [each for each in self.all if each.is_running]

    def start(self, model: "HubModel") -> Download:
        """Download the model, or go on where it stopped; return the download that is running already, if one is."""
        before = self.find(model)
        if before is not None:
            if before.is_running:
                return before
            self.all.remove(before)
        download = Download(model, total=model.size)
        download.task = asyncio.create_task(self._run(download))
        self.all.append(download)
        return download

    def cancel(self, download: Download) -> None:
        """End it; what has come stays, and `start` goes on there."""
        if download.is_running:
            download.error = "cancelled; what has come is kept"
            download.task.cancel()

    async def close(self) -> None:
        """End all of them."""
        running = self.running
        for download in running:
            self.cancel(download)
        await asyncio.gather(*(each.task for each in running), return_exceptions=True)

    async def _run(self, download: Download) -> None:
        from . import hub

        try:
            header = await hub.download(download.model, paths.models_folder(), download.note)
        except EngineError as error:
            download.error = str(error)
            self._say(download.error, False)
        else:
            download.path = header.path
            self._say(f"{download.model.name} is downloaded", True)
