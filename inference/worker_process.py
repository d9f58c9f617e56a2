"""The worker process as its parent sees it: requests go in, and each gets its own events back."""

import asyncio
import itertools
import json
import signal
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import EngineError
from .events import Event, Failed, from_line

# The package is found where this file lies, and never in the working directory, which may hold anything.
WORKER_COMMAND = (
    sys.executable,
    "-c",
    "import sys; sys.path[:] = [sys.argv.pop(1), *filter(None, sys.path)]; import inference.worker as w; w.main()",
    str(Path(__file__).resolve().parent.parent),
)
LINE_LIMIT = 64 * 2**20  # bytes; asyncio's own limit would break on the ids of a long prompt
CLOSE_SECONDS = 6.0  # a little more than the worker takes to put away what it has read (see `worker`)
LAST_WORDS_SECONDS = 0.5
KEPT_STDERR_LINES = 40


class Request:
    """Something asked of the worker, and the events of the answer in their order. `close` it when it is answered."""

    def __init__(self, worker: "WorkerProcess", number: int) -> None:
        self._worker, self._number = worker, number
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    async def next(self) -> Event:
        """Return the next event.

        Raises:
            InputError: the request cannot be fulfilled as it is.
            EngineError: the worker failed or died.
        """
        event = await self._events.get()
        if isinstance(event, Failed):
            raise event.error()
        return event

    def put(self, event: Event) -> None:
        """Take an event that the worker sent."""
        self._events.put_nowait(event)

    def stop(self) -> None:
        """Ask the worker to end the answer early."""
        self._worker.write({"request": self._number, "type": "stop"})

    def close(self) -> None:
        """Let go of the answer; what is still to come of it is dropped."""
        self._worker.forget(self._number)


class WorkerProcess:
    """A running worker. `death` is a sentence once it has ended; whatever was asked then fails with it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.stderr: deque[str] = deque(maxlen=KEPT_STDERR_LINES)
        self.death: str | None = None
        self._numbers = itertools.count(1)
        self._open: dict[int, Request] = {}
        self._closing = False
        self._stderr_reader = asyncio.create_task(self._keep_stderr())
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, command: Sequence[str]) -> "WorkerProcess":
        """Start the process.

        Raises:
            EngineError: it cannot be started.
        """
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=pipe, limit=LINE_LIMIT
            )
        except OSError as error:
            raise EngineError(f"the model's process cannot be started: {error.strerror or error}") from error
        return cls(process)

    def ask(self, kind: str, **values: Any) -> Request:
        """Send a request of this kind and return it, ready for its events to be read."""
        number = next(self._numbers)
        request = self._open[number] = Request(self, number)
        if self.death is not None:
            request.put(Failed(self.death))
        self.write({"request": number, "type": kind, **values})
        return request

    def write(self, values: dict[str, Any]) -> None:
        """Send one line, where there is still somebody to read it."""
        # A dead worker is reported by `_listen`; the pipe's own complaint would only come first.
        if self.death is None and not self.process.stdin.is_closing():
            self.process.stdin.write(json.dumps(values).encode() + b"\n")

    def forget(self, number: int) -> None:
        """Drop whatever else comes for the request with this number."""
        self._open.pop(number, None)

    async def close(self) -> None:
        """End the process, by force if it does not go by itself."""
        self._closing = True
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), CLOSE_SECONDS)
        except asyncio.TimeoutError:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        await asyncio.wait([self._listener], timeout=2 * LAST_WORDS_SECONDS)
        self._listener.cancel()
        self._stderr_reader.cancel()

    async def _listen(self) -> None:
        problem = ""
        try:
            while line := await self.process.stdout.readline():
                number, event = from_line(line)
                if number in self._open:
                    self._open[number].put(event)
        except (EngineError, ValueError) as error:
            problem = str(error)
            with suppress(ProcessLookupError):
                self.process.kill()
        code = await self.process.wait()
        await asyncio.wait([self._stderr_reader], timeout=LAST_WORDS_SECONDS)
        if hasattr(signal, "SIGVTALRM") and code == -signal.SIGVTALRM:  # see `bounded`
            ending = "the model's chat template never comes to an end; name another one (--template)"
        else:
            ending = f"the model's process {self._ending(code)}; send the message again and it starts anew"
        self.death = problem or ("the engine is closed" if self._closing else ending)
        for request in self._open.values():
            request.put(Failed(self.death))

    def _ending(self, code: int) -> str:
        if code == -signal.SIGKILL:
            return "was killed, perhaps because the memory ran out"
        assertion = next((line for line in self.stderr if "GGML_ASSERT" in line), "")
        if code < 0:
            return f"crashed ({signal.Signals(-code).name}{', ' + assertion if assertion else ''})"
        last = next((line for line in reversed(self.stderr) if line.strip()), "")
        return f"ended unexpectedly with code {code}{': ' + last.strip() if last else ''}"

    async def _keep_stderr(self) -> None:
        # By chunks: a line without an end must not stop the process that writes it.
        rest = ""
        while chunk := await self.process.stderr.read(2**16):
            *lines, rest = (rest + chunk.decode("utf-8", errors="replace")).split("\n")
            self.stderr.extend(lines)
            rest = rest[-1000:]
        if rest:
            self.stderr.append(rest)
