import asyncio
import time

import pytest

from inference.endpoint import EndpointEngine, list_models
from inference.errors import EngineError, InputError
from inference.events import Delta, Finished, Folded, PromptProgress, Queued
from inference.sampling import Sampling

from .fake_server import DONE, MODELS, answer, chunk, event, head, serve

QUESTION = [{"role": "user", "content": "Who are you?"}]
REPLY = head() + chunk("I am", usage=None) + chunk(" Koala.") + chunk(finish="stop") + DONE


def reply(*texts: str, finish="stop", usage=None) -> bytes:
    parts = [chunk(text) for text in texts]
    return head() + b"".join(parts) + chunk(finish=finish, **({"usage": usage} if usage else {})) + DONE


@pytest.fixture
async def start():
    """Start engines and close them after the test."""
    engines = []

    async def start_engine(server, *arguments, **options) -> EndpointEngine:
        engines.append(await EndpointEngine.start(getattr(server, "url", server), *arguments, **options))
        return engines[-1]

    yield start_engine
    for engine in engines:
        await engine.close()


async def ask(engine, messages=QUESTION, sampling=Sampling(seed=1), **options):
    """Return the events of the reply, its text, and its end."""
    events = [event async for event in engine.generate(messages, sampling, **options)]
    text = "".join(event.text for event in events if isinstance(event, Delta))
    return events, text, events[-1]


async def test_a_reply_is_streamed(start):
    async with serve(REPLY) as server:
        engine = await start(server)
        events, text, finished = await ask(engine)
        assert [type(event) for event in events] == [Delta, Delta, Finished]
        assert text == "I am Koala."
        assert (finished.reason, finished.seed, finished.completion_tokens) == ("stop", 1, 2)
        assert finished.prompt_tokens is None and finished.time_to_first_token > 0
        assert (engine.loaded.name, engine.loaded.n_ctx) == ("tiny", 0)
        assert await engine.count_tokens(QUESTION) is None
