import json
import sys
from pathlib import Path

import pytest

from inference.load_options import LoadOptions
from inference.local import LocalEngine
from inference.worker_process import WORKER_COMMAND
from tests.tiny_gguf import CHATML_TEMPLATE, REPLY_TOKENS, write_tiny_gguf

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """`koala` and `chatml` give a fixed reply in two prompt formats; `babble` never ends."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "koala": write_tiny_gguf(folder / "koala.gguf", reply=REPLY_TOKENS),
        "chatml": write_tiny_gguf(
            folder / "chatml.gguf", template=CHATML_TEMPLATE, reply=REPLY_TOKENS, after=b"\n", add_bos=False
        ),
        "babble": write_tiny_gguf(folder / "babble.gguf", n_ctx=8192),
    }


def fake_worker(**script) -> tuple[str, ...]:
    """Return the command of a worker without a model that follows the script (see fake_worker.py)."""
    return (sys.executable, str(Path(__file__).parent / "fake_worker.py"), str(ROOT), json.dumps(script))


@pytest.fixture
async def start():
    """Start engines with these load options, with one thread, and close them after the test."""
    engines = []

    async def start_engine(path="unused.gguf", *, command=WORKER_COMMAND, **options) -> LocalEngine:
        engines.append(await LocalEngine.start(path, LoadOptions(n_threads=1, **options), command=command))
        return engines[-1]

    yield start_engine
    for engine in engines:
        await engine.close()
