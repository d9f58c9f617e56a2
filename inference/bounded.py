"""A limit on the time and the memory that foreign code, a model's chat template, may take.

In the main thread of a Unix process a timer of processor time ticks, and its signal ends the code at the next
step of the interpreter. Elsewhere (other threads, Windows) the interpreter's tracing does the same, line by line,
which makes the code several times slower. Windows tells nothing about memory here.

A single step of the interpreter that takes long, such as comparing lists of lists of lists, can be ended by neither.
A process that has nothing to lose sets `dies_when_stuck`: the system then ends it with SIGVTALRM.
"""

import mmap
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TICK_SECONDS = 0.05
STUCK_FACTOR = 4
STATM = Path("/proc/self/statm")

dies_when_stuck = False


class LimitExceeded(BaseException):
    """The limit is reached. No `except Exception` on the way may swallow it; the message says which limit."""


@contextmanager
def bounded(seconds: float, memory: int) -> Iterator[None]:
    """Raise `LimitExceeded` in the body once it took `seconds` of processor time or `memory` bytes more than before."""
    held = _memory()

    def check(spent: float) -> None:
        if spent > seconds:
            raise LimitExceeded(f"it is not done after {seconds:g} seconds")
        if _memory() - held > memory:
            raise LimitExceeded(f"it takes more than {memory // 2**20:,} MB of memory")

    with _ticking(check, seconds) if _Timer.usable() else _tracing(check):
        yield


class _Timer:
    """The process's one timer of processor time; `check` is None while nobody is watched."""

    check: Callable[[float], None] | None = None
    started = 0.0

    @classmethod
    def usable(cls) -> bool:
        """Tell whether this is the main thread, and nobody else, such as a profiler, uses the timer."""
        return (
            hasattr(signal, "setitimer")
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGPROF) in (signal.SIG_DFL, cls.tick)
            and cls.check is None
        )

    @classmethod
    def tick(cls, _signal: int, _frame: object) -> None:
        if cls.check is not None:
            cls.check(time.process_time() - cls.started)


@contextmanager
def _ticking(check: Callable[[float], None], seconds: float) -> Iterator[None]:
    # Nobody handles this second timer's signal, so it ends the process.
    last_resort = dies_when_stuck and signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL
    # The handler stays: a tick that is still on its way when the timer is switched off would else end the process.
    signal.signal(signal.SIGPROF, _Timer.tick)
    _Timer.check, _Timer.started = check, time.process_time()
    signal.setitimer(signal.ITIMER_PROF, TICK_SECONDS, TICK_SECONDS)
    if last_resort:
        signal.setitimer(signal.ITIMER_VIRTUAL, STUCK_FACTOR * seconds)
    try:
        yield
    finally:
        _Timer.check = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        if last_resort:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)


@contextmanager
def _tracing(check: Callable[[float], None]) -> Iterator[None]:
    before, started = sys.gettrace(), time.thread_time()
    due = started

    def trace(_frame: object, _event: str, _argument: object) -> Callable:
        nonlocal due
        now = time.thread_time()
        if now >= due:
            due = now + TICK_SECONDS
            check(now - started)
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _memory() -> int:
    """Return the bytes that this process holds in memory; on macOS the most that it ever held, elsewhere 0."""
    try:
        return int(STATM.read_text().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if sys.platform == "darwin" else 0
