"""The app in a world where nothing changes by itself: a fixed day and machine, a model that says what it is told."""

import asyncio
import time
from datetime import date
from pathlib import Path

import pytest

from inference.errors import EngineError
from inference.events import Delta, Finished, Folded, Loaded
from inference.gguf_header import GGUFHeader
from inference.machine import Memory
from inference.sampling import Sampling
from inference.scan import Found
from tui import model_facts, paths, state
from tui.app import KoalaApp
from tui.replies import Reply
from tui.screens import models_files, transfer
from tui.store import Store
from tui.widgets import sidebar

CLOCK = 1_790_000_000.0  # 21 September 2026, 14:13 UTC
HOUR, DAY = 3600.0, 86400.0
HOME = Path("/home/you")
GB = 2**30


class StillDay(date):
    @classmethod
    def today(cls) -> date:
        return date.fromtimestamp(CLOCK)


def header(name: str, quantization: str, size: float, parameters: float, **facts) -> GGUFHeader:
    """Return a header as a file of that size (in GB of 10**9 bytes) would have it."""
    metadata = {
        "llama.embedding_length": 4096,
        "llama.block_count": 32,
        "llama.feed_forward_length": 11008,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": facts.pop("kv_heads", 32),
        "tokenizer.ggml.tokens.length": 32000,
    }
    folder = HOME / "models" / facts.pop("folder", "")
    path = folder / f"{name.lower().replace(' ', '-')}.{quantization}.gguf"
    return GGUFHeader(
        path=path,
        architecture="llama",
        name=name,
        quantization=quantization,
        context_length=facts.pop("context", 2048),
        chat_template=facts.pop("template", "{{ 1 }}"),
        size_bytes=int(size * 1e9),
        parameters=int(parameters * 1e9),
        metadata=metadata,
    )


KOALA = header("Koala 7B", "Q4_K_M", 4.08, 6.74)
MODELS = (
    Found(KOALA.path, KOALA),
    *(
        Found(each.path, each)
        for each in (
            header("Koala 13B", "Q8_0", 13.83, 13.02),
            header("Koala 13B", "F16", 26.03, 13.02, folder="large"),
            header("Tiny Chat", "Q5_K_M", 0.78, 1.1, kv_heads=4, template=None, context=32768),
            header("A [b]strange[/] name \x1b[31m", "Q4_0", 1.9, 3.2, folder="from elsewhere"),
        )
    ),
    Found(HOME / "models/cut.gguf", None, f"{HOME}/models/cut.gguf is incomplete: it has 1,000 of 4,000 bytes"),
)


class StillStream:
    """Yields the events, then waits for ever where there is no end among them."""

    def __init__(self, events) -> None:
        self._events = list(events)
        self._stopped = asyncio.Event()

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self._events:
            await self._stopped.wait()
            raise StopAsyncIteration
        event = self._events.pop(0)
        if isinstance(event, Finished):
            self._stopped.set()
        return event

    def stop(self) -> None:
        self._stopped.set()

    async def aclose(self) -> None:
        self.stop()


class StillEngine:
    """A model that says `text` to everything, without ever ending where it is `endless`."""

    pid = None

    def __init__(
        self, text: str, *, name: str = "Koala 7B", endless: bool = False, folded: int = 0, ignored=()
    ) -> None:
        self.text, self.endless, self.folded, self.ignored = text, endless, folded, set(ignored)
        self.loaded = Loaded(
            name, "llama 7B Q4_K_M", 2048, 2048, 4, 0, 32000, 6_740_000_000, 4_080_000_000, 1_073_741_824, "f16", False,
            True, "the file's own", "0123456789abcdef",
        )  # fmt: skip

    def generate(self, messages, sampling, *, folded: int = 0) -> StillStream:
        events = [Folded(self.folded)] if self.folded > folded else []
        events.append(Delta(self.text, 100))
        if not self.endless:
            events.append(Finished("stop", 1, 312, 24, 288, 96, 0.21, 2.4, 0.23, folded=self.folded))
        return StillStream(events)

    async def count_tokens(self, messages, *, folded: int = 0) -> int:
        return 408

    async def close(self) -> None:
        pass


@pytest.fixture
def still(monkeypatch):
    """Let nothing change by itself."""
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("HOME", str(HOME))
    time.tzset()
    monkeypatch.setattr("time.time", lambda: CLOCK)
    monkeypatch.setattr(sidebar, "date", StillDay)
    monkeypatch.setattr(transfer, "date", StillDay)
    monkeypatch.setattr(paths, "_folder", lambda kind: HOME / ".local/share/koala-tui")
    monkeypatch.setattr(state, "recall", dict)
    monkeypatch.setattr(state, "remember", lambda **changes: None)
    monkeypatch.setattr("tui.app.resident_bytes", lambda pids: 5 * GB)
    monkeypatch.setattr(model_facts, "usable_memory", lambda: Memory(16 * GB, 9 * GB))
    monkeypatch.setattr(models_files, "find_models", lambda folders, usual: iter(MODELS))
    monkeypatch.setattr("tui.model_host.read_header", lambda path: KOALA)
    monkeypatch.setattr(Reply, "tokens_per_second", 41.7)
    monkeypatch.setattr(Reply, "seconds_to_first_token", 0.23)
    yield
    monkeypatch.undo()
    if hasattr(time, "tzset"):
        time.tzset()


def still_app(
    engine: StillEngine | EngineError | None = None, *, store: Store | None = None, others=(), **options
) -> KoalaApp:
    """Return the app; `engine` is its model, or why that cannot be loaded, and `others` are those loaded after it."""
    engines = [engine or StillEngine(""), *others]

    async def start(target, load):
        found = engines.pop(0) if len(engines) > 1 else engines[0]
        if isinstance(found, EngineError):
            raise found
        return found

    options = {"target": KOALA.path, "sampling": Sampling(), "start": start, **options}
    return KoalaApp(store=store or Store.open(None), **options)


def at(seconds_ago: float, do, *arguments, **options):
    """Do something with the store as if it had been done then."""
    before = time.time
    time.time = lambda: CLOCK - seconds_ago
    try:
        return do(*arguments, **options)
    finally:
        time.time = before


def conversation(store: Store, *texts: str, ago: float = HOUR, title: str = "") -> int:
    """Add a chat in which user and model say these texts in turn; return its id."""
    number = at(ago, store.create_chat, title)
    parent = None
    for index, text in enumerate(texts):
        role = "assistant" if index % 2 else "user"
        details = {"model": "Koala 7B", "tokens_per_second": 40.0, "time_to_first_token": 0.23} if index % 2 else {}
        parent = at(ago, store.add_message, number, parent, role, text, details=details)
    return number
