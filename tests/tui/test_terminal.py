"""The app in a real terminal, driven through tmux as a person would drive it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.tiny_gguf import REPLY
from tui.store import Store

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Terminal:
    """A tmux server of its own with one window, in which a shell runs."""

    def __init__(self, socket: Path, home: Path) -> None:
        self.socket, self.home = socket, home

    def fresh_shell(self) -> None:
        """Begin with a new shell: a program that was killed leaves the terminal in disorder."""
        # What pytest says of its own width is not that of the window.
        variables = ["env", "-u", "COLUMNS", "-u", "LINES", "LC_ALL=C.UTF-8", "PS1=back$ ", f"KOALA_HOME={self.home}"]
        self.tmux("respawn-pane", "-k", "-c", ROOT, *variables, "sh")
        self.wait_for("back$")

    def tmux(self, *arguments: object) -> str:
        command = ["tmux", "-S", str(self.socket), "-f", "/dev/null", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8", timeout=10).stdout

    def keys(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)

    def screen(self, *options: str) -> str:
        return self.tmux("capture-pane", "-p", *options)

    def wait_for(self, *texts: str, seconds: float = 30) -> str:
        deadline = time.monotonic() + seconds
        while not all(text in (screen := self.screen()) for text in texts):
            assert time.monotonic() < deadline, f"{texts} never appeared in:\n{screen}"
            time.sleep(0.05)
        return screen

    def start(self, *arguments: object, shows: str = "Message …") -> psutil.Process:
        """Start koala-tui, wait until it shows something, and return its process."""
        before = self.processes()
        command = [f"'{sys.executable}' -m tui", *(f"'{argument}'" for argument in arguments)]
        self.keys(f"clear; {' '.join(command)}; echo code $?", "Enter")
        self.wait_for(shows)
        [process] = [process for process in self.processes() if process not in before]
        return process

    def processes(self) -> list[psutil.Process]:
        shell = psutil.Process(int(self.tmux("display-message", "-p", "#{pane_pid}")))
        return shell.children()


def wait_until(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def terminal(tmp_path, home):
    terminal = Terminal(tmp_path / "tmux", home)
    terminal.tmux("new-session", "-d", "-x", 100, "-y", 30, "sh")
    terminal.fresh_shell()
    yield terminal
    terminal.tmux("kill-server")


GREEDY = ("--set", "temperature=0", "--set", "max_tokens=999999")


def test_start_type_stream_stop_resize_quit(terminal, models):
    app = terminal.start(models["babble"], *GREEDY)
    terminal.wait_for("Type a message and press Enter.", "● ready")
    terminal.type("Hello there")
    terminal.wait_for("Hello there")
    terminal.keys("Enter")
    terminal.wait_for("▸ writing")
    [worker] = app.children()
    terminal.keys("Escape")
    terminal.wait_for("● ready", "stopped · Ctrl+G continues it")
    terminal.tmux("resize-window", "-x", 60, "-y", 20)
    terminal.type("a second one")
    terminal.wait_for("a second one")
    terminal.tmux("resize-window", "-x", 140, "-y", 40)
    terminal.wait_for("a second one", "Today")
    terminal.keys("C-q")
    screen = terminal.wait_for("code 0")
    assert "Traceback" not in screen and "Type a message" not in screen
    wait_until(lambda: gone(worker))


def test_a_whole_conversation_and_the_next_day(terminal, models):
    terminal.start(models["koala"], "--set", "temperature=0")
    terminal.wait_for("● ready")
    terminal.type("Who are you?")
    terminal.keys("C-j")
    terminal.type("Really?")
    terminal.keys("Enter")
    terminal.wait_for("a tïny model", "print('hi')")
    terminal.keys("C-n")
    terminal.wait_for("Type a message and press Enter.")
    terminal.type("a draft that waits")
    terminal.keys("C-q")
    terminal.wait_for("code 0")
    terminal.start(shows="a draft that waits")  # the model used last, the draft that was not sent
    terminal.wait_for("● ready", "Tiny Koala", "a draft that waits", "Who are you?")
    terminal.keys("C-f")
    terminal.wait_for("Search")
    terminal.type("tïny")
    terminal.wait_for("1 found")
    terminal.keys("Enter")
    terminal.wait_for("Really?", "a tïny model")
    terminal.keys("C-q")
    terminal.wait_for("code 0")
    store = Store.open(terminal.home / "chats.db")
    assert [(m.role, m.content) for m in store.path(store.chats()[-1].id)] == [
        ("user", "Who are you?\nReally?"),
        ("assistant", REPLY),
    ]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_a_reply(terminal, models, how):
    app = terminal.start(models["babble"], *GREEDY)
    terminal.wait_for("● ready")
    terminal.type("Talk")
    terminal.keys("Enter")
    terminal.wait_for("▸ writing")
    [worker] = app.children()
    app.send_signal(how)
    terminal.wait_for("code 0")
    wait_until(lambda: gone(worker))
    store = Store.open(terminal.home / "chats.db")
    [_, reply] = store.path(store.chats()[0].id)
    assert reply.state == "partial" and reply.content


def test_the_window_is_closed_in_the_middle_of_a_reply(terminal, models):
    app = terminal.start(models["babble"], *GREEDY)
    terminal.wait_for("● ready")
    terminal.type("Talk")
    terminal.keys("Enter")
    terminal.wait_for("▸ writing")
    [worker] = app.children()
    terminal.tmux("new-window", "sh")
    terminal.tmux("kill-window", "-t", ":0")
    wait_until(lambda: gone(app) and gone(worker))
    store = Store.open(terminal.home / "chats.db")
    [question, reply] = store.path(store.chats()[0].id)
    assert question.content == "Talk" and reply.state == "partial" and reply.content


def test_the_app_is_killed_in_the_middle_of_a_reply_and_started_again(terminal, models):
    app = terminal.start(models["babble"], *GREEDY)
    terminal.wait_for("● ready")
    terminal.type("Talk")
    terminal.keys("Enter")
    terminal.wait_for("▸ writing")
    store = Store.open(terminal.home / "chats.db")
    wait_until(lambda: len(store.path(store.chats()[0].id)[-1].content) > 100)
    terminal.type("half a thought")
    wait_until(lambda: store.chats()[0].draft == "half a thought")
    [worker] = app.children()
    time.sleep(1)
    written = store.path(store.chats()[0].id)[-1].content
    os.kill(app.pid, signal.SIGKILL)
    terminal.wait_for("code 137")
    wait_until(lambda: gone(worker))
    assert len(store.path(store.chats()[0].id)[-1].content) >= len(written)
    store.close()
    terminal.fresh_shell()
    terminal.start("--continue", shows="half a thought")
    terminal.wait_for("interrupted · Ctrl+G continues it", "half a thought", "● ready")
    terminal.keys("C-q")
    terminal.wait_for("code 0")


def test_no_color(terminal, models):
    terminal.keys("export NO_COLOR=1", "Enter")
    terminal.start(models["koala"])
    terminal.wait_for("● ready")
    colours = {
        code
        for sequence in terminal.screen("-e").split("\x1b[")[1:]
        for code in sequence.partition("m")[0].split(";")[:5]
        if "m" in sequence
    }
    terminal.keys("C-q")
    terminal.wait_for("code 0")
    assert not colours & {"31", "32", "33", "34", "35", "36"}, "nothing but shades of grey"


def test_a_missing_model_never_opens_the_screen(terminal):
    terminal.keys(f"'{sys.executable}' -m tui missing.gguf; echo code $?", "Enter")
    assert "error: there is no file missing.gguf" in terminal.wait_for("code 2")


def test_what_is_typed_in_one_burst_arrives_in_its_order(terminal, models):
    terminal.start(models["koala"], "--set", "temperature=0")
    terminal.wait_for("● ready")
    terminal.type("Who are you?\rAnd this waits")
    terminal.wait_for("print('hi')", "│ And this waits")
    terminal.type(" for you\x0eA new chat\rAnd the last words\x11")  # Ctrl+N, Ctrl+Q
    terminal.wait_for("code 0")
    store = Store.open(terminal.home / "chats.db")
    first, second = sorted(store.chats(), key=lambda chat: chat.id)
    assert store.path(first.id)[0].content == "Who are you?"
    assert store.chat(first.id).draft == "And this waits for you"
    # The model may have had no time to answer, and then the question is a draft again.
    said = [message.content for message in store.path(second.id) if message.role == "user"]
    assert [*said, *store.chat(second.id).draft.split("\n\n")] == ["A new chat", "And the last words"]
