"""What each screen looks like, in several sizes and themes: drawings as text, one file each, to be read in a diff.

`pytest tests/tui/snapshots --snapshot-update` draws them anew. They are Textual's to the cell, so another version of it
than the one in constraints.txt skips them.
"""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import textual
from textual.widgets import Input, TextArea

from inference.errors import EngineError
from tests.tui.conftest import send, until
from tests.tui.snapshots.drawing import ScreenExtension, draw
from tests.tui.snapshots.still_app import DAY, HOUR, MODELS, StillEngine, conversation, still, still_app
from tui import hub
from tui.exchange import ImportResult
from tui.hub import HubFile, HubModel
from tui.model_host import Endpoint
from tui.screens import models_hub, transfer
from tui.screens.compare import CompareScreen
from tui.screens.form import FormRow
from tui.screens.models import ModelsScreen
from tui.screens.settings import SettingsScreen
from tui.screens.transfer import ExportScreen, ImportScreen
from tui.store import Store
from tui.widgets.transcript import Transcript

PINNED = re.search(
    r"^textual==([\w.]+)", (Path(__file__).parents[3] / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
)[1]
pytestmark = [
    pytest.mark.usefixtures("still"),
    pytest.mark.skipif(
        textual.__version__ != PINNED, reason=f"the drawings are those of textual {PINNED}, not {textual.__version__}"
    ),
]
__all__ = ["still"]

SMALL, LARGE = (60, 20), (120, 36)
KOALA = [(SMALL, "koala"), (LARGE, "koala")]
ALL = [*KOALA, (LARGE, "koala-contrast"), (SMALL, "ansi-dark")]

ANSWER = """\
Koalas sleep about **20 hours** a day, and eat at night:

1. They choose *young* leaves, of a few kinds of eucalyptus.
2. They smell each leaf first; see [this page](https://example.org).

| hours | what they do |
|------:|--------------|
| 20    | sleep        |
| 4     | eat          |

```python
def day(hours=24):
    return {"asleep": 20, "eating": hours - 20}  # roughly
```

> So a koala is awake when you are not.
"""
HOSTILE = "\x1b[31mred\x1b]0;owned\x07 [bold]tag[/bold] <b>html</b> \u202eevil [@click=app.quit]x[/] " + "long" * 40


@dataclass(frozen=True)
class Scene:
    """What leads to a screen, and in which sizes and themes it is drawn. `app` makes the app, `play` uses it."""

    app: object
    play: object = None
    looks: tuple = tuple(KOALA)


SCENES: dict[str, Scene] = {}


def scene(app, *, looks=KOALA):
    """Add the decorated function, which uses the app, as a scene of its name."""

    def add(play):
        SCENES[play.__name__] = Scene(app, play, tuple(looks))
        return play

    return add


def transcript(app) -> Transcript:
    return app.screen_of_chats.conversation


def with_chats() -> Store:
    """Return a store with a few chats of several days, one of them pinned."""
    store = Store.open(None)
    conversation(store, "Who was [b]Blinky[/b] Bill?", "A koala in a book.", ago=40 * DAY)
    pinned = conversation(store, "How do I train a small model?", "With carefully sourced data.", ago=20 * DAY)
    store.pin(pinned, True)
    conversation(store, "Translate “eucalyptus” into \x1b[31mGerman", "Eukalyptus.", ago=30 * HOUR)
    conversation(store, "A haiku about leaves", "Leaves at dusk …", ago=2 * HOUR)
    conversation(store, "What do koalas do all day?", ANSWER, ago=HOUR)
    return store


def chatting(number: int = 5, engine: StillEngine | None = None, **options):
    return still_app(engine, store=with_chats(), chat_id=number, **options)


# ---- the chat


@scene(lambda: still_app(), looks=ALL)
async def first_run(pilot):
    """Before the first message, with the honest paragraph."""


@scene(lambda: still_app(target=None))
async def no_model(pilot):
    """The first start of all: the models are shown."""
    await until(lambda: isinstance(pilot.app.screen, ModelsScreen) and pilot.app.screen.query("#files"))
    await until(lambda: len(pilot.app.screen.query_one("#files")._rows) == len(MODELS))


@scene(lambda: still_app(store=with_chats()))
async def new_chat(pilot):
    """A later start."""


@scene(lambda: chatting(), looks=[*ALL, (LARGE, "koala-light"), ((220, 50), "koala")])
async def markdown(pilot):
    """A reply with everything in it."""


@scene(lambda: still_app(StillEngine(ANSWER[:150], endless=True)), looks=ALL)
async def streaming(pilot):
    await send(pilot, "What do koalas do all day?")
    await until(lambda: transcript(pilot.app).entries()[-1].text == ANSWER[:150])


@scene(lambda: still_app(StillEngine("I only see the end of it.", folded=2), store=with_chats(), chat_id=5))
async def folded_away(pilot):
    await send(pilot, "What did I ask first?")
    await until(lambda: any(entry.kind == "marker" for entry in transcript(pilot.app).entries()))
    await until(lambda: not pilot.app.runner.active)


@scene(lambda: chatting(engine=StillEngine("They climb, too.")))
async def versions(pilot):
    """The second of two answers, selected."""
    await pilot.press("ctrl+r")
    await until(lambda: not pilot.app.runner.active and len(pilot.app.chat.path) == 2)
    await pilot.press("tab", "up")


@scene(lambda: still_app(StillEngine(HOSTILE)))
async def hostile_text(pilot):
    await send(pilot, HOSTILE)
    await until(lambda: not pilot.app.runner.active and len(pilot.app.chat.path) == 2)


@scene(lambda: still_app(EngineError("the file koala.gguf [is] odd: its header ends early; download it again")))
async def cannot_be_loaded(pilot):
    await until(lambda: transcript(pilot.app).entries())


@scene(lambda: chatting(4), looks=[(SMALL, "koala"), (LARGE, "koala-contrast")])
async def sidebar(pilot):
    await pilot.press("ctrl+b" if pilot.app.size.width < 90 else "shift+tab")


@scene(lambda: chatting())
async def commands(pilot):
    await pilot.press("/", "s")


@scene(lambda: chatting())
async def search(pilot):
    await pilot.press("ctrl+f", *"koala")
    await until(lambda: "found" in str(pilot.app.screen.query_one("#search-foot").content))


@scene(lambda: chatting(), looks=ALL)
async def help(pilot):
    await pilot.press("f1")


@scene(lambda: chatting())
async def palette(pilot):
    await pilot.press("ctrl+p", *"exp")
    await until(lambda: pilot.app.screen.query_one("CommandList").option_count)


# ---- models


async def open_models(pilot) -> ModelsScreen:
    screen = ModelsScreen()
    pilot.app.push_screen(screen)
    await until(lambda: screen.query("#files") and len(screen.query_one("#files")._rows) == len(MODELS))
    return screen


@scene(lambda: still_app(), looks=[*ALL, ((180, 40), "koala")])
async def models(pilot):
    await open_models(pilot)
    await pilot.press("down")


@scene(lambda: still_app())
async def models_options(pilot):
    await open_models(pilot)
    await pilot.press("down", "down", "ctrl+l", *"70000", "down", "right", "right", "right", "right")


@scene(lambda: still_app())
async def models_hub_download(pilot):
    await open_models(pilot)
    await pilot.press("f3")
    pilot.app.screen.query_one("#repository", Input).value = "koala/Koala-7B-GGUF"
    await pilot.press("enter")
    await until(lambda: pilot.app.screen.query_one("#hub-models").option_count)
    await pilot.press("down", "enter")
    await until(lambda: pilot.app.downloads.all and pilot.app.downloads.all[0].done)


@scene(lambda: still_app())
async def models_endpoint(pilot):
    await open_models(pilot)
    await pilot.press("f4")
    pilot.app.screen.query_one("#url", Input).value = "http://localhost:8080/v1"
    await pilot.press("enter")
    await until(lambda: pilot.app.screen.query_one("#served").option_count)


# ---- settings


@scene(lambda: chatting(), looks=ALL)
async def settings(pilot):
    pilot.app.push_screen(SettingsScreen())


@scene(lambda: chatting())
async def settings_out_of_range(pilot):
    pilot.app.push_screen(SettingsScreen())
    await pilot.pause()
    screen = pilot.app.screen
    screen.query_one("#system", TextArea).text = "You are a koala.\nAnswer [b]briefly[/b]."
    screen.query_one("#row-top_p", FormRow).field.value = "1.5"
    await pilot.press("ctrl+s")


@scene(lambda: still_app(StillEngine("", ignored=["top_k", "min_p"]), target=Endpoint("http://localhost:8080", "m")))
async def settings_of_an_endpoint(pilot):
    await until(lambda: pilot.app.host.running is not None)
    pilot.app.push_screen(SettingsScreen())


# ---- compare


@scene(
    lambda: still_app(StillEngine(ANSWER), others=[StillEngine("They *sleep*.", name="Tiny Chat")]),
    looks=[*ALL, ((220, 50), "koala")],
)
async def compare(pilot):
    await until(lambda: pilot.app.host.running is not None)
    screen = CompareScreen()
    pilot.app.push_screen(screen)
    await until(lambda: isinstance(pilot.app.screen, ModelsScreen) and pilot.app.screen.query("#files"))
    await pilot.pause()
    pilot.app.screen.choose(MODELS[3].path, pilot.app.host.options)
    await until(lambda: screen.comparison is not None and pilot.app.screen is screen)
    await until(lambda: screen.comparison.right.host.running is not None)
    await send_to_both(pilot, screen)


async def send_to_both(pilot, screen):
    screen.query_one("Composer").insert("What do koalas do all day?")
    await pilot.press("enter")
    await until(lambda: screen.comparison.chat_id is not None and not screen.comparison.busy)


# ---- export and import


@scene(lambda: chatting())
async def export(pilot):
    pilot.app.push_screen(ExportScreen())
    await pilot.pause()
    await pilot.press("down", "right")


@scene(lambda: chatting(), looks=[(SMALL, "koala"), (LARGE, "ansi-dark")])
async def import_report(pilot):
    pilot.app.push_screen(ImportScreen())
    await pilot.pause()
    pilot.app.screen.query_one("#path", Input).value = "/home/you/conversations.json"
    await pilot.press("enter")
    await until(lambda: "came in" in str(pilot.app.screen.query_one("#came").content))


# ---- the test


@pytest.fixture(autouse=True)
def world(monkeypatch):
    """What the scenes meet outside of the app."""

    async def find(repository):
        return [
            HubModel(repository, "c", (HubFile(f"koala-7b.{name}.gguf", int(size * 1e9)),))
            for name, size in [("Q2_K", 2.83), ("Q4_K_M", 4.08), ("Q8_0", 7.16), ("F16", 13.48)]
        ]

    async def download(model, folder, progress):
        progress(1_234_000_000, model.size)
        await asyncio.Event().wait()

    async def list_models(url):
        return ["koala-7b", "tiny \x1b[31m[b]chat[/b]"]

    result = ImportResult(chats=12, messages=345, skipped=["record 3: nothing is said in it"], known=2)
    monkeypatch.setattr(models_hub, "find_models", find)
    monkeypatch.setattr(hub, "download", download)
    monkeypatch.setattr("inference.endpoint.list_models", list_models)
    monkeypatch.setattr(transfer, "import_file", lambda store, path, progress: result)


async def settle(pilot) -> None:
    """Wait until nothing is on its way to the screen."""
    app = pilot.app
    await until(lambda: all(worker.is_finished for worker in app.workers))
    await until(lambda: not any(view._waiting for view in app.screen.query(Transcript)))
    app.clear_notifications()
    for widget in app.screen.walk_children():
        widget.refresh()
    await pilot.pause()


LOOKS = [(name, *look) for name, scene in SCENES.items() for look in scene.looks]


@pytest.mark.parametrize(
    ("name", "size", "theme"), LOOKS, ids=[f"{name}-{size[0]}x{size[1]}-{theme}" for name, size, theme in LOOKS]
)
async def test_scene(name, size, theme, snapshot):
    app = SCENES[name].app()
    app.theme = theme
    async with app.run_test(size=size) as pilot:
        await until(lambda: app.host.state in ("ready", "failed", "none"))
        await SCENES[name].play(pilot)
        await settle(pilot)
        drawing = await draw(pilot)
    assert drawing == snapshot(extension_class=ScreenExtension)


def test_there_are_enough_of_them():
    assert len(LOOKS) >= 30 and {SMALL, LARGE} <= {size for _, size, _ in LOOKS}
    assert len({theme for _, _, theme in LOOKS}) >= 3
