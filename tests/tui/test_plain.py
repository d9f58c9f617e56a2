"""The chat by lines, as a person or a script uses it."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny_gguf import REPLY
from tui.plain_text import Words
from tui.store import Store

ROOT = Path(__file__).parent.parent.parent
SPOKEN = f"Koala: {REPLY}"


@pytest.fixture
def plain(home, models):
    """Run `koala-tui MODEL --plain` with these lines on stdin and return what it says."""

    def run(*lines: str, model: str = "koala", flags=()) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tui", models[model], "--plain", "--threads", "1", *flags],
            input="".join(f"{line}\n" for line in lines),
            capture_output=True, text=True, encoding="utf-8", timeout=60, cwd=ROOT,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout and "\r" not in done.stdout
        return done.stdout

    return run


@pytest.fixture
def store(home):
    store = Store.open(home / "chats.db")
    yield store
    store.close()


def path(store, chat=1):
    return [(message.role, message.content, message.state) for message in store.path(chat)]


def test_a_chat(plain, store, home):
    said = plain("Who are you?", "/quit", "never read")
    assert f"You: Who are you?\n{SPOKEN}You: /quit\n" in said and "never read" not in said
    assert "You speak with Tiny Koala. /help lists the commands.\n" in said
    assert "makes things up" in said  # the first time
    assert path(store) == [("user", "Who are you?", "complete"), ("assistant", REPLY, "complete")]
    details = store.path(1)[1].details
    assert details["model"] == "Tiny Koala" and details["sampling"]["seed"] is not None
    assert "makes things up" not in plain("/quit")
    assert json.loads((home / "state.json").read_text())["last_model"].endswith("koala.gguf")


def test_long_messages(plain, store):
    plain("one \\", "two", '"""', "three", "", "four\\", '"""', '"""five"""', "//six", "")
    questions = [content for role, content, _ in path(store) if role == "user"]
    assert questions == ["one \ntwo", "three\n\nfour\\", "five", "/six"]


def test_the_end_of_the_input_ends_a_message_too(plain, store):
    said = plain('"""', "an unended one")
    assert SPOKEN in said
    assert path(store)[0][1] == "an unended one"


def test_again_and_continue_and_settings(plain, store):
    said = plain(
        "Hi", "/set max_tokens=3 temperature=0", "/again", "/continue", "/set max_tokens=99", "/continue", "/show"
    )
    assert "Koala: I am **Koala**\nCut at max_tokens=3. /continue lets it go on.\n" in said
    assert "temperature=0.0, top_k=40" in said
    first, second = (message for message in store.tree(1) if message.role == "assistant")
    assert (first.siblings, second.position) == (2, 2)
    assert second.content.strip() == REPLY.strip() and second.state == "complete"
    assert said.endswith(f"You: Hi\n{SPOKEN}You: \n") or SPOKEN in said.rpartition("/show")[2]
    assert store.chat(1).settings["sampling"] == {"max_tokens": 99, "temperature": 0.0}


def test_chats_are_found_and_opened_again(plain):
    plain("The eucalyptus one", "/new", "Another")
    said = plain("/chats", "/chats eucalyptus", "/open 1", "/open 7", "/quit")
    assert "2: Another (2 messages, " in said and "1: The eucalyptus one (2 messages, " in said
    found = said.partition("/chats eucalyptus\n")[2].partition("You: ")[0]
    assert found == "1: The eucalyptus one: The eucalyptus one\n" * found.count("\n") and found
    assert f"This is chat 1: The eucalyptus one, 2 messages.\nYou: The eucalyptus one\n{SPOKEN}" in said
    assert "Error: there is no chat 7" in said
    assert "This is chat 1" in plain("/quit", flags=["--chat", "1"])
    assert "This is chat 2" in plain("/quit", flags=["--continue"])


def test_files_system_and_presets(plain, store, tmp_path):
    (tmp_path / "notes.txt").write_text("three\nlittle\nlines\n")
    said = plain(
        *(f"/file {tmp_path / 'notes.txt'}", "What is this?", "/file none.txt"),
        *("/system Be brief.", "/preset", "/preset greedy", "/preset warm"),
    )
    assert "notes.txt, 3 lines, goes with your next message." in said
    assert path(store)[0][1] == "notes.txt:\n```txt\nthree\nlittle\nlines\n```\n\n\nWhat is this?"
    assert "Error: there is no file none.txt" in said
    assert "Presets: balanced, precise, creative, greedy. This chat uses none." in said
    assert "Error: there is no preset warm; there are balanced" in said
    assert store.chat(1).settings == {"sampling": {"temperature": 0.0}, "system": "Be brief.", "preset": "greedy"}


def test_what_cannot_be_done_is_a_sentence(plain):
    said = plain("/nope", "/open", "/open x", "/help me", "/set warmth=3", "/continue", "/again", "/stop", "/help")
    for sentence in (
        "Error: there is no command /nope; /help lists them, and two slashes send it as a message.",
        "Error: /open needs N.",
        "Error: /open needs the number of a chat, not 'x'; /chats lists them.",
        "Error: /help takes nothing after its name.",
        "Error: there is no setting 'warmth=3'",
        "Error: there is nothing to continue yet.",
        "Error: there is nothing to answer yet.",
        "Nothing is being written. Ctrl+C stops a reply.",
        "/chats [WORDS]: list the latest chats",
    ):
        assert sentence in said


def test_a_message_that_does_not_fit_is_given_back(plain, store):
    said = plain("word " * 3000, "/again", "Hi")
    assert said.count("Your message was not answered. /again asks it once more.") == 2
    assert SPOKEN in said
    assert path(store)[0][1] == "Hi"


def test_nothing_is_kept_with_no_save(plain, home):
    assert SPOKEN in plain("Hi", flags=["--no-save"])
    assert not (home / "chats.db").exists() and not (home / "cache").exists()


def test_it_needs_no_textual(models, home):
    code = (
        "import sys; from tui.__main__ import main\n"
        f"code = main([{str(models['koala'])!r}, '--plain'])\n"
        "heavy = {'textual', 'rich', 'markdown_it', 'llama_cpp', 'torch'} & set(sys.modules)\n"
        "sys.exit(code or ', '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="Hi\n",
        capture_output=True, text=True, encoding="utf-8", timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and SPOKEN in done.stdout


class Terminal:
    """The command in a pseudo-terminal."""

    def __init__(self, arguments, home, term="xterm") -> None:
        self.main, terminal = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tui", *map(str, arguments)], stdin=terminal, stdout=terminal, stderr=terminal,
            env={**os.environ, "TERM": term, "LC_ALL": "C.UTF-8"}, cwd=ROOT,
            start_new_session=True, preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(terminal)
        self.shown = ""

    def wait_for(self, text: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        seen = self.shown
        while text not in seen:
            assert select.select([self.main], [], [], max(0, deadline - time.monotonic()))[0], (
                f"{text!r} not in {seen!r}"
            )
            try:
                seen += os.read(self.main, 65536).decode(errors="replace")
            except OSError:  # everybody has left
                raise AssertionError(f"{text!r} not in {seen!r}") from None
        self.shown = seen.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self.main, text.encode())

    def interrupt(self, until: str) -> None:
        """Press Ctrl+C until this appears: Python does not notice one just before readline begins to wait."""
        while until not in self.shown:
            self.type("\x03")
            while until not in self.shown and select.select([self.main], [], [], 0.3)[0]:
                self.shown += os.read(self.main, 65536).decode(errors="replace")
        self.wait_for(until)

    def exit_code(self, key: str) -> int:
        """Press the key until everybody has left, and return the command's exit code."""
        try:
            while True:
                self.type(key)
                while select.select([self.main], [], [], 0.3)[0]:
                    self.shown += os.read(self.main, 65536).decode(errors="replace")
        except OSError:
            return self.process.wait(20)


@pytest.fixture
def terminal(home):
    opened = []

    def open_terminal(*arguments, term="xterm") -> Terminal:
        opened.append(Terminal(arguments, home, term))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.process.kill()
        each.process.wait()
        os.close(each.main)


ENDLESS = ("--set", "temperature=0", "--set", "max_tokens=999999", "--threads", "1")


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_ctrl_c_stops_the_reply_and_twice_quits(terminal, models, store, term):
    chat = terminal(models["babble"], "--plain", *ENDLESS, term=term)
    chat.wait_for("You: ")
    chat.type("Hi\n")
    chat.wait_for("Koala: ")
    chat.type("\x03")
    chat.wait_for("Stopped. /continue lets it go on.")
    chat.wait_for("You: ")
    assert path(store)[1][2] == "partial" and path(store)[1][1]
    chat.type("/stop\n")
    chat.wait_for("Nothing is being written.")
    chat.wait_for("You: ")
    chat.interrupt(until="Ctrl+C once more quits.")
    assert chat.exit_code("\x03") == 0


def test_ctrl_c_twice_while_it_writes_quits(terminal, models, store):
    chat = terminal(models["babble"], "--plain", *ENDLESS)
    chat.wait_for("You: ")
    chat.type("Hi\n")
    chat.wait_for("Koala: ")
    chat.type("\x03")
    chat.wait_for("^C")
    assert chat.exit_code("\x03") == 0
    assert path(store)[1][2] == "partial"


def test_ctrl_d_quits_and_a_paste_of_lines_is_one_message(terminal, models, store):
    chat = terminal(models["koala"], "--plain", "--threads", "1")
    chat.wait_for("You: ")
    chat.type("\x1b[200~one\ntwo " + "hello" * 1000 + "\x1b[201~\n")
    chat.wait_for("I am")
    chat.wait_for("You: ")
    assert chat.exit_code("\x04") == 0
    assert path(store)[0][1] == "one\ntwo " + "hello" * 1000


def test_words_are_written_whole(tmp_path):
    class Out(list):
        def write(self, text):
            self.append(text)

        def flush(self):
            pass

    out = Out()
    words = Words(out)
    for piece in ("I a", "m a ko", "ala\x1b[31m", ".", " ", "漢" * 50):
        words.add(piece)
    words.end()
    assert out == ["Koala: I ", "am a ", "koala␛[31m. ", "漢" * 50, "\n"]


def test_progress_is_whole_lines_and_ctrl_c_ends_the_loading(models):
    code = (
        "import asyncio, sys, tui.model_host, tui.plain\n"
        "from tui.__main__ import main\n"
        "async def never(target, options): await asyncio.sleep(1000)\n"
        "tui.model_host.start_engine, tui.plain.PROGRESS_SECONDS = never, 0.05\n"
        f"sys.exit(main([{str(models['koala'])!r}, '--plain', '--no-save']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert process.stdout.readline() == "Loading the model, 0 seconds so far.\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
