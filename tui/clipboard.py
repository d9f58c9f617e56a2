"""Copying text to wherever the user can paste it from.

There are three ways, and what is said afterwards names the one that was taken:

- A program of the system (pbcopy, wl-copy, xclip, xsel, clip.exe): it tells whether it worked, so it comes first when
  the app runs on the user's own machine. Over SSH only a forwarded X display leads to that machine.
- The terminal (OSC 52): the only way out of an SSH session, so it comes first there. It gives no answer. It is not
  tried where it is known not to work: on consoles, in Apple's Terminal, in older terminals of GNOME and KDE, and with
  more text than most terminals take. tmux is told to pass the text on by its own command, or else by wrapped sequences
  as screen is.
- A file in the folder for exports. This always works, or says why not.
"""

import asyncio
import base64
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from textual.app import App

from . import paths

PROGRAM_SECONDS = 2.0
MOST_BYTES = 74_000  # of base64; xterm and others ignore longer sequences
SCREEN_BYTES = 512  # GNU screen passes sequences on in pieces that must not be longer than 768 bytes
NAME = "copied.txt"


async def copy(app: App, text: str, what: str = "text") -> str:
    """Copy the text and return a sentence for the user on how that was done; `what` says what it is, such as "code"."""
    environment = os.environ
    how = None
    for way in (_by_terminal, _by_program) if is_remote(environment) else (_by_program, _by_terminal):
        how = how or await way(app, text, environment)
    return f"{what[:1].upper()}{what[1:]} {how or _to_file(text)}"


def is_remote(environment: Mapping[str, str]) -> bool:
    """Return whether the app runs on another machine than the terminal."""
    return any(environment.get(name) for name in ("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"))


def programs(environment: Mapping[str, str], platform: str = sys.platform) -> list[list[str]]:
    """Return the commands that may reach the user's clipboard, the most likely first."""
    remote = is_remote(environment)
    commands = []
    if not remote and platform == "darwin":
        commands.append(["pbcopy"])
    if not remote and environment.get("WAYLAND_DISPLAY"):
        commands.append(["wl-copy"])
    if environment.get("DISPLAY"):
        commands += [["xclip", "-selection", "clipboard", "-in"], ["xsel", "--clipboard", "--input"]]
    if not remote and (platform == "win32" or environment.get("WSL_DISTRO_NAME")):
        commands.append(["clip.exe"])
    return [command for command in commands if shutil.which(command[0])]


def terminal_may_copy(environment: Mapping[str, str]) -> bool:
    """Return whether there is hope that the terminal understands OSC 52."""
    term = environment.get("TERM", "")
    if term in ("", "dumb", "linux") or term.startswith("vt"):
        return False
    if environment.get("TERM_PROGRAM") == "Apple_Terminal" or "JetBrains" in environment.get("TERMINAL_EMULATOR", ""):
        return False
    if (konsole := environment.get("KONSOLE_VERSION", "")).isdecimal():
        return int(konsole) >= 241200
    return not environment.get("VTE_VERSION")


def sequences(text: str, environment: Mapping[str, str]) -> str:
    """Return what has to be written to the terminal, wrapped for tmux or GNU screen where one of them is in between."""
    plain = f"\x1b]52;c;{base64.b64encode(_bytes(text)).decode()}\a"
    if environment.get("TMUX"):
        doubled = plain.replace("\x1b", "\x1b\x1b")
        return f"{plain}\x1bPtmux;{doubled}\x1b\\"  # which of the two gets through depends on tmux's settings
    if environment.get("STY") or environment.get("TERM", "").startswith("screen"):
        pieces = (plain[at : at + SCREEN_BYTES] for at in range(0, len(plain), SCREEN_BYTES))
        return "".join(f"\x1bP{piece}\x1b\\" for piece in pieces)
    return plain


async def _by_program(app: App, text: str, environment: Mapping[str, str]) -> str | None:
    for command in programs(environment):
        data = text.encode("utf-16-le", "replace") if command[0] == "clip.exe" else _bytes(text)
        if await _run(command, data):
            return f"copied with {command[0]}"
    return None


async def _by_terminal(app: App, text: str, environment: Mapping[str, str]) -> str | None:
    if (
        environment.get("TMUX")
        and shutil.which("tmux")
        and await _run(["tmux", "load-buffer", "-w", "-"], _bytes(text))
    ):
        return "copied into tmux's buffer, and into the clipboard where the terminal lets tmux do that"
    # The driver is the only one who may write to the terminal: anything else could end up inside of what it writes.
    driver = app._driver
    if driver is None or not terminal_may_copy(environment) or len(_bytes(text)) * 4 // 3 > MOST_BYTES:
        return None
    driver.write(sequences(text, environment))
    driver.flush()
    return "sent to the terminal's clipboard (OSC 52, which does not tell whether it worked)"


async def _run(command: list[str], data: bytes) -> bool:
    """Return whether the command took the data."""
    process = None
    try:
        # Its output goes nowhere: wl-copy and xclip live on in the background and would keep a pipe open.
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await asyncio.wait_for(process.communicate(data), PROGRAM_SECONDS)
    except (OSError, asyncio.TimeoutError):
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
        return False
    return process.returncode == 0


def _to_file(text: str) -> str:
    file = paths.exports_folder() / NAME
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{NAME}.")
        try:
            with os.fdopen(descriptor, "wb") as target:
                target.write(_bytes(text))
            Path(temporary).replace(file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        return f"could not be copied: no clipboard was found, and {file} cannot be written ({error.strerror})"
    return f"written to {file}, because no clipboard was found"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
