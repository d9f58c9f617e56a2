"""A program in a pseudo-terminal, watched from outside: what it has written, and when."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Sequence
from types import TracebackType

READ_BYTES = 2**16


class Terminal:
    """A running program on a terminal of `columns` × `rows`; everything that it writes is read at once and kept.

    `begun` is the `time.perf_counter()` at which it was started.
    """

    def __init__(self, command: Sequence[str], columns: int = 120, rows: int = 36, **environment: str) -> None:
        self.written = bytearray()
        self.begun = time.perf_counter()
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], list(command), {**os.environ, "TERM": "xterm-256color", **environment})
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)

    def type(self, text: str) -> None:
        """Send keys as a terminal sends them."""
        os.write(self._terminal, text.encode())

    def read(self, seconds: float) -> None:
        """Read what the program writes for this long."""
        deadline = time.perf_counter() + seconds
        while (rest := deadline - time.perf_counter()) > 0:
            self._take(rest)

    def seconds_until(self, text: str, limit: float = 60) -> float:
        """Read until `text` is among what was written since the call; return the seconds that it took.

        Raises:
            TimeoutError: it was not written within the limit.
        """
        begun, start, wanted = time.perf_counter(), len(self.written), text.encode()
        while wanted not in self.written[max(0, start - len(wanted)) :]:
            if time.perf_counter() - begun > limit:
                raise TimeoutError(f"{text!r} was not written within {limit} s; the last: {self.written[-300:]!r}")
            self._take(0.5)
        return time.perf_counter() - begun

    def _take(self, seconds: float) -> None:
        if select.select([self._terminal], [], [], seconds)[0]:
            try:
                self.written += os.read(self._terminal, READ_BYTES)
            except OSError as error:
                raise RuntimeError(f"the program has ended: {self.written[-2000:].decode(errors='replace')}") from error
