import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from inference.errors import EngineError
from tests.tui.conftest import until
from tui import hub
from tui.downloads import Downloads
from tui.hub import HubFile, HubModel

MODEL = HubModel("koala/tiny", "abc", (HubFile("tiny-q8_0.gguf", 1000),))


@pytest.fixture
def arriving(monkeypatch):
    """A download that goes on when it is told to: put bytes into the queue, None ends it, a text breaks it off."""
    bytes_there: asyncio.Queue = asyncio.Queue()
    begun = []

    async def download(model, folder, progress):
        begun.append(folder)
        while (done := await bytes_there.get()) is not None:
            if isinstance(done, str):
                raise EngineError(done)
            progress(done, model.size)
        return SimpleNamespace(path=Path("there.gguf"))

    monkeypatch.setattr(hub, "download", download)
    return SimpleNamespace(put=bytes_there.put_nowait, begun=begun)


async def test_it_says_how_far_it_is_and_where_it_ends(arriving, home):
    said = []
    downloads = Downloads(lambda text, well: said.append((text, well)))
    download = downloads.start(MODEL)
    assert downloads.start(MODEL) is download and downloads.running == [download]
    assert (download.done, download.total, download.seconds_left) == (0, 1000, None)
    arriving.put(100)
    await until(lambda: download.done == 100)
    await asyncio.sleep(0.02)
    arriving.put(600)
    await until(lambda: download.done == 600)
    assert 0 < download.rate <= 500 / 0.02 and download.seconds_left > 0
    arriving.put(None)
    await until(lambda: not download.is_running)
    assert download.path == Path("there.gguf") and said == [("tiny-q8_0.gguf is downloaded", True)]
    assert arriving.begun == [home / "models"]


async def test_what_broke_off_is_told_and_started_again(arriving):
    said = []
    downloads = Downloads(lambda text, well: said.append((text, well)))
    first = downloads.start(MODEL)
    arriving.put("the network is gone")
    await until(lambda: not first.is_running)
    assert first.error == "the network is gone" and said == [("the network is gone", False)]
    second = downloads.start(MODEL)
    assert second is not first and downloads.all == [second]
    await downloads.close()
    assert not second.is_running and second.error.startswith("cancelled")
