import asyncio
import shutil
import threading
from pathlib import Path

import pytest
from textual.widgets import Button, Input, OptionList

from inference.errors import InputError
from inference.gguf_header import read_header
from inference.load_options import LoadOptions
from inference.machine import Memory
from tests.tiny_gguf import write_tiny_gguf
from tests.tui.conftest import screen_text, toasts, until
from tui import hub, model_facts, paths
from tui.app import KoalaApp
from tui.config import Config
from tui.hub import HubFile, HubModel
from tui.model_host import Endpoint
from tui.screens import models_files
from tui.screens.form import FormRow
from tui.screens.models import ModelsScreen
from tui.store import Store
from tui.widgets.model_table import ModelTable

GB = 2**30


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Models of several kinds, one of them with a hostile name, and files that are none."""
    folder = tmp_path_factory.mktemp("models on disk")
    write_tiny_gguf(folder / "koala-7b.gguf")
    write_tiny_gguf(folder / "[red]evil[bold]\x1b[31m.gguf", template=None)
    (folder / "notes.gguf").write_text("this is no model")
    whole = (folder / "koala-7b.gguf").read_bytes()
    (folder / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine with 16 GB, nothing in the usual places, and a home of its own."""
    monkeypatch.setattr(model_facts, "usable_memory", lambda: Memory(16 * GB, 9 * GB))
    monkeypatch.setattr("inference.scan.usual_places", list)
    monkeypatch.setattr("inference.scan._ollama_models", lambda: iter(()))
    monkeypatch.setenv("HOME", str(tmp_path))


def app_with(*folders: Path) -> KoalaApp:
    """Return the app, which loads nothing and keeps what it was asked to load in `loads`."""

    async def start(target, options):
        await asyncio.Event().wait()

    config = Config(folders=folders)
    app = KoalaApp(store=Store.open(None), config=config, target=Path("/other.gguf"), load=LoadOptions(), start=start)
    app.loads = []
    app.load_model = lambda target, options: app.loads.append((target, options))
    return app


async def open_screen(pilot, **options) -> ModelsScreen:
    screen = ModelsScreen(**options)
    pilot.app.push_screen(screen)
    await until(lambda: screen.is_mounted and screen.query("#files") and not screen.query_one("#files")._scanning)
    await pilot.pause()
    return screen


def filter_field(app) -> Input:
    return app.screen.query_one("#filter", Input)


# ---- files


async def test_what_is_found_is_listed_with_its_facts_or_its_problem(folder):
    app = app_with(folder)
    async with app.run_test(size=(180, 40)) as pilot:
        await open_screen(pilot)
        text = screen_text(app)
        assert "4 found" in text
        rows = [line[:124] for line in text.splitlines() if "Tiny Koala" in line[:40]]
        assert len(rows) == 2 and all(part in row for part in ("F32", "2,048", "yes") for row in rows), rows
        assert sum("own" in row for row in rows) == sum("none" in row for row in rows) == 1
        assert "notes.gguf" in text and "it is not a GGUF file" in text
        assert "cut.gguf" in text and "it is incomplete" in text
        assert "\x1b" not in text


@pytest.mark.parametrize("size", [(60, 20), (90, 30), (220, 50), (40, 12)])
async def test_every_size_works(folder, size):
    app = app_with(folder)
    async with app.run_test(size=size) as pilot:
        screen = await open_screen(pilot)
        for name in ("f3", "f4", "f2", "ctrl+l", "ctrl+l"):
            await pilot.press(name)
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert screen.query_one(ModelTable).option_count == 4


async def test_filter_as_one_types_and_enter_loads(folder):
    app = app_with(folder)
    async with app.run_test(size=(120, 36)) as pilot:
        await open_screen(pilot)
        await pilot.press(*"KOALA-7")
        await pilot.pause()
        assert app.screen.query_one(ModelTable).option_count == 1
        await pilot.press("enter")
        await pilot.pause()
        assert app.loads == [(folder / "koala-7b.gguf", LoadOptions())]
        assert not isinstance(app.screen, ModelsScreen)


async def test_arrows_move_the_selection_and_the_details_follow(folder):
    app = app_with(folder)
    async with app.run_test(size=(120, 36)) as pilot:
        await open_screen(pilot)
        seen = set()
        for _ in range(4):
            seen.add(app.screen.query_one(ModelTable).row.path.name)
            await pilot.press("down")
        assert len(seen) == 4
        filter_field(app).value = "koala-7b"
        await pilot.pause()
        text = screen_text(app)
        assert "KV cache" in text and ", 9.0 GB free" in text and "its own template" in text


async def test_a_click_loads(folder):
    app = app_with(folder)
    async with app.run_test(size=(120, 36)) as pilot:
        await open_screen(pilot)
        filter_field(app).value = "koala-7b"
        await pilot.pause()
        await pilot.click(ModelTable, offset=(3, 0))
        await pilot.pause()
        assert [target for target, _ in app.loads] == [folder / "koala-7b.gguf"]


async def test_a_problem_is_told_and_nothing_is_loaded(folder):
    app = app_with(folder)
    async with app.run_test(size=(120, 36)) as pilot:
        await open_screen(pilot)
        await pilot.press(*"notes", "enter")
        assert app.loads == [] and isinstance(app.screen, ModelsScreen)
        assert "notes.gguf is not a GGUF file" in toasts(app)[-1]


async def test_load_options_go_with_it_and_change_what_fits(folder):
    app = app_with(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await open_screen(pilot)
        filter_field(app).value = "koala-7b"
        await pilot.press("ctrl+l", *"1024")
        await pilot.pause()
        assert "1,024 tokens, f16" in screen_text(app)
        await pilot.press("down", "right", "ctrl+l")
        assert app.focused is filter_field(app)
        await pilot.press("enter")
        await pilot.pause()
        assert app.loads == [(folder / "koala-7b.gguf", LoadOptions(n_ctx=1024, kv_type="f32"))]


async def test_a_load_option_out_of_range_loads_nothing(folder):
    app = app_with(folder)
    async with app.run_test(size=(60, 20)) as pilot:
        await open_screen(pilot)
        filter_field(app).value = "koala-7b"
        await pilot.press("ctrl+l", "1", "enter")
        await pilot.pause()
        assert app.loads == []
        assert app.screen.query_one("#row-n_ctx", FormRow).has_class("-wrong")
        assert "out of range; it goes from 8" in " ".join(screen_text(app).split())


async def test_what_does_not_fit_is_loaded_only_when_that_is_said_twice(folder, monkeypatch):
    monkeypatch.setattr(model_facts, "usable_memory", lambda: Memory(2**20, 2**20))
    app = app_with(folder)
    async with app.run_test(size=(120, 36)) as pilot:
        await open_screen(pilot)
        assert "does not fit" in screen_text(app)
        await pilot.press(*"koala-7b", "enter")
        assert app.loads == [] and "It does not fit: it needs about" in toasts(app)[-1]
        await pilot.press("enter")
        await pilot.pause()
        assert app.loads == [(folder / "koala-7b.gguf", LoadOptions(force=True))]


@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_a_path_opens_that_file_or_folder(folder, tmp_path, kind):
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    shutil.copy(folder / "koala-7b.gguf", elsewhere / "my.gguf")
    app = app_with()
    async with app.run_test(size=(120, 36)) as pilot:
        await open_screen(pilot)
        assert "No GGUF file was found in the usual places" in " ".join(screen_text(app).split())
        filter_field(app).value = str(elsewhere / "my.gguf" if kind == "file" else elsewhere)
        await pilot.press("enter")
        await until(lambda: app.screen.query_one(ModelTable).row is not None)
        await pilot.pause()
        assert filter_field(app).value == ""
        await pilot.press("enter")
        await pilot.pause()
        assert app.loads == [(elsewhere / "my.gguf", LoadOptions())]


async def test_a_path_without_a_model_is_a_sentence(tmp_path):
    app = app_with()
    async with app.run_test(size=(120, 36)) as pilot:
        await open_screen(pilot)
        filter_field(app).value = str(tmp_path / "not there")
        await pilot.press("enter")
        assert "There is no file or folder" in toasts(app)[-1]
        (tmp_path / "empty").mkdir()
        filter_field(app).value = str(tmp_path / "empty")
        await pilot.press("enter")
        await until(lambda: "There is no GGUF file in" in toasts(app)[-1])


async def test_the_screen_works_while_files_are_looked_for(folder, monkeypatch):
    """The scan runs in a thread: what it has found is there, and typing goes on."""
    go_on = threading.Event()
    find = models_files.find_models

    def slow(folders, usual):
        for found in find([folder], usual=False):
            yield found
            go_on.wait(10)

    monkeypatch.setattr(models_files, "find_models", slow)
    monkeypatch.setattr(models_files, "BATCH_SECONDS", 0)
    app = app_with()
    async with app.run_test(size=(120, 36)) as pilot:
        app.push_screen(ModelsScreen())
        await until(lambda: app.screen.query(ModelTable) and app.screen.query_one(ModelTable).option_count == 1)
        await pilot.press("x")
        await pilot.pause()
        assert filter_field(app).value == "x" and "looking" in screen_text(app)
        await pilot.press("escape")
        go_on.set()
        assert not isinstance(app.screen, ModelsScreen)


async def test_somebody_else_may_ask_for_a_model(folder):
    app, chosen = app_with(folder), []
    async with app.run_test(size=(120, 36)) as pilot:
        await open_screen(pilot, heading="The second model", chosen=lambda *choice: chosen.append(choice))
        assert "The second model" in screen_text(app)
        await pilot.press(*"koala-7b", "enter")
        await pilot.pause()
        assert chosen == [(folder / "koala-7b.gguf", LoadOptions())] and app.loads == []


# ---- the hub


MODELS = [
    HubModel("koala/tiny-GGUF", "abc", (HubFile("tiny-Q4_K_M.gguf", 400_000_000),)),
    HubModel("koala/tiny-GGUF", "abc", (HubFile("big-[b]F16\x1b.gguf", 40_000_000_000),)),
]


@pytest.fixture
def fake_hub(monkeypatch, folder):
    """A hub with one repository, whose files arrive when the test says so."""
    arrive = asyncio.Event()

    async def find(repository):
        if repository != "koala/tiny-GGUF":
            raise InputError(f"there is no public repository {repository} on the hub")
        return MODELS

    async def download(model, where, progress):
        progress(100_000_000, model.size)
        await arrive.wait()
        target = where / "koala" / model.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "koala-7b.gguf", target)
        return read_header(target)

    monkeypatch.setattr("tui.screens.models_hub.find_models", find)
    monkeypatch.setattr(hub, "download", download)
    return arrive


async def look_up(pilot, repository="koala/tiny-GGUF"):
    await pilot.press("f3")
    pilot.app.screen.query_one("#repository", Input).value = repository
    await pilot.press("enter")
    await pilot.pause()


async def test_a_repository_shows_its_models_and_what_fits(fake_hub):
    app = app_with()
    async with app.run_test(size=(120, 36)) as pilot:
        await open_screen(pilot)
        await look_up(pilot)
        await until(lambda: "tiny-Q4_K_M.gguf" in screen_text(app))
        lines = screen_text(app).splitlines()
        assert any("tiny-Q4_K_M.gguf" in line and "400 MB" in line and "yes" in line for line in lines)
        assert any("big-[b]F16␛.gguf" in line and "40.0 GB" in line and "no" in line for line in lines)


async def test_an_unknown_repository_is_a_sentence(fake_hub):
    app = app_with()
    async with app.run_test(size=(60, 20)) as pilot:
        await open_screen(pilot)
        await look_up(pilot, "no/such")
        await until(lambda: "there is no public repository no/such" in " ".join(screen_text(app).split()))
        app.screen.query_one("#repository", Input).value = "three words here"
        await pilot.press("enter")
        await until(lambda: "is no repository of the hub" in " ".join(screen_text(app).split()))


async def test_a_download_goes_on_when_the_screen_is_closed_and_is_loaded_later(fake_hub, home):
    app = app_with()
    async with app.run_test(size=(120, 36)) as pilot:
        await open_screen(pilot)
        await look_up(pilot)
        await until(lambda: "tiny-Q4_K_M.gguf" in screen_text(app))
        await pilot.press("enter")
        await until(lambda: "25 %" in screen_text(app))
        await pilot.press("escape")
        assert len(app.downloads.running) == 1
        await open_screen(pilot)
        await pilot.press("f3")
        await pilot.pause()
        assert "25 %" in screen_text(app)
        fake_hub.set()
        await until(lambda: "tiny-Q4_K_M.gguf is downloaded" in toasts(app))
        await until(lambda: "Load it" in screen_text(app))
        await pilot.click(".download Button")
        await pilot.pause()
        assert [target for target, _ in app.loads] == [paths.models_folder() / "koala" / "tiny-Q4_K_M.gguf"]


async def test_a_download_is_cancelled_and_goes_on(fake_hub):
    app = app_with()
    async with app.run_test(size=(60, 20)) as pilot:
        await open_screen(pilot)
        await look_up(pilot)
        await until(lambda: "tiny-Q4_K_M.gguf" in screen_text(app))
        await pilot.press("enter")
        await until(lambda: "25 %" in screen_text(app))
        await pilot.press("tab", "enter")
        await until(lambda: "cancelled; what has come is kept" in screen_text(app))
        again = app.screen.query_one(".download Button", Button)
        assert app.downloads.running == [] and str(again.label) == "Go on"
        await until(lambda: not again.has_class("-active"))
        await pilot.press("enter")
        await until(lambda: len(app.downloads.running) == 1)
        fake_hub.set()
        await until(lambda: "Load it" in screen_text(app))


async def test_quitting_ends_the_downloads(fake_hub):
    app = app_with()
    async with app.run_test(size=(120, 36)) as pilot:
        await open_screen(pilot)
        await look_up(pilot)
        await until(lambda: "tiny-Q4_K_M.gguf" in screen_text(app))
        await pilot.press("enter")
        await until(lambda: app.downloads.running)
        await pilot.press("ctrl+q")
    assert app.downloads.running == []


# ---- endpoints


async def test_an_endpoint_is_tested_and_one_of_its_models_chosen(monkeypatch):
    async def list_models(url):
        if "8080" not in url:
            raise InputError(f"there is no server at {url}")
        return ["small", "large [b]\x1b"]

    monkeypatch.setattr("inference.endpoint.list_models", list_models)
    app = app_with()
    async with app.run_test(size=(60, 20)) as pilot:
        await open_screen(pilot)
        await pilot.press("f4", *"http://localhost:1/v1", "enter")
        await until(lambda: "there is no server at http://localhost:1/v1" in " ".join(screen_text(app).split()))
        app.screen.query_one("#url", Input).value = "http://localhost:8080/v1"
        await pilot.click("#test")
        await until(lambda: "It answers, and serves 2 models." in " ".join(screen_text(app).split()))
        assert "large [b]␛" in screen_text(app)
        app.screen.query_one("#url", Input).focus()
        await pilot.press("down", "enter")
        await pilot.pause()
        assert app.loads == [(Endpoint("http://localhost:8080/v1", "large [b]\x1b"), LoadOptions())]


async def test_another_url_forgets_the_models_of_the_first(monkeypatch):
    async def list_models(url):
        return ["one"]

    monkeypatch.setattr("inference.endpoint.list_models", list_models)
    app = app_with()
    async with app.run_test(size=(120, 36)) as pilot:
        await open_screen(pilot)
        await pilot.press("f4", *"http://a", "enter")
        await until(lambda: app.screen.query_one("#served", OptionList).option_count)
        await pilot.press("b")
        await pilot.pause()
        assert not app.screen.query_one("#served", OptionList).option_count
