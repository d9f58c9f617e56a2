"""What koala-tui costs the model and its user, each figure beside a reference of the same run.

    python -m benchmarks.tui [--only PART ...] [--rounds 3]

The parts: throughput, start, turns, restart, stop, keys, chats, scan, idle. The models are written on the spot (see
`markdown_model`): llama.cpp computes what it would for any model of 118 million parameters, and Markdown comes out.
The app runs as a user's would, in a pseudo-terminal or under Textual's Pilot, on a store of its own.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.terminal import Terminal

KOALA_TUI = (sys.executable, "-m", "tui")
ROOT = Path(__file__).resolve().parent.parent
QUESTION = "Write the document."
GREEDY = ("--set", "temperature=0", "--set", "max_tokens=100000")
COMPOSER = "Message"  # the composer's placeholder: when it is there, one can type
EARLY, LATE = (100, 1_100), (3_000, 4_000)  # windows of tokens; a frame is drawn every hundred or so
PAIRS, PAIR_TOKENS = 4, 1_000


@dataclass(frozen=True)
class Row:
    """One figure: what it is, its value, the reference and their ratio where there is one, and the goal."""

    what: str
    value: str
    reference: str
    goal: str
    reached: bool


class Bench:
    """The folder of a run, the models in it, and the rows so far."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.folder, self.rounds = folder, rounds
        self.rows: list[Row] = []

    def model(self, kind: str) -> Path:
        """Return the model that writes the document of 4,050 tokens or the table of 2,000."""
        from benchmarks import markdown_model

        path = self.folder / f"{kind}.gguf"
        if not path.exists():
            reply = markdown_model.document(4_050) if kind == "document" else markdown_model.table(2_000)
            markdown_model.write(path, reply)
        return path

    def home(self, name: str) -> dict[str, str]:
        """Return the environment of a koala-tui whose store, settings and cache are a folder of this run."""
        return {"KOALA_HOME": str(self.folder / "homes" / name)}

    def add(self, what: str, value: str, reference: str, goal: str, reached: bool) -> None:
        """Keep a figure and print it."""
        self.rows.append(Row(what, value, reference, goal, reached))
        print(f"{'ok    ' if reached else 'MISSED'} {what}: {value}; {reference}; goal {goal}", flush=True)


# ---- the token loop, bare and through the app


def bare_loop(model: Path, limit: int) -> dict[str, float]:
    """Run llama-cpp-python's own loop, each token turned into text; return tokens and seconds from the first token."""
    import llama_cpp

    from inference.machine import usable_cores

    llm = llama_cpp.Llama(str(model), n_ctx=8192, n_threads=usable_cores(), verbose=False)
    ids = llm.tokenize(f"BEGINNING OF CONVERSATION: USER: {QUESTION} GPT:".encode(), add_bos=True, special=False)
    begun, count = 0.0, 0
    for token in llm.generate(ids, temp=0):
        if token == llm.token_eos():
            break
        llm.detokenize([token])
        begun = begun or time.perf_counter()
        count += 1
        if count == limit:
            break
    return {"tokens": count - 1, "seconds": time.perf_counter() - begun}


class Recorder:
    """An engine that notes when the tokens of another came, and what this process had computed until then."""

    def __init__(self, engine) -> None:
        self._engine = engine
        self.marks: list[tuple[int, float, float]] = []  # tokens so far, seconds, seconds of processor time

    def __getattr__(self, name: str):
        return getattr(self._engine, name)

    def generate(self, *arguments, **options):
        """Return the stream of the engine, noting each piece of it."""
        return _Recorded(self._engine.generate(*arguments, **options), self.marks)


class _Recorded:
    def __init__(self, stream, marks: list) -> None:
        self._stream, self._marks, self._tokens = stream, marks, 0

    def __aiter__(self) -> "_Recorded":
        return self

    async def __anext__(self):
        from inference.events import Delta

        event = await self._stream.__anext__()
        if isinstance(event, Delta):
            self._tokens += event.tokens
            self._marks.append((self._tokens, time.perf_counter(), time.process_time()))
        return event

    def stop(self) -> None:
        self._stream.stop()

    async def aclose(self) -> None:
        await self._stream.aclose()


def cost(marks: Sequence[tuple[int, float, float]], window: tuple[int, int]) -> tuple[float, float]:
    """Return what this process computed in the window: seconds for each token, and as a share of the time."""
    inside = [mark for mark in marks if window[0] <= mark[0] <= window[1]]
    tokens, seconds, computed = (last - first for first, last in zip(inside[0], inside[-1], strict=True))
    return computed / tokens, computed / seconds


# ---- the engine alone


async def ask(engine, messages: list[dict], **settings):
    """Return the text of the reply, its Finished, and the seconds until its first piece."""
    from inference.events import Delta
    from inference.sampling import Sampling

    begun, first, text = time.perf_counter(), None, ""
    async for event in engine.generate(messages, Sampling(temperature=0, **settings)):
        if isinstance(event, Delta):
            first = first or time.perf_counter() - begun
            text += event.text
    return text, event, first


async def turns(bench: Bench) -> None:
    """Count what the tenth turn evaluates."""
    from inference.load_options import LoadOptions
    from inference.local import LocalEngine

    engine = await LocalEngine.start(bench.model("document"), LoadOptions(n_ctx=8192))
    messages: list[dict] = []
    known = 0
    try:
        for turn in range(10):
            messages.append({"role": "user", "content": f"Question {turn} of ten, with some words in it."})
            prompt = await engine.prompt_ids(messages)
            text, finished, _ = await ask(engine, messages, max_tokens=100)
            if turn == 9:
                new = len(prompt) - known
                bench.add(
                    "turn 10 evaluates",
                    f"{finished.evaluated_tokens} tokens",
                    f"{new} of its {len(prompt):,} are new",
                    "the new ones exactly",
                    finished.evaluated_tokens == new,
                )
            known = len(prompt) + finished.completion_tokens
            messages.append({"role": "assistant", "content": text})
    finally:
        await engine.close()


async def restart(bench: Bench) -> None:
    """Time the first token of a 1,500-token chat after a restart, with and without the saved sequence."""
    from inference.load_options import LoadOptions
    from inference.local import LocalEngine

    messages = [{"role": "user", "content": "A long story. " * 105}]
    model, cache = bench.model("document"), bench.folder / "sequences"
    seconds: dict[bool, list[float]] = {True: [], False: []}
    restored = 0
    options = {True: LoadOptions(n_ctx=8192, cache_dir=str(cache)), False: LoadOptions(n_ctx=8192)}
    engine = await LocalEngine.start(model, options[True])
    text, first, _ = await ask(engine, messages, max_tokens=20)
    await engine.close()
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "Go on."}]
    for _ in range(bench.rounds):
        for saved in (True, False):
            engine = await LocalEngine.start(model, options[saved])
            _, finished, wait = await ask(engine, messages, max_tokens=2)
            await engine.close()
            seconds[saved].append(wait)
            restored = max(restored, finished.restored_tokens)
    resumed, cold = statistics.median(seconds[True]), statistics.median(seconds[False])
    bench.add(
        f"next turn of a {first.prompt_tokens:,}-token chat after a restart",
        f"{1000 * resumed:.0f} ms, {cold / resumed:.1f}x sooner",
        f"{1000 * cold:.0f} ms without the saved sequence ({restored:,} tokens restored)",
        "5x",
        cold / resumed >= 5,
    )


async def stop(bench: Bench) -> None:
    """Time how long a stop takes, while a prompt is read and while a reply is written."""
    from inference.events import Delta, PromptProgress
    from inference.load_options import LoadOptions
    from inference.local import LocalEngine
    from inference.sampling import Sampling

    engine = await LocalEngine.start(bench.model("document"), LoadOptions(n_ctx=8192))
    try:
        for phase, kind, count in (("prefill", PromptProgress, 40), ("decode", Delta, 40)):
            waits = []
            for number in range(count):
                text = f"{number} is a number. " * (350 if kind is PromptProgress else 1)
                stream = engine.generate([{"role": "user", "content": text}], Sampling(temperature=0))
                begun = None
                async for event in stream:
                    # At another point of the work each time.
                    if begun is None and isinstance(event, kind):
                        await asyncio.sleep(0.013 * (number % 20))
                        begun = time.perf_counter()
                        stream.stop()
                assert event.reason == "cancelled", event
                waits.append(time.perf_counter() - begun)
            p95 = statistics.quantiles(waits, n=20)[-1]
            bench.add(
                f"stop in {phase}, p95 of {count}",
                f"{1000 * p95:.0f} ms",
                f"median {1000 * statistics.median(waits):.0f} ms",
                "150 ms",
                p95 < 0.15,
            )
    finally:
        await engine.close()


# ---- the app, as a person meets it


def best_seconds(command: Sequence[str], times: int) -> float:
    """Return the least time that the command took, in seconds."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def start(bench: Bench) -> None:
    """Time the first frame: with an empty store, and with 10,000 chats of 20 messages."""
    from benchmarks.big_store import build

    model = bench.model("document")
    textual = [sys.executable, "-c", "import textual.app, textual.widgets, textual.containers"]
    big = bench.home("big")
    file = Path(big["KOALA_HOME"]) / "chats.db"
    if not file.exists():
        file.parent.mkdir(parents=True)
        build(file)
    for what, home, limit in (("first frame", bench.home("empty"), 0.5), ("first frame with 10,000 chats", big, 0.7)):
        seconds = []
        for _ in range(bench.rounds + 2):
            with Terminal([*KOALA_TUI, str(model)], **home) as terminal:
                seconds.append(terminal.seconds_until(COMPOSER))
        reference = best_seconds(textual, bench.rounds)
        bench.add(
            what,
            f"{statistics.median(seconds):.2f} s (best {min(seconds):.2f})",
            f"{statistics.median(seconds) / reference:.1f}x of importing Textual alone ({reference:.2f} s)",
            f"{limit} s",
            statistics.median(seconds) < limit,
        )


def keys(bench: Bench) -> None:
    """Time from a key to the terminal's having it, while a reply is written."""
    waits = []
    for _ in range(bench.rounds):
        with Terminal([*KOALA_TUI, str(bench.model("document")), *GREEDY], **bench.home("keys")) as terminal:
            terminal.seconds_until(COMPOSER)
            terminal.type(QUESTION + "\r")
            terminal.seconds_until("writing")
            for number, letter in enumerate("αβγδεζηθικλμνξοπρστυφχψω" * 6):
                if letter == "α" and number:
                    terminal.type("\x15")  # Ctrl+U: an empty line again, so that each letter is new on the screen
                    terminal.read(0.15)
                terminal.read(0.03)
                terminal.type(letter)
                waits.append(terminal.seconds_until(letter))
    p99 = statistics.quantiles(waits, n=100)[-1]
    bench.add(
        f"key to screen while a reply streams, p99 of {len(waits)}",
        f"{1000 * p99:.0f} ms",
        f"median {1000 * statistics.median(waits):.0f} ms",
        "50 ms",
        p99 < 0.05,
    )


def idle(bench: Bench) -> None:
    """Count what the app's own process computes and holds: while a table of 2,000 tokens streams, and at rest."""
    import psutil

    with Terminal([*KOALA_TUI, str(bench.model("table")), *GREEDY], **bench.home("idle")) as terminal:
        terminal.seconds_until(COMPOSER)
        process = psutil.Process(terminal.pid)
        terminal.seconds_until("ready")
        terminal.type(QUESTION + "\r")
        terminal.seconds_until("writing")
        before, begun = sum(process.cpu_times()[:2]), time.perf_counter()
        terminal.seconds_until("ready")
        streaming = (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - begun)
        megabytes = process.memory_info().rss / 1e6
        terminal.read(3)
        before, begun = sum(process.cpu_times()[:2]), time.perf_counter()
        terminal.read(15)
        rest = (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - begun)
    bench.add(
        "the app's process while a table of 2,000 tokens streams",
        f"{100 * streaming:.1f}% of a core",
        "the model has both cores",
        "10%",
        streaming <= 0.1,
    )
    bench.add("the app's process at rest", f"{100 * rest:.2f}% of a core", "over 15 s", "1%", rest < 0.01)
    bench.add("the app's process holds", f"{megabytes:.0f} MB", "resident, after the table", "150 MB", megabytes < 150)


def scan(bench: Bench) -> None:
    """Time the search for models among 50 files, a third of them with a vocabulary of 150,000 tokens."""
    from inference.scan import find_models

    folder = bench.folder / "models"
    if not folder.exists():
        folder.mkdir()
        _write_headers(folder)
    reference = statistics.median(_timed(lambda: [file.read_bytes() for file in folder.iterdir()]) for _ in range(3))
    seconds = [_timed(lambda: list(find_models([folder], usual=False))) for _ in range(bench.rounds)]
    found = sum(1 for _ in find_models([folder], usual=False))
    bench.add(
        f"header scan of {found} GGUFs",
        f"{statistics.median(seconds):.2f} s",
        f"{statistics.median(seconds) / reference:.1f}x of reading the files' bytes",
        "2 s",
        statistics.median(seconds) < 2 and found == 50,
    )


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _write_headers(folder: Path) -> None:
    import gguf
    import numpy as np

    for number in range(50):
        writer = gguf.GGUFWriter(folder / f"model-{number}.gguf", "llama")
        writer.add_name(f"Model {number}")
        writer.add_context_length(4096)
        writer.add_tokenizer_model("gpt2")
        words = 150_000 if number % 3 == 0 else 32_000
        writer.add_token_list([f"token{index}" for index in range(words)])
        writer.add_token_types([1] * words)
        writer.add_chat_template("{{ messages }}")
        writer.add_tensor("token_embd.weight", np.zeros((1024, 64), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


# ---- inside the app, in a process of its own: python -m benchmarks.tui --inside PART FILE LIMIT


async def inside_app(model: Path, limit: int) -> dict:
    """Have the model write its document in the app under Pilot; return its tokens and their times."""
    from inference.load_options import LoadOptions
    from inference.sampling import Sampling
    from tui.app import KoalaApp
    from tui.model_host import start_engine
    from tui.store import Store

    recorders = []

    async def start(target, options):
        recorders.append(Recorder(await start_engine(target, options)))
        return recorders[-1]

    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "chats.db")
        options, sampling = LoadOptions(n_ctx=8192), Sampling(temperature=0, max_tokens=limit)
        app = KoalaApp(store=store, target=model, load=options, sampling=sampling, start=start)
        async with app.run_test(size=(120, 36)) as pilot:
            while app.host.running is None:
                await pilot.pause(0.05)
            await pilot.press(*QUESTION, "enter")
            while not app.runner.active:
                await asyncio.sleep(0.01)
            await asyncio.wait([app.runner.active[0].task])  # to look every now and then would cost the model
            drawn = time.perf_counter()
        store.close()
    marks = recorders[0].marks
    return {"marks": marks, "tokens": marks[-1][0] - marks[0][0], "seconds": drawn - marks[0][1]}


async def inside_open(store_file: Path, limit: int) -> dict:
    """Open the chat of `limit` messages in the app under Pilot; return the seconds until its end is on the screen."""
    from tui.app import KoalaApp
    from tui.store import Store

    store = Store.open(store_file)
    [chat] = [chat for chat in store.chats() if chat.title == "A thousand messages"]

    async def never(target, options):
        await asyncio.Event().wait()

    app = KoalaApp(store=store, target=store_file, start=never)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause(0.5)
        begun = time.perf_counter()
        app.open_chat(chat.id)
        while f"message {limit - 1}" not in _screen(app):
            await asyncio.sleep(0)
        seconds = time.perf_counter() - begun
    store.close()
    return {"seconds": seconds}


def _screen(app) -> str:
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


def inside(part: str, file: Path, limit: int) -> dict:
    """Run a measurement of this file in a fresh Python and return what it printed."""
    command = [sys.executable, "-m", "benchmarks.tui", "--inside", part, str(file), str(limit)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def throughput(bench: Bench) -> None:
    """Compare the app's tokens per second with the bare loop's, and its cost of a token early and late."""
    model = bench.model("document")
    rates = []
    # Machines change their speed within seconds: many short pairs, each of which runs at about one speed.
    for number in range(PAIRS * bench.rounds):
        order = ("bare", "app") if number % 2 else ("app", "bare")
        pair = {part: inside(part, model, PAIR_TOKENS) for part in order}
        rates.append([pair[part]["tokens"] / pair[part]["seconds"] for part in ("bare", "app")])
    ratios = sorted(app / bare for bare, app in rates)
    bare_rate, app_rate = (statistics.median(each) for each in zip(*rates, strict=True))
    quarter = len(ratios) // 4
    bench.add(
        "tokens/s through the whole app",
        f"{app_rate:.0f}, {statistics.median(ratios):.3f} of the bare loop "
        f"(the middle half of {len(ratios)} pairs: {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f})",
        f"llama-cpp-python's own loop: {bare_rate:.0f}",
        "0.97",
        statistics.median(ratios) >= 0.97,
    )
    costs = {EARLY: [], LATE: []}
    for _ in range(bench.rounds):
        marks = inside("app", model, 100_000)["marks"]
        for window in costs:
            costs[window].append(cost(marks, window))
    # The app draws by the clock, and the model is slower at the end of a long text: the share is what it costs.
    (early, early_share), (late, late_share) = (
        [statistics.median(each) for each in zip(*costs[window], strict=True)] for window in (EARLY, LATE)
    )
    bench.add(
        f"the app's share of a core from token {LATE[0]:,} to {LATE[1]:,}",
        f"{100 * late_share:.1f}%, {late_share / early_share:.2f}x ({1e6 * late:.0f} µs a token)",
        f"from token {EARLY[0]:,} to {EARLY[1]:,}: {100 * early_share:.1f}% ({1e6 * early:.0f} µs a token)",
        "1.2x",
        late_share / early_share <= 1.2,
    )


def chats(bench: Bench) -> None:
    """Time opening a chat of 1,000 messages, and searching 200,000."""
    from benchmarks.big_store import build
    from tui.store import Store

    file = bench.folder / "big.db"
    if not file.exists():
        build(file)
        store = Store.open(file)
        chat, parent = store.create_chat("A thousand messages"), None
        for number in range(1000):
            role, text = ("user", f"message {number}") if number % 2 == 0 else ("assistant", _answer(number))
            parent = store.add_message(chat, parent, role, text)
        store.close()
    seconds = [inside("open", file, 1000)["seconds"] for _ in range(bench.rounds)]
    bench.add(
        "a chat of 1,000 messages opens",
        f"{statistics.median(seconds):.2f} s",
        "from the click to its end on the screen, in a store of 200,000 messages",
        "1 s",
        statistics.median(seconds) < 1,
    )
    store = Store.open(file)
    queries = ("ka", "quokkaneedle", "koa", "the answer", "ren lami", "kala", "ber tha")
    waits = {query: _timed(lambda query=query: store.search(query)) for query in queries for _ in range(3)}
    plain = _timed(lambda: store.search("zzzz unknown"))
    store.close()
    worst = max(waits, key=waits.get)
    bench.add(
        f"search in 200,000 messages, the worst of {len(queries)} queries",
        f"{1000 * waits[worst]:.0f} ms ({worst!r})",
        f"{1000 * plain:.1f} ms for words that are nowhere",
        "100 ms",
        waits[worst] < 0.1,
    )


def _answer(number: int) -> str:
    return (
        f"This is **message {number}**.\n\n- one\n- two `code`\n\n```python\nprint({number})\n```\n\nmessage {number}"
    )


PARTS: dict[str, Callable[[Bench], object]] = {
    "throughput": throughput,
    "start": start,
    "turns": turns,
    "restart": restart,
    "stop": stop,
    "keys": keys,
    "chats": chats,
    "scan": scan,
    "idle": idle,
}
INSIDE = {
    "bare": bare_loop,
    "app": lambda model, limit: asyncio.run(inside_app(model, limit)),
    "open": lambda file, limit: asyncio.run(inside_open(file, limit)),
}


def main() -> int:
    """Run the benchmark and return its exit code: 1 where a goal was missed."""
    parser = argparse.ArgumentParser(description="Measure what koala-tui costs.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="the parts to run (all)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of what varies (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="keep the models and stores there, for the next run")
    parser.add_argument("--inside", nargs=3, metavar=("PART", "FILE", "LIMIT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        part, file, limit = arguments.inside
        print(json.dumps(INSIDE[part](Path(file), int(limit))))
        return 0
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; Python {platform.python_version()}")
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, arguments.rounds)
        for name in arguments.only:
            result = PARTS[name](bench)
            if asyncio.iscoroutine(result):
                asyncio.run(result)
    print(f"load {os.getloadavg()[0]:.1f} after")
    return 0 if all(row.reached for row in bench.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
