import asyncio
import os
import signal
from contextlib import aclosing

import psutil
import pytest

from inference.errors import EngineError, InputError
from inference.events import Delta, Finished, Loaded, PromptProgress, Queued
from inference.sampling import Sampling
from tests.inference.conftest import fake_worker
from tests.tiny_gguf import CONTROL, REPLY, REPLY_TOKENS, byte_symbols, write_tiny_gguf

GREEDY = Sampling(temperature=0)
BOS, EOS = CONTROL.index("<s>"), CONTROL.index("</s>")


def asked(text: str, *more: str) -> list[dict]:
    roles = ["user", "assistant"] * (1 + len(more))
    return [{"role": role, "content": content} for role, content in zip(roles, (text, *more), strict=False)]


async def collect(engine, messages, sampling=GREEDY) -> tuple[str, Finished]:
    text = ""
    async for event in engine.generate(messages, sampling):
        if isinstance(event, Delta):
            text += event.text
    assert isinstance(event, Finished)
    return text, event


# ---- the prompt


async def test_exactly_one_bos_whether_the_template_writes_it_or_not(models, start):
    koala = await start(models["koala"])
    ids = await koala.prompt_ids(asked("Hi", "Hello", "Bye"))
    assert ids[0] == BOS and ids.count(BOS) == 1 and ids.count(EOS) == 1
    chatml = await start(models["chatml"])
    assert (await chatml.prompt_ids(asked("Hi"))).count(BOS) == 0


async def test_a_model_without_bos_gets_none(tmp_path, start):
    # llama.cpp takes token 11 for it where the file names none.
    engine = await start(write_tiny_gguf(tmp_path / "model.gguf", bos=False, add_bos=False))
    ids = await engine.prompt_ids(asked("Hi", "Hello", "Bye"))
    assert BOS not in ids
    assert 11 not in ids
    assert ids.count(EOS) == 1


async def test_a_typed_control_token_is_no_control_token(models, start):
    engine = await start(models["koala"])
    ids = await engine.prompt_ids(asked("a </s> b <s> c"))
    assert EOS not in ids and ids.count(BOS) == 1
    symbols = {symbol: byte for byte, symbol in byte_symbols().items()}
    assert len(ids) > len("a </s> b <s> c") and symbols["<"] == ord("<")


# ---- the reply


@pytest.mark.parametrize("model", ["koala", "chatml"])
async def test_the_stream_is_the_text_of_the_sampled_tokens(models, start, model):
    text, finished = await collect(await start(models[model]), asked("Who are you?"))
    assert text == REPLY and "�" not in text
    assert (finished.reason, finished.completion_tokens) == ("stop", len(REPLY_TOKENS) + 1)
    assert finished.time_to_first_token > 0 and finished.tokens_per_second > 0


@pytest.mark.parametrize("model", ["koala", "chatml"])
async def test_a_turn_evaluates_only_what_is_new(models, start, model):
    engine = await start(models[model])
    messages = asked("Who are you?")
    for _ in range(3):
        before = len(await engine.prompt_ids(messages))
        text, finished = await collect(engine, messages)
        messages += [
            {"role": "assistant", "content": text},
            {"role": "user", "content": "And then?"},
        ]
        after = await engine.prompt_ids(messages)
        # All of the reply but its end token is in the context, as it was sampled.
        known = before + finished.completion_tokens - 1
        _, second = await collect(engine, messages, Sampling(temperature=0, max_tokens=1))
        assert second.prompt_tokens == len(after)
        assert second.cached_tokens == known and second.evaluated_tokens == len(after) - known


async def test_sampled_ids_are_kept_where_the_text_would_give_others(models, start):
    engine = await start(models["babble"])
    text, finished = await collect(engine, asked("Hi"), Sampling(temperature=0, max_tokens=40))
    assert "�" in text, "random tokens are no valid UTF-8, so the text alone cannot give the ids back"
    _, second = await collect(engine, asked("Hi", text, "Go on"), Sampling(temperature=0, max_tokens=1))
    # But for the beginning of a character that max_tokens cut.
    assert 0 <= finished.prompt_tokens + finished.completion_tokens - second.cached_tokens <= 3


async def test_the_same_seed_gives_the_same_text(models, start):
    engine, other = await start(models["babble"]), await start(models["babble"])
    sampling = Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0, repeat_penalty=1.2, max_tokens=60)
    first, finished = await collect(engine, asked("Hi"), sampling)
    again = Sampling(**{**vars(sampling), "seed": finished.seed})
    assert (await collect(engine, asked("Hi"), again))[0] == first
    assert (await collect(other, asked("Hi"), again))[0] == first
    assert (await collect(engine, asked("Hi"), sampling))[0] != first


async def test_max_tokens_and_a_full_context(models, start):
    engine = await start(models["babble"], n_ctx=256)
    assert engine.loaded.n_ctx == 256
    _, finished = await collect(engine, asked("Hi"), Sampling(temperature=0, max_tokens=5))
    assert (finished.reason, finished.completion_tokens) == ("length", 5)
    _, finished = await collect(engine, asked("Hi"))
    assert finished.reason == "context"
    assert finished.prompt_tokens + finished.completion_tokens == 256 + 1  # the last one needs no room
    with pytest.raises(InputError, match=r"1,535 tokens long, and the context holds 256; shorten it, or .* 8,192"):
        await collect(engine, asked("word " * 300))
    assert (await collect(engine, asked("Hi"), Sampling(max_tokens=1)))[1].reason == "length"


# ---- stopping


async def test_stop_while_the_prompt_is_read(models, start):
    engine = await start(models["babble"], n_ctx=8192)
    question = asked("x y " * 2000)
    async with aclosing(engine.generate(question, GREEDY)) as events:
        async for event in events:
            if isinstance(event, PromptProgress):
                assert event.total > 7000
                events.stop()
            assert not isinstance(event, Delta)
    assert (event.reason, event.completion_tokens) == ("cancelled", 0)
    assert event.evaluated_tokens < event.prompt_tokens
    _, again = await collect(engine, question, Sampling(temperature=0, max_tokens=1))
    assert again.cached_tokens >= event.evaluated_tokens, "what was read before the stop is not read again"


async def test_stop_while_the_reply_is_written(models, start):
    engine = await start(models["babble"], n_ctx=8192)
    text = ""
    stream = engine.generate(asked("Hi"), Sampling(temperature=0, max_tokens=100_000))
    async for event in stream:
        if isinstance(event, Delta):
            text += event.text
            stream.stop()
    assert event.reason == "cancelled" and 0 < event.completion_tokens < 8000 and text
    assert (await collect(engine, asked("Hi"), Sampling(max_tokens=3)))[1].completion_tokens == 3


async def test_leaving_the_stream_stops_the_reply(models, start):
    engine = await start(models["babble"], n_ctx=8192)
    async with aclosing(engine.generate(asked("Hi"), Sampling(temperature=0, max_tokens=100_000))) as events:
        async for event in events:
            if isinstance(event, Delta):
                break
    _, finished = await asyncio.wait_for(collect(engine, asked("Other"), Sampling(max_tokens=3)), 20)
    assert finished.completion_tokens == 3


# ---- waiting


async def test_replies_come_in_the_order_of_asking_and_say_how_many_come_before(start):
    engine = await start(command=fake_worker(deltas=["a", "b", "c"], delay=0.02))
    order, queued = [], {1: [], 2: [], 3: []}

    async def ask(name):
        async for event in engine.generate(asked("x"), GREEDY):
            if isinstance(event, Delta):
                order.append(name)
            if isinstance(event, Queued):
                queued[name].append(event.ahead)

    await asyncio.gather(ask(1), ask(2), ask(3))
    assert order == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert queued == {1: [], 2: [1], 3: [2, 1]}


async def test_a_waiting_reply_can_be_stopped_and_left(start):
    engine = await start(command=fake_worker(deltas=["a"], delay=60))
    first, second, third = (engine.generate(asked("x"), Sampling(seed=5), folded=2) for _ in range(3))
    assert isinstance(await anext(first), PromptProgress)
    assert await anext(second) == Queued(1)
    assert await anext(third) == Queued(2)
    second.stop()
    event = await anext(second)
    assert (event.reason, event.seed, event.completion_tokens, event.folded) == ("cancelled", 5, 0, 2)
    with pytest.raises(StopAsyncIteration):
        await anext(second)
    assert await anext(third) == Queued(1)
    await third.aclose()
    fourth = engine.generate(asked("x"), GREEDY)
    assert await anext(fourth) == Queued(1)
    first.stop()
    assert [event.reason async for event in first] == ["cancelled"]
    assert isinstance(await anext(fourth), PromptProgress)
    await fourth.aclose()


async def test_a_reply_stopped_before_it_is_read_only_ends(start):
    engine = await start(command=fake_worker(deltas=["a"]))
    stream = engine.generate(asked("x"), GREEDY)
    stream.stop()
    assert [event.reason async for event in stream] == ["cancelled"]


async def test_stop_while_the_model_is_loaded_again(start, tmp_path):
    script = {"deltas": ["a"], "die_after": 0, "marker": str(tmp_path / "died"), "load_delay": 0.4}
    engine = await start(command=fake_worker(**script))
    with pytest.raises(EngineError, match="was killed"):
        await collect(engine, asked("x"))
    stream, other = engine.generate(asked("x"), GREEDY), engine.generate(asked("x"), GREEDY)
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    assert await anext(other) == Queued(1)
    stream.stop()
    started = asyncio.get_running_loop().time()
    assert (await reading).reason == "cancelled"
    assert asyncio.get_running_loop().time() - started < 0.2
    await stream.aclose()
    events = [event async for event in other]
    assert isinstance(events[0], Loaded) and events[-1].reason == "stop", "the loading went on"


async def test_closing_the_engine_while_it_loads_or_answers_is_a_sentence(start, tmp_path):
    script = {"deltas": ["a"], "delay": 60, "die_after": 1, "marker": str(tmp_path / "died"), "load_delay": 0.3}
    engine = await start(command=fake_worker(**script))
    stream = engine.generate(asked("x"), GREEDY)
    await anext(stream)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="was killed"):
        await anext(stream)
    waiting = [asyncio.create_task(anext(engine.generate(asked("x"), GREEDY)))]
    waiting.append(asyncio.create_task(engine.count_tokens(asked("x"))))
    await asyncio.sleep(0.05)
    await engine.close()
    for task in waiting:
        with pytest.raises(EngineError, match="closed"):
            await task


async def test_closing_a_stream_that_somebody_reads_ends_it(start):
    engine = await start(command=fake_worker(deltas=["a"], delay=60))
    stream = engine.generate(asked("x"), GREEDY)
    assert isinstance(await anext(stream), PromptProgress)
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    await stream.aclose()
    assert (await reading).reason == "cancelled"


async def test_a_stream_that_is_read_no_further_keeps_nobody_waiting(start):
    engine = await start(command=fake_worker(deltas=["a", "b"], delay=60))

    async def begin(kind):
        stream = engine.generate(asked("x"), GREEDY)
        async for event in stream:
            if isinstance(event, Delta | PromptProgress):
                stream.stop()
            if isinstance(event, kind):
                return

    for kind in (PromptProgress, Finished, PromptProgress):
        await asyncio.wait_for(begin(kind), 10)


async def test_tokens_are_counted_while_a_reply_is_written(start):
    engine = await start(command=fake_worker(deltas=["a"], delay=60))
    stream = engine.generate(asked("x"), GREEDY)
    await anext(stream)
    assert await engine.count_tokens(asked("a b", "c", "d")) == 4
    assert await engine.count_tokens(asked("a b", "c", "d"), folded=2) == 1
    await stream.aclose()


# ---- trouble


async def test_a_killed_worker_is_a_sentence_and_the_next_answer_works(models, start):
    engine = await start(models["babble"], n_ctx=8192)
    first = engine.pid
    with pytest.raises(EngineError, match=r"was killed.*send the message again"):
        async for event in engine.generate(asked("Hi"), Sampling(temperature=0, max_tokens=100_000)):
            if isinstance(event, Delta):
                os.kill(first, signal.SIGKILL)
    assert engine.pid is None
    events = [event async for event in engine.generate(asked("Hi"), Sampling(max_tokens=3))]
    assert isinstance(events[0], Loaded) and events[-1].completion_tokens == 3
    assert engine.pid not in (None, first)


async def test_an_abort_names_the_assertion(start):
    engine = await start(command=fake_worker(deltas=["a", "b"], die_after=1, signal="SIGABRT"))
    with pytest.raises(EngineError, match=r"SIGABRT, GGML_ASSERT\(fake\) failed"):
        await collect(engine, asked("x"))


async def test_a_worker_that_cannot_start_or_talks_nonsense(start):
    with pytest.raises(EngineError, match="cannot be started"):
        await start(command=("/nonexistent/worker",))
    with pytest.raises(EngineError, match="no event"):
        await start(command=("/bin/sh", "-c", "echo hello; exec cat"))
    with pytest.raises(EngineError, match=r"ended unexpectedly with code 3: no luck"):
        await start(command=("/bin/sh", "-c", "echo no luck >&2; exit 3"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path, good: None, "there is no file"),
        (lambda path, good: path.write_text("I am a text"), "is not a GGUF"),
        (lambda path, good: path.write_bytes(good[: len(good) // 2]), "is incomplete"),
        # Whole by its header, but of an architecture that llama.cpp does not know.
        (lambda path, good: path.write_bytes(good.replace(b"llama", b"lxxma")), "unknown model architecture: 'lxxma'"),
    ],
)
async def test_bad_files_are_sentences(tmp_path, models, start, make, said):
    path = tmp_path / "model.gguf"
    make(path, models["koala"].read_bytes())
    with pytest.raises(InputError, match=said):
        await start(path)


async def test_no_process_is_left_behind(models, start):
    engine = await start(models["koala"])
    process = psutil.Process(engine.pid)
    await engine.close()
    await engine.close()
    assert not process.is_running()
    with pytest.raises(EngineError, match="closed"):
        await collect(engine, asked("x"))


async def test_the_working_directory_is_not_imported_from(models, start, tmp_path, monkeypatch):
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "__init__.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    await start(models["koala"])


# ---- hostile templates

LAUGHS = "{% set ns = namespace(x=['lol']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
ONE_LONG_STEP = LAUGHS + "{% set a = ns.x %}" + LAUGHS + "{{ a == ns.x }}"
MANY_STEPS = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loop", "sentence"), [(MANY_STEPS, "not done after 3 seconds"), (ONE_LONG_STEP, "never comes to an end")]
)
async def test_a_template_that_loops_for_ever_is_a_sentence_and_the_next_question_works(
    tmp_path, start, loop, sentence
):
    template = "{% if messages[0]['content'] == 'loop' %}" + loop + "{% endif %}{{ messages[0]['content'] }}:"
    engine = await start(write_tiny_gguf(tmp_path / "hostile.gguf", template=template, reply=REPLY_TOKENS))
    with pytest.raises(EngineError, match=sentence):
        await collect(engine, asked("loop"))
    text, _ = await collect(engine, asked("Hi"))
    assert text == REPLY
