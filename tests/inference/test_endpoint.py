"""An endpoint that answers what the test tells it to: streams in every shape, refusals, and servers that go away."""

import asyncio
import socket
import ssl
import time

import pytest

from inference import endpoint as endpoint_module
from inference import endpoint_server
from inference.endpoint import EndpointEngine, list_models
from inference.endpoint_server import find_address, find_key
from inference.errors import EngineError, InputError
from inference.events import Delta, Finished, Folded, PromptProgress, Queued
from inference.sampling import Sampling

from .fake_server import DONE, MODELS, answer, chunk, event, head, serve

QUESTION = [{"role": "user", "content": "Who are you?"}]
BEGUN = [*QUESTION, {"role": "assistant", "content": "I am"}]
SAMPLING = Sampling(seed=1)


def reply(*texts: str, finish="stop", usage=None) -> bytes:
    end = event({"choices": [], "usage": usage}) if usage else b""
    return head() + b"".join(map(chunk, texts)) + chunk(finish=finish) + end + DONE


REPLY = reply("I am", " Koala.")


def models(owner: str, *names: str, **facts) -> dict:
    return {"/v1/models": {"data": [{"id": name, "owned_by": owner, **facts} for name in names or ("tiny",)]}}


def long_chat(turns: int) -> list[dict[str, str]]:
    pairs = [("user", f"question {turn} " + "x" * 80) for turn in range(turns)]
    messages = [message for pair in pairs for message in (pair, ("assistant", "answer " + "y" * 80))]
    return [{"role": role, "content": content} for role, content in [("system", "Be brief."), *messages[:-1]]]


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


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("KOALA_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


async def ask(engine, messages=QUESTION, sampling=SAMPLING, **options):
    """Return the events of the reply, its text, and its end."""
    events = [event async for event in engine.generate(messages, sampling, **options)]
    text = "".join(event.text for event in events if isinstance(event, Delta))
    return events, text, events[-1]


# ---- replies


async def test_a_reply_is_streamed(start):
    async with serve(REPLY) as server:
        engine = await start(server)
        events, text, finished = await ask(engine)
        assert [type(event) for event in events] == [Delta, Delta, Finished]
        assert text == "I am Koala."
        assert (finished.reason, finished.seed, finished.completion_tokens) == ("stop", 1, 2)
        assert finished.prompt_tokens is None and 0 < finished.time_to_first_token <= finished.prompt_seconds
        assert (engine.loaded.name, engine.loaded.n_ctx, engine.loaded.template) == ("tiny", 0, "the server's own")
        assert await engine.count_tokens(QUESTION) is None
        [asked] = server.asked
        assert (asked["model"], asked["messages"], asked["stream"]) == ("tiny", QUESTION, True)
        assert asked.items() >= {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "seed": 1}.items()
        assert asked["max_tokens"] == 2048 and asked["repeat_penalty"] == asked["repetition_penalty"] == 1.0


async def test_a_seed_is_drawn_and_reported(start):
    async with serve(REPLY) as server:
        engine = await start(server)
        _, _, finished = await ask(engine, sampling=Sampling())
        assert server.asked[0]["seed"] == finished.seed


async def test_figures_are_the_servers_where_it_tells(start):
    usage = {"prompt_tokens": 12, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 9}}
    async with serve(reply("I am Koala.", usage=usage)) as server:
        _, _, finished = await ask(await start(server))
        assert (finished.prompt_tokens, finished.cached_tokens, finished.evaluated_tokens) == (12, 9, 3)
        assert finished.completion_tokens == 7


async def test_the_space_before_a_reply_is_left_out(start):
    async with serve(reply(" ", " I am", " Koala.")) as server:
        engine = await start(server)
        assert (await ask(engine))[1] == "I am Koala."


async def test_characters_may_be_cut_anywhere(start):
    async def chat(question, write):
        for byte in REPLY.replace(b"Koala", "Kö🐨".encode()):
            await write(bytes([byte]))

    async with serve(chat) as server:
        _, text, _ = await ask(await start(server))
        assert text == "I am Kö🐨."


async def test_half_characters_in_two_chunks_are_put_together(start):
    async with serve(reply("\ud83d", "\udc28 a ", "\ud83d")) as server:
        events, text, _ = await ask(await start(server))
        assert text == "🐨 a \N{REPLACEMENT CHARACTER}"
        assert all(event.text.encode() for event in events if isinstance(event, Delta))


@pytest.mark.parametrize(
    "stream",
    [
        REPLY.removesuffix(DONE),  # nothing says that this is all
        head() + b": ping\n\n" + REPLY.removeprefix(head()) + b": ping\n\n",
        REPLY.removesuffix(b"\n\n"),
        head() + event({"choices": [{"delta": {"role": "assistant", "content": None}}]}) + REPLY.removeprefix(head()),
        head() + event({"choices": [{"delta": {"content": [{"type": "text", "text": "I am Koala."}]}}]}) + DONE,
        answer(200, {"choices": [{"message": {"content": "I am Koala."}, "finish_reason": "stop"}]}),  # does not stream
    ],
)
async def test_streams_in_other_shapes(start, stream):
    async with serve(stream) as server:
        _, text, finished = await ask(await start(server))
        assert (text, finished.reason) == ("I am Koala.", "stop")


async def test_a_server_that_does_not_hang_up_when_all_is_said(start, monkeypatch):
    monkeypatch.setattr(endpoint_module, "LAST_WORDS_SECONDS", 0.05)

    async def chat(question, write):
        await write(REPLY.removesuffix(DONE))
        await asyncio.Event().wait()

    async with serve(chat) as server:
        _, text, finished = await ask(await start(server))
        assert (text, finished.reason) == ("I am Koala.", "stop")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_stands_between_tags(start, name):
    thoughts = [event({"choices": [{"delta": {name: text}}]}) for text in ("Who ", "am I?")]
    async with serve(head() + b"".join(thoughts) + chunk("Koala.") + chunk(finish="stop") + DONE) as server:
        engine = await start(server)
        assert (await ask(engine))[1] == "<think>\nWho am I?\n</think>\n\nKoala."
        thinking = [*QUESTION, {"role": "assistant", "content": "<think>\nHm. "}]
        assert (await ask(engine, thinking))[1] == "Who am I?\n</think>\n\nKoala."


async def test_progress_of_a_long_prompt(start):
    progress = event({"choices": [], "prompt_progress": {"total": 100, "processed": 60, "cache": 20}})
    async with serve(head() + progress + REPLY.removeprefix(head()), get=models("llamacpp")) as server:
        engine = await start(server)
        events, _, _ = await ask(engine)
        assert events[0] == PromptProgress(60, 100)
        assert server.asked[0]["return_progress"] is True


@pytest.mark.parametrize(
    ("finish", "tokens", "reason"),
    [("stop", 9, "stop"), ("length", 16, "length"), ("length", 9, "context"), ("tool_calls", 9, "stop")],
)
async def test_why_it_ended(start, finish, tokens, reason):
    usage = {"prompt_tokens": 5, "completion_tokens": tokens}
    async with serve(reply("x", finish=finish, usage=usage)) as server:
        _, _, finished = await ask(await start(server), sampling=Sampling(seed=1, max_tokens=16))
        assert finished.reason == reason


# ---- continuing


@pytest.mark.parametrize("owner", ["vllm", "llamacpp", "library"])
async def test_continue(start, owner):
    async with serve(reply(" Koala."), get=models(owner)) as server:
        _, text, _ = await ask(await start(server), BEGUN)
        assert text == " Koala."
        [asked] = server.asked
        assert asked["messages"] == BEGUN
        assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)


async def test_thinking_is_switched_off_where_it_prevents_continuing(start):
    async def chat(question, write):
        if "chat_template_kwargs" in question:
            await write(reply(" Koala."))
        else:
            await write(answer(500, {"error": {"message": "prefill is incompatible with enable_thinking."}}))

    async with serve(chat) as server:
        engine = await start(server)
        assert (await ask(engine, BEGUN))[1] == " Koala."
        assert server.asked[-1]["chat_template_kwargs"] == {"enable_thinking": False}


async def test_servers_that_cannot_continue(start):
    async def chat(question, write):
        refused = "continue_final_message" in question
        await write(answer(400, {"error": "unknown field continue_final_message"}) if refused else REPLY)

    async with serve(chat) as server:
        engine = await start(server)
        with pytest.raises(InputError, match="cannot continue a reply"):
            await ask(engine, BEGUN)
        assert (await ask(engine))[1] == "I am Koala."
    async with serve(REPLY, get=models("me")) as server:
        with pytest.raises(InputError, match="cannot continue a reply"):
            await ask(await start(server), BEGUN)
        assert not server.asked


# ---- settings that a server does not know


def refuse(*fields, status=400, say=lambda names: {"error": {"message": f"Unrecognized: {', '.join(names)}"}}):
    """Return a chat that refuses these fields."""

    async def chat(question, write):
        unknown = sorted(question.keys() & set(fields))
        await write(answer(status, say(unknown)) if unknown else REPLY)

    return chat


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"top_k", "min_p"}, {"top_k", "min_p"}),
        ({"repeat_penalty"}, set()),
        ({"repeat_penalty", "repetition_penalty", "seed"}, {"repeat_penalty", "seed"}),
        ({"stream_options"}, set()),
        ({"temperature"}, {"temperature"}),
    ],
)
@pytest.mark.parametrize(
    "say",
    [
        lambda names: {"error": {"message": f"Unrecognized request arguments: {', '.join(names)}"}},
        lambda names: {
            "detail": [{"loc": ["body", name], "msg": "Extra inputs", "input": "x" * 999} for name in names]
        },
        lambda names: {"object": "error", "message": f"[{{'loc': ('body', '{names[0]}')}}]"},
    ],
)
async def test_refused_settings_are_left_out_and_remembered(start, fields, ignored, say):
    async with serve(refuse(*fields, status=422, say=say)) as server:
        engine = await start(server)
        assert engine.ignored == set()
        assert (await ask(engine))[1] == "I am Koala."
        assert engine.ignored == ignored
        count = len(server.asked)
        assert (await ask(engine))[1] == "I am Koala."
        assert len(server.asked) == count + 1 and not server.asked[-1].keys() & fields


async def test_a_refusal_that_names_nothing(start):
    fields = ("top_k", "min_p", "repeat_penalty", "repetition_penalty", "stream_options")
    async with serve(refuse(*fields, say=lambda names: "bad request")) as server:
        engine = await start(server)
        assert (await ask(engine))[1] == "I am Koala."
        assert engine.ignored == {"top_k", "min_p", "repeat_penalty"}


async def test_a_newer_name_for_the_limit(start):
    def say(names):
        return {"error": {"message": "'max_tokens' is not supported here. Use 'max_completion_tokens' instead."}}

    async with serve(refuse("max_tokens", say=say)) as server:
        engine = await start(server)
        assert (await ask(engine))[1] == "I am Koala."
        assert server.asked[-1]["max_completion_tokens"] == 2048 and engine.ignored == set()


async def test_a_refusal_for_another_reason_teaches_nothing(start):
    async with serve(answer(400, {"error": {"message": "messages: the seed of all evil"}})) as server:
        engine = await start(server)
        with pytest.raises(InputError, match=r"error 400: messages: the seed of all evil"):
            await ask(engine)
        server.chat = REPLY
        await ask(engine)
        assert engine.ignored == set() and "seed" in server.asked[-1]


async def test_what_ollama_ignores_without_a_word(start):
    async with serve(REPLY, get=models("library", "llama3:latest", "other")) as server:
        engine = await start(server, "llama3")
        assert engine.ignored == {"top_k", "min_p", "repeat_penalty"}
        await ask(engine)
        assert server.asked[0]["model"] == "llama3:latest"


# ---- context


def overflowing(n_ctx: int, say, total=False):
    """Return a chat with a context of so many tokens, four characters each."""

    async def chat(question, write):
        tokens = sum(len(message["content"]) for message in question["messages"]) // 4
        too_long = tokens + question["max_tokens"] > n_ctx if total else tokens >= n_ctx
        await write(answer(400, say(tokens, n_ctx, question)) if too_long else REPLY)

    return chat


def say_like_llama_server(tokens, n_ctx, question):
    facts = {"type": "exceed_context_size_error", "n_prompt_tokens": tokens, "n_ctx": n_ctx}
    return {"error": {"code": 400, "message": "the request exceeds the available context size", **facts}}


def say_like_vllm(tokens, n_ctx, question):
    wanted = question["max_tokens"]
    return {
        "object": "error",
        "message": f"This model's maximum context length is {n_ctx} tokens. However, you requested {tokens + wanted} "
        f"tokens ({tokens} in the messages, {wanted} in the completion). Please reduce the length.",
    }


@pytest.mark.parametrize("say", [say_like_llama_server, say_like_vllm, lambda *_: {"error": "prompt is too long"}])
async def test_old_turns_are_folded_away_when_the_context_is_full(start, say):
    async with serve(overflowing(500, say)) as server:
        engine = await start(server)
        messages = long_chat(20)
        events, text, finished = await ask(engine, messages, Sampling(seed=1, max_tokens=100))
        assert text == "I am Koala."
        [folded] = [event.messages for event in events if isinstance(event, Folded)][-1:]
        assert folded == finished.folded and folded % 2 == 0
        assert server.asked[-1]["messages"] == [messages[0], *messages[1 + folded :]]
        tokens = sum(len(message["content"]) for message in server.asked[-1]["messages"]) // 4
        assert 150 <= tokens <= 260 or (say not in (say_like_llama_server, say_like_vllm) and tokens < 500)
        again = long_chat(20)
        _, _, finished = await ask(engine, again, Sampling(seed=1, max_tokens=100), folded=folded)
        assert finished.folded == folded and server.asked[-1] == server.asked[-2]


async def test_a_shorter_answer_where_there_is_room_for_one(start):
    async with serve(overflowing(500, say_like_vllm, total=True)) as server:
        engine = await start(server)
        events, text, finished = await ask(engine, long_chat(5), Sampling(seed=1, max_tokens=400))
        assert text == "I am Koala." and not any(isinstance(event, Folded) for event in events)
        assert finished.folded == 0 and 100 < server.asked[-1]["max_tokens"] < 400


async def test_a_last_message_that_does_not_fit(start):
    async with serve(overflowing(50, say_like_llama_server)) as server:
        engine = await start(server)
        with pytest.raises(
            InputError, match=r"do not fit into the server's context; shorten it.*exceeds the available"
        ):
            await ask(engine, [{"role": "user", "content": "x" * 1000}])
        assert engine.loaded.n_ctx == 50


async def test_ollama_is_never_given_more_than_it_would_read(start):
    get = models("library") | {"/api/ps": {"models": [{"name": "tiny", "model": "tiny", "context_length": 500}]}}
    async with serve(REPLY, get=get) as server:
        engine = await start(server)
        assert engine.loaded.n_ctx == 500
        events, _, finished = await ask(engine, long_chat(20), Sampling(seed=1, max_tokens=100))
        assert isinstance(events[0], Folded) and events[0].messages == finished.folded > 0
        assert sum(len(message["content"]) for message in server.asked[0]["messages"]) < 500 * 3


@pytest.mark.parametrize(
    ("get", "n_ctx"),
    [
        (models("vllm", max_model_len=4096), 4096),
        (models("llamacpp", meta={"n_ctx_train": 8192, "n_params": 7}), 0),
        (models("llamacpp") | {"/props": {"default_generation_settings": {"n_ctx": 2048}}}, 2048),
        (models("llamacpp") | {"/props": answer(200, b"<html>")}, 0),
        (models("library"), 0),
        (models("x", meta="nonsense", max_model_len="many"), 0),
    ],
)
async def test_the_size_of_the_context(start, get, n_ctx):
    async with serve(REPLY, get=get) as server:
        engine = await start(server)
        assert engine.loaded.n_ctx == n_ctx
        assert server.url in engine.loaded.description


# ---- stopping and waiting


def endless(began: asyncio.Event):
    async def chat(question, write):
        await write(head() + chunk("I am"))
        began.set()
        await asyncio.Event().wait()

    return chat


async def test_stop_closes_the_connection_at_once(start):
    async with serve(endless(asyncio.Event())) as server:
        engine = await start(server)
        stream = engine.generate(QUESTION, SAMPLING)
        assert await anext(stream) == Delta("I am")
        begun = time.perf_counter()
        stream.stop()
        rest = [event async for event in stream]
        assert time.perf_counter() - begun < 0.5
        assert [event.reason for event in rest] == ["cancelled"] and rest[0].completion_tokens == 1
        await asyncio.wait_for(server.hung_up.wait(), 1)


async def test_stop_while_the_prompt_is_read(start):
    began = asyncio.Event()

    async def chat(question, write):
        began.set()
        await asyncio.Event().wait()

    async with serve(chat) as server:
        engine = await start(server)
        stream = engine.generate(QUESTION, SAMPLING)
        reading = asyncio.create_task(anext(stream))
        await began.wait()
        stream.stop()
        finished = await asyncio.wait_for(reading, 1)
        assert (finished.reason, finished.time_to_first_token) == ("cancelled", None)
        await asyncio.wait_for(server.hung_up.wait(), 1)


async def test_stop_before_it_begins(start):
    async with serve(REPLY) as server:
        engine = await start(server)
        stream = engine.generate(QUESTION, SAMPLING)
        stream.stop()
        assert [event.reason async for event in stream] == ["cancelled"]
        assert not server.asked


async def test_leaving_and_closing(start):
    async with serve(endless(asyncio.Event())) as server:
        engine = await start(server)
        stream = engine.generate(QUESTION, SAMPLING)
        await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(server.hung_up.wait(), 1)
        another = engine.generate(QUESTION, SAMPLING)
        await anext(another)
        await engine.close()
        assert [event.reason async for event in another] == ["cancelled"]
        with pytest.raises(EngineError, match="the engine is closed"):
            await ask(engine)


async def test_one_reply_at_a_time(start):
    async with serve(endless(asyncio.Event())) as server:
        engine = await start(server)
        first, second, third = (engine.generate(QUESTION, SAMPLING) for _ in range(3))
        assert await anext(first) == Delta("I am")
        assert await anext(second) == Queued(1)
        assert await anext(third) == Queued(2)
        second.stop()
        assert (await anext(second)).reason == "cancelled"
        assert [event async for event in second] == []
        assert await anext(third) == Queued(1)
        first.stop()
        assert [event.reason async for event in first] == ["cancelled"]
        assert await anext(third) == Delta("I am")
        assert len(server.asked) == 2
        await third.aclose()


# ---- what goes wrong


@pytest.mark.parametrize(
    ("stream", "said", "message"),
    [
        (head() + chunk("I am"), "I am", "broke off in the middle of the reply"),
        (head() + chunk("I am") + b'data: {"choices": [{"del', "I am", "broke off in the middle of the reply"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\n" + chunk("I am"),
            "I am",
            "the connection to http://127.0.0.1:.* broke",
        ),
        (head() + chunk("I") + event({"error": {"message": "out of\nmemory"}}), "I", "reports an error: out of memory"),
        (head() + event({"object": "error", "message": "no slot"}), "", "reports an error: no slot"),
        (head() + b'error: {"code": 500, "message": "oops"}\n\n', "", "reports an error: oops"),
        (head() + b"data: <html>\n\n", "", "no part of a reply"),
        (head() + b"data: [1]\n\n", "", "no part of a reply"),
        (answer(500, {"error": {"message": "CUDA"}}), "", "error 500: CUDA"),
        (answer(502, b"<html><body>nginx</body></html>", "text/html"), "", "error 502$"),
        (answer(200, b"not json"), "", "no part of a reply"),
        (b"HTTP/1.1 200 OK\r\n", "", "the connection to http://127.0.0.1:.* broke"),
        (head(), "", "broke off in the middle of the reply"),
        (b"nonsense\r\n\r\n", "", "the connection to http://127.0.0.1:.* broke"),
    ],
)
async def test_a_broken_reply_is_a_sentence_and_the_next_one_comes(start, stream, said, message):
    async with serve(stream) as server:
        engine = await start(server)
        text = ""
        with pytest.raises(EngineError, match=message) as caught:
            async for part in engine.generate(QUESTION, SAMPLING):
                text += part.text
        assert text == said and "\n" not in str(caught.value)
        server.chat = REPLY
        assert (await ask(engine))[1] == "I am Koala."


async def test_a_server_that_says_only_without_a_stream_what_is_wrong(start):
    async def chat(question, write):
        await write(head() if question["stream"] else answer(400, {"error": {"message": "no such voice"}}))

    async with serve(chat) as server:
        engine = await start(server)
        with pytest.raises(InputError, match="error 400: no such voice"):
            await ask(engine)
        assert "stream_options" not in server.asked[1]


async def test_a_server_that_falls_silent(start, monkeypatch):
    monkeypatch.setattr(endpoint_server, "SILENCE_SECONDS", 0.05)
    async with serve(endless(asyncio.Event())) as server:
        engine = await start(server)
        with pytest.raises(EngineError, match="has said nothing for"):
            await ask(engine)


async def test_a_server_that_has_gone(start):
    async with serve(REPLY) as server:
        engine = await start(server)
    with pytest.raises(EngineError, match=r"no server answers at http://127.0.0.1:\d+/v1; start it, or check the URL"):
        await ask(engine)


@pytest.mark.parametrize(
    ("listed", "wanted", "message"),
    [
        (answer(401, {"error": {"message": "no key"}}), None, r"wants an API key \(401: no key\); set KOALA_API_KEY"),
        (answer(404, b"<html>", "text/html"), None, "does not know what was asked for \\(404\\); check the URL"),
        (answer(200, b"<html>", "text/html"), None, "is no OpenAI-compatible server: its answer is not JSON"),
        (answer(200, {"models": []}), None, "is no OpenAI-compatible server: it does not list its models"),
        (answer(200, []), None, "is no OpenAI-compatible server"),
        ({"data": []}, None, "the server has no model"),
        ({"data": None}, None, "the server has no model"),
        (models("x", "a", "b")["/v1/models"], None, "several models; name one of them with --endpoint-model: a, b"),
        (models("x", "a", "b")["/v1/models"], "c", "the server has no model 'c'; it has a, b"),
        (models("x", *map(str, range(20)))["/v1/models"], None, ", 11 and 8 more$"),
        (
            answer(307, b"", Location="https://elsewhere/v1/models"),
            None,
            "it leads to https://elsewhere.*give that URL",
        ),
    ],
)
async def test_servers_that_cannot_be_used(start, listed, wanted, message):
    async with serve(REPLY, get={"/v1/models": listed}) as server:
        with pytest.raises(EngineError, match=message) as caught:
            await start(server, wanted)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, InputError) or "it leads" in message


async def test_a_server_without_a_list_of_models(start):
    async with serve(REPLY, get={}) as server:
        engine = await start(server, "mine")
        assert (await ask(engine))[1] == "I am Koala." and server.asked[0]["model"] == "mine"


async def test_a_server_that_is_still_loading_is_waited_for(start, monkeypatch):
    monkeypatch.setattr(endpoint_server, "POLL_SECONDS", 0.01)
    answers = [answer(503, {"error": {"message": "Loading model"}})] * 3
    async with serve(REPLY, get={"/v1/models": lambda: answers.pop() if answers else MODELS}) as server:
        await start(server)
        assert not answers
        monkeypatch.setattr(endpoint_server, "LOADING_SECONDS", 0)
        answers[:] = [answer(503, {"error": {"message": "Loading model"}})]
        with pytest.raises(EngineError, match=r"is not ready \(503: Loading model\)"):
            await start(server)


async def test_http_where_https_was_meant(start):
    async def connected(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(EngineError, match=r"no secure connection to https://.* speaks http instead of https"):
            await start(f"https://127.0.0.1:{port}")


async def test_a_machine_that_does_not_answer(start, monkeypatch):
    monkeypatch.setattr(endpoint_server, "CONNECT_SECONDS", 0.1)
    async with await asyncio.start_server(lambda *_: asyncio.sleep(5), "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(EngineError, match=r"https://127.0.0.1:\d+/v1 does not answer; check the URL"):
            await start(f"https://127.0.0.1:{port}")


async def test_a_machine_that_is_not_there(start, monkeypatch):
    def unknown(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(EngineError, match=r"there is no machine called nowhere.invalid; check the URL and the network"):
        await start("http://nowhere.invalid")
    with pytest.raises(InputError, match="is not the URL of a server"):
        await start("http://xn--\u00fc.org")


async def test_an_untrusted_certificate(start, tmp_path):
    context = self_signed(tmp_path)
    listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(EngineError, match=r"no secure connection to .*(self-signed|certificate)"):
            await start(f"https://127.0.0.1:{port}")


def self_signed(folder):
    import subprocess

    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except OSError:
        pytest.skip("needs openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


# ---- addresses and keys


@pytest.mark.parametrize(
    ("text", "api", "root"),
    [
        ("http://localhost:8080", "http://localhost:8080/v1", "http://localhost:8080"),
        ("http://localhost:8080/v1/", "http://localhost:8080/v1", "http://localhost:8080"),
        ("localhost:11434", "http://localhost:11434/v1", "http://localhost:11434"),
        ("127.0.0.1:1/v1/chat/completions", "http://127.0.0.1:1/v1", "http://127.0.0.1:1"),
        ("https://x.org/api/v1/models", "https://x.org/api/v1", "https://x.org/api"),
        ("https://x.org/v1beta/openai", "https://x.org/v1beta/openai", "https://x.org"),
        ("http://[::1]:8080", "http://[::1]:8080/v1", "http://[::1]:8080"),
    ],
)
def test_addresses_as_people_write_them(text, api, root):
    address = find_address(f" {text}\n")
    assert (address.api, address.root) == (api, root)


@pytest.mark.parametrize(
    "text",
    ["", "x", "x.org:80", "ftp://x", "http://", "http://x:port", "file:///etc/passwd", "http://a b", "http://a\x1b"],
)
def test_what_is_no_address(text):
    with pytest.raises(InputError, match="is not the URL of a server; write it like http://localhost:8080/v1"):
        find_address(text)


async def test_a_password_is_never_shown(start):
    async with serve(REPLY) as server:
        url = server.url.replace("://", "://me:secret@")
        engine = await start(url)
        assert "secret" not in engine.loaded.description
        assert server.requests[0].headers["authorization"].startswith("Basic ")
    with pytest.raises(EngineError) as caught:
        await start(url)
    assert "secret" not in str(caught.value)


async def test_the_key_is_sent_and_a_wrong_one_named(start, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "open")
    async with serve(REPLY) as server:
        await start(server)
        monkeypatch.setenv("KOALA_API_KEY", "koala")
        await start(server)
        await start(server, api_key="given")
        sent = [request.headers["authorization"] for request in server.requests]
        assert sent == ["Bearer open", "Bearer koala", "Bearer given"]
        server.get["/v1/models"] = answer(403, b"")
        with pytest.raises(InputError, match=r"does not accept the API key \(403\); check KOALA_API_KEY"):
            await start(server)


def test_a_key_for_somebody_else_stays_at_home(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "open")
    assert find_key(find_address("http://192.168.0.9:8000")) is None
    assert find_key(find_address("https://192.168.0.9:8000")) == "open"
    assert find_key(find_address("localhost:8000")) == "open"
    monkeypatch.setenv("KOALA_API_KEY", "two words")
    with pytest.raises(InputError, match="copy it again"):
        find_key(find_address("localhost:8000"))


async def test_the_list_of_models():
    async with serve(REPLY, get=models("x", "a", "b")) as server:
        assert await list_models(server.url) == ["a", "b"]


async def test_a_proxy_is_not_asked_for_this_machine(start, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with serve(REPLY) as server:
        assert (await ask(await start(server)))[1] == "I am Koala."
