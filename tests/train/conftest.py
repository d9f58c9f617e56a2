"""One run of each kind that nothing disturbs, for all tests that hold another against it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..conftest import succeed
from .runs import environment, flags, launched


@dataclass(frozen=True)
class Run:
    out: Path
    stdout: str


@pytest.fixture(scope="session")
def straight(mixture, base, tmp_path_factory) -> Callable[[str, int], Run]:
    """Twelve steps without interruption, by kind ("full", "lora") and number of processes."""
    done: dict[tuple[str, int], Run] = {}

    def run(kind: str, processes: int) -> Run:
        if (kind, processes) not in done:
            out = tmp_path_factory.mktemp("straight") / f"{kind}-{processes}"
            command = launched(*flags(kind, processes, mixture, base, out), processes=processes)
            done[kind, processes] = Run(out, succeed(*command, env=environment()).stdout)
        return done[kind, processes]

    return run
