"""The endpoint engine against a server that is not ours: llama-cpp-python's, with a tiny model."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from inference.endpoint import EndpointEngine
from inference.errors import InputError
from inference.events import Delta, Folded
from inference.sampling import Sampling
from tests.tiny_gguf import REPLY

pytestmark = pytest.mark.slow
QUESTION = [{"role": "user", "content": "Who are you?"}]
GREEDY = Sampling(temperature=0, seed=1)


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """Start servers of models, and end them after the tests."""
    processes = []

    def start(model, n_ctx) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = ["-m", "llama_cpp.server", "--model", model, "--port", port, "--n_ctx", n_ctx, "--n_threads", 1]
        log = tmp_path_factory.mktemp("server") / "log"
        with log.open("w") as out:
            process = subprocess.Popen([sys.executable, *map(str, command)], stdout=out, stderr=out)
        processes.append(process)
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=60).close()
                return f"http://127.0.0.1:{port}"
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.1)

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def koala(serve, models):
    return serve(models["koala"], 256)


@pytest.fixture(scope="module")
def babble(serve, models):
    return serve(models["babble"], 8192)


@pytest.fixture
async def start():
    engines = []

    async def start_engine(url) -> EndpointEngine:
        engines.append(await EndpointEngine.start(url))
        return engines[-1]

    yield start_engine
    for engine in engines:
        await engine.close()


async def ask(engine, messages, sampling=GREEDY):
    events = [event async for event in engine.generate(messages, sampling)]
    return events, "".join(event.text for event in events if isinstance(event, Delta)), events[-1]


async def test_the_answer_comes_whole(start, koala):
    engine = await start(koala)
    assert engine.loaded.name == "koala" and "llama-cpp-python" in engine.loaded.description
    for _ in range(2):
        _, text, finished = await ask(engine, QUESTION)
        assert text == REPLY
        assert finished.reason == "stop" and finished.completion_tokens > 5


async def test_max_tokens(start, koala):
    _, text, finished = await ask(await start(koala), QUESTION, Sampling(temperature=0, seed=1, max_tokens=3))
    assert text.strip() == "I am **Koala**" and finished.reason == "length"


async def test_the_same_seed_gives_the_same_answer(start, babble):
    engine = await start(babble)
    assert engine.ignored == set()
    texts = [(await ask(engine, QUESTION, Sampling(seed=seed, max_tokens=16)))[1] for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


async def test_settings_arrive(start, babble):
    engine = await start(babble)
    greedy = (await ask(engine, QUESTION, Sampling(temperature=0, seed=1, max_tokens=16)))[1]
    for settings in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}):
        one = Sampling(**{"temperature": 1, "seed": 7, "max_tokens": 16, "top_k": 0, "top_p": 1, "min_p": 0} | settings)
        assert (await ask(engine, QUESTION, one))[1] == greedy, settings


async def test_stop(start, serve, models):
    # A server for itself: this one, with sse-starlette 3, answers nobody any more once a client has hung up.
    engine = await start(serve(models["babble"], 8192))
    stream = engine.generate(QUESTION, Sampling(seed=1, max_tokens=100_000))
    while not isinstance(await anext(stream), Delta):
        pass
    begun = time.perf_counter()
    stream.stop()
    rest = [event async for event in stream]
    assert time.perf_counter() - begun < 0.5 and rest[-1].reason == "cancelled"


async def test_a_long_chat_is_folded(start, koala):
    engine = await start(koala)
    turns = [("user", "What is it? " * 3), ("assistant", "It is a koala. " * 3)] * 20
    messages = [{"role": role, "content": content.strip()} for role, content in turns] + QUESTION
    events, text, finished = await ask(engine, messages)
    assert any(isinstance(event, Folded) for event in events) and finished.folded > 0
    assert text.startswith("I am **Koala**")
    assert engine.loaded.n_ctx == 256
    with pytest.raises(InputError, match="do not fit into the server's context"):
        await ask(engine, [{"role": "user", "content": "word " * 300}])


async def test_this_server_cannot_continue(start, koala):
    with pytest.raises(InputError, match="cannot continue"):
        await ask(await start(koala), [*QUESTION, {"role": "assistant", "content": "I am"}])
