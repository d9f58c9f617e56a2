import asyncio
import base64
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from tui import clipboard
from tui.clipboard import copy, programs, sequences, terminal_may_copy

TELLING = (
    *("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY", "TMUX", "STY", "DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"),
    *("TERM_PROGRAM", "VTE_VERSION", "KONSOLE_VERSION", "TERMINAL_EMULATOR"),
)
TEXT = "print('ü 🐨')\n"


class Terminal:
    """Stands for the app: keeps what would be written to the terminal."""

    def __init__(self) -> None:
        self.written = ""
        self._driver = SimpleNamespace(write=self._write, flush=lambda: None)

    def _write(self, data: str) -> None:
        self.written += data


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without any clipboard; `machine.program(name)` installs one that keeps what it is given."""
    for name in TELLING:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("KOALA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(clipboard, "PROGRAM_SECONDS", 5.0)

    def program(name: str, script: str = '/bin/cat > "$0.got"; echo "$@" > "$0.arguments"') -> Path:
        file = folder / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    return SimpleNamespace(
        set=monkeypatch.setenv,
        program=program,
        got=lambda name: (folder / f"{name}.got").read_bytes(),
        arguments=lambda name: (folder / f"{name}.arguments").read_text().split(),
        file=tmp_path / "home" / "exports" / "copied.txt",
    )


def unwrapped(sequence: str) -> str:
    payload = re.fullmatch(r"\x1b\]52;c;([A-Za-z0-9+/=]*)\x07", sequence)
    assert payload, sequence
    return base64.b64decode(payload[1]).decode()


async def test_on_the_users_machine_a_program_comes_first(machine):
    machine.set("WAYLAND_DISPLAY", "wayland-0")
    machine.program("wl-copy")
    terminal = Terminal()
    assert await copy(terminal, TEXT, "code block 1") == "Code block 1 copied with wl-copy"
    assert machine.got("wl-copy") == TEXT.encode() and terminal.written == ""


async def test_each_display_has_its_programs(machine):
    machine.set("DISPLAY", ":0")
    machine.program("xsel")
    machine.program("wl-copy")
    assert await copy(Terminal(), TEXT) == "Text copied with xsel"
    assert machine.arguments("xsel") == ["--clipboard", "--input"]


def test_other_systems(machine):
    for name in ("pbcopy", "clip.exe", "xclip"):
        machine.program(name)
    assert programs({}, "darwin") == [["pbcopy"]]
    assert programs({"WSL_DISTRO_NAME": "Ubuntu"}, "linux") == [["clip.exe"]]
    assert programs({"SSH_TTY": "/dev/pts/1"}, "darwin") == []
    assert [name for name, *_ in programs({"SSH_TTY": "/dev/pts/1", "DISPLAY": "localhost:10"}, "linux")] == ["xclip"]


async def test_windows_gets_the_characters_that_it_understands(machine):
    machine.set("WSL_DISTRO_NAME", "Ubuntu")
    machine.program("clip.exe")
    assert "clip.exe" in await copy(Terminal(), TEXT)
    assert machine.got("clip.exe").decode("utf-16-le") == TEXT


async def test_a_program_that_fails_or_hangs_is_not_believed(machine, monkeypatch):
    monkeypatch.setattr(clipboard, "PROGRAM_SECONDS", 0.2)
    machine.set("WAYLAND_DISPLAY", "wayland-0")
    machine.set("DISPLAY", ":0")
    machine.program("wl-copy", "exit 1")
    machine.program("xclip", "exec /bin/sleep 60")
    terminal = Terminal()
    said = await asyncio.wait_for(copy(terminal, TEXT), 10)
    assert "OSC 52" in said and unwrapped(terminal.written) == TEXT


async def test_a_program_that_lives_on_does_not_hold_the_app(machine):
    machine.set("DISPLAY", ":0")
    machine.program("xclip", '/bin/cat > "$0.got"; (/bin/sleep 3) &')
    assert await asyncio.wait_for(copy(Terminal(), TEXT), 2) == "Text copied with xclip"
    assert machine.got("xclip") == TEXT.encode()


async def test_over_ssh_the_terminal_comes_first(machine):
    machine.set("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")
    machine.set("WAYLAND_DISPLAY", "wayland-0")
    machine.program("wl-copy")
    terminal = Terminal()
    said = await copy(terminal, TEXT, "message")
    assert said.startswith("Message sent to the terminal's clipboard") and "does not tell" in said
    assert unwrapped(terminal.written) == TEXT


async def test_tmux_is_asked_to_pass_it_on(machine):
    machine.set("SSH_TTY", "/dev/pts/1")
    machine.set("TMUX", "/tmp/tmux-0/default,1,0")
    machine.program("tmux")
    assert "tmux" in await copy(Terminal(), TEXT)
    assert machine.got("tmux") == TEXT.encode() and machine.arguments("tmux") == ["load-buffer", "-w", "-"]


async def test_an_old_tmux_gets_wrapped_sequences(machine):
    machine.set("TMUX", "/tmp/tmux-0/default,1,0")
    machine.program("tmux", "exit 1")
    terminal = Terminal()
    assert "OSC 52" in await copy(terminal, TEXT)
    plain, wrapped = terminal.written.split("\x1bPtmux;")
    assert unwrapped(plain) == TEXT
    assert unwrapped(wrapped.removesuffix("\x1b\\").replace("\x1b\x1b", "\x1b")) == TEXT


def test_screen_gets_it_in_short_pieces():
    long = TEXT * 200
    sequence = sequences(long, {"STY": "1.pts"})
    pieces = sequence.split("\x1b\\")
    assert pieces.pop() == "" and len(pieces) > 3
    assert all(piece.startswith("\x1bP") and len(piece) < 768 for piece in pieces)
    assert unwrapped("".join(piece.removeprefix("\x1bP") for piece in pieces)) == long


@pytest.mark.parametrize(
    ("environment", "may"),
    [
        ({"TERM": "xterm-kitty"}, True),
        ({"TERM": "tmux-256color"}, True),
        ({"TERM": "linux"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, False),
        ({"TERM": "xterm-256color", "VTE_VERSION": "7002"}, False),
        ({"TERM": "xterm-256color", "KONSOLE_VERSION": "220401"}, False),
        ({"TERM": "xterm-256color", "KONSOLE_VERSION": "250401"}, True),
    ],
)
def test_which_terminals_may_copy(environment, may):
    assert terminal_may_copy(environment) is may


@pytest.mark.parametrize("reason", ["terminal", "size"])
async def test_at_last_a_file(machine, reason):
    text = TEXT if reason == "terminal" else TEXT * 10_000
    if reason == "terminal":
        machine.set("TERM", "linux")
    terminal = Terminal()
    assert await copy(terminal, text) == f"Text written to {machine.file}, because no clipboard was found"
    assert machine.file.read_text(encoding="utf-8") == text and terminal.written == ""
    assert machine.file.stat().st_mode & 0o077 == 0
    assert [file.name for file in machine.file.parent.iterdir()] == ["copied.txt"]


async def test_a_file_that_cannot_be_written_is_told(machine, tmp_path):
    machine.set("TERM", "linux")
    (tmp_path / "home").write_text("not a folder")
    said = await copy(Terminal(), TEXT)
    assert said.startswith("Text could not be copied: no clipboard was found, and ") and "\n" not in said


async def test_what_no_encoding_has_is_replaced(machine):
    machine.set("WAYLAND_DISPLAY", "wayland-0")
    machine.program("wl-copy")
    await copy(Terminal(), "a\ud800b")
    assert machine.got("wl-copy") == b"a?b"
