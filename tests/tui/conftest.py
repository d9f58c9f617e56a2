import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from inference.load_options import LoadOptions
from inference.local import LocalEngine
from inference.sampling import Sampling
from tests.inference.conftest import fake_worker
from tests.tiny_gguf import REPLY_TOKENS, write_tiny_gguf
from tui.app import KoalaApp
from tui.store import Store
from tui.widgets.transcript import Entry


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """`koala` gives a fixed reply; `babble` never ends."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "koala": write_tiny_gguf(folder / "koala.gguf", reply=REPLY_TOKENS),
        "babble": write_tiny_gguf(folder / "babble.gguf", n_ctx=8192),
    }


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """Everything that the app keeps lies in a folder of the test's own."""
    monkeypatch.setenv("KOALA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def app_with_model(path: Path, *, store: Store | None = None, **settings) -> KoalaApp:
    """Return the app on a real GGUF, greedy unless `settings` say otherwise."""
    sampling = Sampling(**{"temperature": 0, **settings})
    return KoalaApp(store=store or Store.open(None), target=path, load=LoadOptions(n_threads=1), sampling=sampling)


def app_with_script(*, store: Store | None = None, options: dict | None = None, **script) -> KoalaApp:
    """Return the app on a worker without a model that follows the script (see fake_worker.py)."""
    script.setdefault("loaded", {"name": "Fake [b]Koala"})

    async def start(target, load):
        return await LocalEngine.start(target, load, command=fake_worker(**script))

    options = {"sampling": Sampling(seed=1), "target": Path("fake.gguf"), **(options or {})}
    return KoalaApp(store=store or Store.open(None), start=start, **options)


async def until(condition: Callable[[], object], seconds: float = 15) -> None:
    """Wait until the condition holds; fail if it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.02)


# ---- what a person would do and see


def state(app: KoalaApp) -> str:
    return app.screen_of_chats.status_line.state


def composed(app: KoalaApp) -> str:
    return app.screen_of_chats.composer.text


def shown(app: KoalaApp, kind: str | None = None) -> list[Entry]:
    """The entries of the conversation, or those of one kind."""
    return [entry for entry in app.screen_of_chats.conversation.entries() if kind in (None, entry.kind)]


def texts(app: KoalaApp, kind: str | None = None) -> list[str]:
    return [entry.text for entry in shown(app, kind)]


def notices(app: KoalaApp) -> list[str]:
    return texts(app, "notice")


def toasts(app: KoalaApp) -> list[str]:
    return [notification.message for notification in app._notifications]


async def told(app: KoalaApp, text: str) -> None:
    """Wait until a toast says this."""
    await until(lambda: any(text in toast for toast in toasts(app)))


def said(app: KoalaApp) -> list[tuple[str, str]]:
    """What the store holds of the open chat: role and content."""
    return [(message.role, message.content) for message in app.store.path(app.chat_id)]


def busy(app: KoalaApp) -> bool:
    return bool(app.runner.active)


async def send(pilot: Pilot, text: str) -> None:
    pilot.app.screen_of_chats.composer.insert(text)
    await pilot.press("enter")


async def answered(pilot: Pilot, replies: int = 1) -> None:
    app = pilot.app
    await until(lambda: len(shown(app, "reply")) >= replies and not busy(app))
    await pilot.pause()


async def writing(app: KoalaApp) -> None:
    """Wait until some of a reply is on the screen."""
    try:
        await until(lambda: shown(app, "reply") and shown(app, "reply")[-1].text and state(app) == "writing")
    except AssertionError:
        raise AssertionError((state(app), shown(app), app.runner.active, toasts(app))) from None


def screen_text(app: KoalaApp) -> str:
    return "\n".join("".join(segment.text for segment in line) for line in app.screen._compositor.render_strips())
