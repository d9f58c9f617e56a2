"""Every command of the app in one table: the keys, what is typed after a slash, the palette, the help and the docs.

A command is carried out by a method `action_<name>` of the widget or screen that its place stands for.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from inference.errors import InputError

if TYPE_CHECKING:
    from textual.binding import Binding

Place = Literal["everywhere", "chat", "composer", "conversation", "sidebar"]

PLACES: dict[Place, str] = {
    "everywhere": "Everywhere",
    "chat": "In a chat",
    "composer": "While you write",
    "conversation": "On a message (Tab goes there)",
    "sidebar": "In the list of chats",
}
# A key of one of these reaches its command although a text field has the focus.
ABOVE_TYPING = ("everywhere", "chat")
SCREENS = "tui.screens"
MODIFIERS = r"(?:(?:ctrl|shift|alt|super|hyper|meta)\+)*"
SHOWN = {
    "escape": "Esc",
    "question_mark": "?",
    "slash": "/",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
    "pageup": "PgUp",
    "pagedown": "PgDn",
}


@dataclass(frozen=True)
class Command:
    """Something that the user can have done.

    `name` is typed after a slash where `typed`, and stands before the key in the config file. `keys` are in Textual's
    spelling, with commas between them; where `fixed`, the widget itself knows them and they cannot be changed; where
    it `yields`, a text field that knows the key comes first. `arguments` is what may follow the name; `screen`,
    "module:class", is what it opens.
    """

    name: str
    help: str
    keys: str = ""
    where: Place = "chat"
    arguments: str = ""
    typed: bool = True
    fixed: bool = False
    yields: bool = False
    screen: str = ""

    @property
    def action(self) -> str:
        """The name of the action that carries it out."""
        return self.name.replace("-", "_")


COMMANDS: tuple[Command, ...] = (
    Command("help", "keys, commands, facts about the model; also ? in an empty message", "f1", "everywhere"),
    Command("palette", "all commands, to choose from", "ctrl+p", "everywhere", typed=False),
    Command("theme", "change the colours", "", "everywhere", "[NAME]"),
    Command("quit", "leave; what is being written is kept", "ctrl+q", "everywhere"),
    Command("new", "begin a new chat", "ctrl+n"),
    Command("search", "search everything that was ever said", "ctrl+f", arguments="[TEXT]"),
    Command("sidebar", "show or hide the list of chats", "ctrl+b"),
    Command("stop", "stop the reply; what was said stays", "escape"),
    Command("continue", "let a reply that was cut or stopped go on", "ctrl+g"),
    Command("regenerate", "ask for another reply; the old one stays as ‹1/2›", "ctrl+r"),
    Command("edit", "change what you said last and ask again; the old branch stays"),
    Command("prev", "the version before this one of the last reply that has several"),
    Command("next", "the version after it"),
    Command("copy", "copy the last reply, or its code block N", arguments="[N]"),
    Command("file", "put a text file into the message", arguments="PATH"),
    Command("model", "choose or download a model", "ctrl+o", screen=f"{SCREENS}.models:ModelsScreen"),
    Command("settings", "sampling, preset, system prompt", "ctrl+s", screen=f"{SCREENS}.settings:SettingsScreen"),
    Command("system", "set the system prompt of this chat; without TEXT, remove it", arguments="[TEXT]"),
    Command("set", "change a setting of this chat, such as temperature=0.2", arguments="KEY=VALUE"),
    Command("preset", "use a preset in this chat", arguments="NAME"),
    Command("compare", "ask two models the same, side by side", screen=f"{SCREENS}.compare:CompareScreen"),
    Command("rename", "give this chat another title", "f2", arguments="[TITLE]"),
    Command("pin", "keep this chat at the top of the list, or no longer"),
    Command("delete", "delete this chat"),
    Command("undo", "bring back what was deleted last", "ctrl+z", yields=True),
    Command("export", "write chats to Markdown, JSON Lines or ShareGPT", screen=f"{SCREENS}.transfer:ExportScreen"),
    Command("import", "read chats from an export or from ChatGPT", screen=f"{SCREENS}.transfer:ImportScreen"),
    Command("send", "send the message", "enter", "composer", typed=False),
    Command("new-line", "begin a new line", "ctrl+j,shift+enter,alt+enter", "composer", typed=False),
    Command("complete", "complete the command, or go to the conversation", "tab", "composer", typed=False),
    Command("history", "what you said before", "up,down", "composer", typed=False, fixed=True),
    Command("select", "select a message", "up,down", "conversation", typed=False, fixed=True),
    Command("previous-version", "the version before: ‹1/2›", "left", "conversation", typed=False),
    Command("next-version", "the version after: ‹2/2›", "right", "conversation", typed=False),
    Command("copy-message", "copy it, as it was written", "c,y", "conversation", typed=False),
    Command("copy-block", "copy its code block of this number", "1…9", "conversation", typed=False, fixed=True),
    Command("edit-message", "change what you said there and ask again", "e", "conversation", typed=False),
    Command("regenerate-message", "another reply in its place", "r", "conversation", typed=False),
    Command("write", "back to the message you are writing", "enter,i,slash", "conversation", typed=False),
    Command("open", "open the chat", "enter", "sidebar", typed=False, fixed=True),
    Command("pin-chat", "pin it, or no longer", "p", "sidebar", typed=False),
    Command("rename-chat", "rename it", "r", "sidebar", typed=False),
    Command("delete-chat", "delete it", "d,delete", "sidebar", typed=False),
)  # fmt: skip
_BY_NAME = {command.name: command for command in COMMANDS}


def command(name: str) -> Command:
    """Return the command of this name."""
    return _BY_NAME[name]


def bindings(where: Place) -> "list[Binding]":
    """Return Textual's bindings for the keys that work at a place; each has its command's name as id."""
    from textual.binding import Binding

    return [
        Binding(each.keys, _binding_action(each), each.help, show=False, priority=_first(each), id=each.name)
        for each in COMMANDS
        if each.where == where and each.keys and not each.fixed
    ]


def _binding_action(command: Command) -> str:
    if command.screen:
        return f"app.open_screen('{command.name}')"
    return f"screen.{command.action}" if command.where in ("conversation", "sidebar") else command.action


def _first(command: Command) -> bool:
    return command.where in ABOVE_TYPING and not command.yields


def matching(typed: str) -> list[Command]:
    """Return the commands whose names begin with what was typed after the slash."""
    return [each for each in COMMANDS if each.typed and each.name.startswith(typed)]


def parse(text: str) -> tuple[Command, str] | None:
    """Return the command and its argument that a message is, or None where it is an ordinary message.

    Raises:
        InputError: it begins with a slash and a word that is no command, or something needed does not follow it.
    """
    match = re.fullmatch(r"/([a-z][a-z-]*)(?:\s+(.*))?\s*", text, re.DOTALL)
    if match is None:
        return None
    name, argument = match[1], (match[2] or "").strip()
    found = _BY_NAME.get(name)
    if found is None or not found.typed:
        near = " or ".join(f"/{each.name}" for each in matching(name[:1])[:3])
        hint = f"; did you mean {near}?" if near else ""
        raise InputError(f"there is no command /{name}{hint} (two slashes send it as a message)")
    if found.arguments and not found.arguments.startswith("[") and not argument:
        raise InputError(f"/{name} needs {found.arguments}: {found.help}")
    if argument and not found.arguments:
        raise InputError(f"/{name} takes nothing after its name (two slashes send it as a message)")
    return found, argument


def message_text(text: str) -> str:
    """Return what a message that is no command says: a doubled slash at its start becomes one."""
    return text[1:] if text.startswith("//") else text


# ---- keys


def keys_of(command: Command, changed: Mapping[str, str]) -> list[str]:
    """Return the keys of a command, after the user's changes."""
    keys = changed.get(command.name, command.keys) if not command.fixed else command.keys
    return [key.strip() for key in keys.split(",") if key.strip()]


def check_keys(changed: Mapping[str, str]) -> dict[str, str]:
    """Return the user's keys, by command, as Textual takes them.

    Raises:
        InputError: a command or key that does not exist, or a key that two commands want.
    """
    from textual.keys import Keys

    for name in changed:
        known = _BY_NAME.get(name)
        if known is None or known.fixed:
            names = ", ".join(each.name for each in COMMANDS if not each.fixed)
            raise InputError(f"keys: there is no command {name!r} whose key can be changed; there are {names}")
        for key in keys_of(known, changed):
            match = re.fullmatch(f"({MODIFIERS})(.+)", key)
            last = match[2] if match else ""
            if len(last) != 1 and last not in {each.value for each in Keys} and not _is_character_name(last):
                raise InputError(f"keys: {name} cannot have the key {key!r}; write it as in ctrl+n, f5 or alt+left")
            if known.where in ABOVE_TYPING and not match[1] and (len(last) == 1 or _is_character_name(last)):
                raise InputError(f"keys: {name} cannot have the key {key!r}, which is needed for typing; add ctrl+")
    taken: dict[str, list[Command]] = {}
    for each in COMMANDS:
        for key in keys_of(each, changed):
            for other in taken.setdefault(key, []):
                if _meet(each, other):
                    raise InputError(
                        f"keys: {key} would belong to {other.name} and to {each.name}; give one of them another key"
                    )
            taken[key].append(each)
    return {name: ",".join(keys_of(_BY_NAME[name], changed)) for name in changed}


def _is_character_name(name: str) -> bool:
    from textual.keys import REPLACED_KEYS

    if name in REPLACED_KEYS:
        return True
    try:
        unicodedata.lookup(name.replace("_", " ").upper())
    except KeyError:
        return False
    return True


def _meet(one: Command, other: Command) -> bool:
    return one.where == other.where or one.where in ABOVE_TYPING or other.where in ABOVE_TYPING


def key_name(key: str) -> str:
    """Return a key as people write it: Ctrl+N, Esc, ↑."""
    *modifiers, last = key.split("+") if key != "+" else [key]
    shown = SHOWN.get(last, last)
    if modifiers or re.fullmatch(r"f\d+", last):
        shown = shown.upper() if len(shown) <= 3 else shown
    if len(shown) > 1 and shown.islower():
        shown = shown.capitalize()
    return "+".join([*map(str.capitalize, modifiers), shown])


def key_names(command: Command, changed: Mapping[str, str]) -> str:
    """Return the keys of a command as people write them, or "" where it has none."""
    return ", ".join(map(key_name, keys_of(command, changed)))


def usage(command: Command) -> str:
    """Return what is typed: /name and its arguments."""
    return f"/{command.name} {command.arguments}".rstrip() if command.typed else ""


def key_table_markdown() -> str:
    """Return the tables of keys and commands for the docs."""
    parts = []
    for place, heading in PLACES.items():
        rows = [
            f"| {key_names(each, {})} | {f'`{usage(each)}`' if each.typed else ''} | {each.help} |"
            for each in COMMANDS
            if each.where == place
        ]
        parts.append("\n".join([f"**{heading}**", "", "| key | command | |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"
