import asyncio
import time
from functools import partial
from pathlib import Path

import pytest

from inference.gguf_header import GGUFHeader, read_header
from inference.load_options import LoadOptions
from inference.local import LocalEngine
from inference.sampling import Sampling
from tests.inference.conftest import fake_worker
from tests.tiny_gguf import REPLY_TOKENS, write_tiny_gguf
from tui.app import KoalaApp


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """`koala` gives a fixed reply; `babble` never ends."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "koala": write_tiny_gguf(folder / "koala.gguf", reply=REPLY_TOKENS),
        "babble": write_tiny_gguf(folder / "babble.gguf", n_ctx=8192),
    }


def app_with_model(path: Path, **settings) -> KoalaApp:
    """Return the app on a real GGUF, greedy unless `settings` say otherwise."""
    sampling = Sampling(**{"temperature": 0, **settings})
    return KoalaApp(read_header(path), partial(LocalEngine.start, path, LoadOptions(n_threads=1)), sampling=sampling)


def app_with_script(**script) -> KoalaApp:
    """Return the app on a worker without a model that follows the script (see fake_worker.py)."""
    header = GGUFHeader(Path("fake.gguf"), "llama", "Fake [b]Koala", "Q8_0", 2048, "{{ 1 }}", 4000, 1000, {})
    start = partial(LocalEngine.start, "fake.gguf", command=fake_worker(**script))
    return KoalaApp(header, start, sampling=Sampling(seed=1))


async def until(condition, seconds: float = 15) -> None:
    """Wait until the condition holds; fail if it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.02)
