import asyncio
from pathlib import Path

import pytest

from inference.errors import EngineError, InputError
from inference.events import Loaded
from inference.load_options import LoadOptions
from tui.model_host import Endpoint, ModelHost


class Fake:
    """An engine that does nothing but close."""

    def __init__(self, name: str) -> None:
        self.loaded, self.closed = Loaded(name, "", 512), False

    async def close(self) -> None:
        self.closed = True


class Starter:
    """Starts fakes; `fail` is the error with which it fails, `gate` lets it wait."""

    def __init__(self) -> None:
        self.asked, self.engines, self.fail, self.gate = [], [], None, None

    async def __call__(self, target, options):
        self.asked.append((target, options))
        if self.gate is not None:
            await self.gate.wait()
        if self.fail is not None:
            raise self.fail
        self.engines.append(Fake(f"model {len(self.engines)}"))
        return self.engines[-1]


def host(start, target=Path("some.gguf")) -> ModelHost:
    return ModelHost(start, target, LoadOptions())


async def test_it_loads_once_for_all_that_ask():
    start = Starter()
    subject = host(start)
    assert subject.state == "loading" and subject.name == "some" and subject.loaded is None
    one, other = await asyncio.gather(subject.engine(), subject.engine())
    assert one is other is subject.running and len(start.asked) == 1
    assert subject.state == "ready" and subject.name == "model 0"
    await subject.close()
    assert start.engines[0].closed
    with pytest.raises(EngineError, match="closing"):
        await subject.engine()


async def test_a_failure_is_kept_and_the_next_one_who_asks_tries_again():
    start = Starter()
    start.fail = EngineError("no luck")
    subject = host(start)
    states = []
    subject.changed = lambda: states.append(subject.state)
    await subject.load()
    await asyncio.sleep(0)
    assert subject.state == "failed" and str(subject.error) == "no luck" and states[-1] == "failed"
    start.fail = None
    await subject.engine()
    await asyncio.sleep(0)
    assert subject.state == "ready" and subject.error is None and states[-1] == "ready"


async def test_whoever_leaves_does_not_end_the_loading():
    start = Starter()
    start.gate = asyncio.Event()
    subject = host(start)
    waiting = asyncio.create_task(subject.engine())
    await asyncio.sleep(0)
    waiting.cancel()
    start.gate.set()
    assert await subject.engine() is start.engines[0] and len(start.asked) == 1


async def test_a_switch_lets_go_first():
    start, order = Starter(), []
    subject = host(start)
    await subject.engine()

    async def release():
        order.append(start.engines[0].closed)

    subject.release = release
    await subject.switch(Path("other.gguf"), LoadOptions(n_ctx=99))
    assert order == [False] and start.engines[0].closed and not start.engines[1].closed
    assert start.asked[-1] == (Path("other.gguf"), LoadOptions(n_ctx=99)) == (subject.target, subject.options)
    start.fail = InputError("that is no model")
    with pytest.raises(InputError):
        await subject.switch(Path("bad.gguf"))
    assert start.engines[1].closed and subject.state == "failed" and subject.options == LoadOptions(n_ctx=99)
    start.fail = None
    await subject.switch(Endpoint("http://localhost:1", "m"))
    assert subject.state == "ready" and subject.header is None


async def test_closing_while_it_loads():
    start = Starter()
    start.gate = asyncio.Event()
    subject = host(start)
    loading = asyncio.create_task(subject.load())
    await asyncio.sleep(0)
    await subject.close()
    assert start.engines == []
    loading.cancel()


async def test_no_model():
    subject = host(Starter(), None)
    assert subject.state == "none" and subject.name == ""
    await subject.load()
    with pytest.raises(InputError, match="no model yet"):
        await subject.engine()


async def test_the_header_is_known_before_the_model_is_ready(models):
    start = Starter()
    start.gate = asyncio.Event()
    subject = host(start, models["koala"])
    seen = asyncio.Event()
    subject.changed = lambda: seen.set() if subject.header is not None else None
    loading = asyncio.create_task(subject.load())
    await asyncio.wait_for(seen.wait(), 10)
    assert subject.name == "Tiny Koala" and subject.header.quantization == "F32" and subject.running is None
    start.gate.set()
    await loading


@pytest.mark.parametrize(
    ("target", "name"),
    [(Endpoint("http://x/v1", "m"), "m"), (Endpoint("http://x/v1"), "http://x/v1"), (Path("a/b.c.gguf"), "b.c")],
)
def test_names(target, name):
    assert host(Starter(), target).name == name


async def test_who_asks_during_a_switch_gets_the_new_model():
    start = Starter()
    subject = host(start, Path("old.gguf"))
    await subject.engine()
    closing, closed = asyncio.Event(), asyncio.Event()

    async def close():
        closing.set()
        await closed.wait()

    start.engines[0].close = close
    switching = asyncio.create_task(subject.switch(Path("new.gguf")))
    await closing.wait()
    asking = asyncio.create_task(subject.engine())
    await asyncio.sleep(0.01)
    closed.set()
    await switching
    assert await asking is subject.running is start.engines[1]
    assert [target for target, _ in start.asked] == [Path("old.gguf"), Path("new.gguf")]
