import re
from pathlib import Path

import pytest

from inference.errors import InputError
from tui import commands
from tui.commands import COMMANDS, PLACES, bindings, check_keys, command, key_name, key_names, parse


def test_names_are_unique_and_every_place_is_known():
    assert len({each.name for each in COMMANDS}) == len(COMMANDS)
    assert {each.where for each in COMMANDS} == set(PLACES)
    assert all(re.fullmatch(r"[a-z][a-z-]*", each.name) for each in COMMANDS)


def test_every_command_can_be_carried_out():
    from tui.app import KoalaApp
    from tui.screens.chat import ChatScreen
    from tui.widgets.composer import Composer

    owners = {"everywhere": KoalaApp, "composer": Composer}
    for each in COMMANDS:
        if not each.fixed and not each.screen:
            assert hasattr(owners.get(each.where, ChatScreen), f"action_{each.action}"), each.name


@pytest.mark.parametrize("each", [each for each in COMMANDS if each.screen], ids=lambda each: each.name)
def test_every_screen_is_there(each):
    from importlib import import_module

    module, _, kind = each.screen.partition(":")
    assert hasattr(import_module(module), kind)


def test_the_default_keys_do_not_conflict():
    assert check_keys({}) == {}


def test_bindings_have_the_names_as_ids():
    assert {binding.id for binding in bindings("conversation")} == {
        each.name for each in COMMANDS if each.where == "conversation" and not each.fixed
    }
    assert all(binding.action.startswith("screen.") for binding in bindings("sidebar"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/help", ("help", "")),
        ("/set temperature=0 top_k=1", ("set", "temperature=0 top_k=1")),
        ("/system You are\na koala", ("system", "You are\na koala")),
        ("/search", ("search", "")),
        ("hello", None),
        ("//help", None),
        ("/usr/bin", None),
        ("/etc/passwd what is it", None),
        ("/", None),
        ("/2", None),
    ],
)
def test_what_is_a_command(text, found):
    parsed = parse(text)
    assert (parsed and (parsed[0].name, parsed[1])) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/nonsense", "no command /nonsense; did you mean /new or /next?"),
        ("/send", "no command /send"),
        ("/set", "/set needs KEY=VALUE"),
        ("/new chat please", "/new takes nothing"),
    ],
)
def test_what_is_no_command_is_a_sentence(text, said):
    with pytest.raises(InputError, match=re.escape(said)):
        parse(text)


def test_a_doubled_slash_is_a_message():
    assert commands.message_text("//help") == "/help" and commands.message_text("help") == "help"


def test_keys_are_changed():
    changed = check_keys({"search": " f3 , ctrl+t ", "write": "question_mark", "send": "ctrl+enter"})
    assert changed["search"] == "f3,ctrl+t"
    assert key_names(command("search"), changed) == "F3, Ctrl+T"
    assert check_keys({"new": "ctrl+f", "search": "ctrl+n"}), "two keys may be exchanged"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"fly": "f5"}, "no command 'fly'"),
        ({"select": "f5"}, "no command 'select' whose key"),
        ({"new": "n"}, "needed for typing"),
        ({"new": "question_mark"}, "needed for typing"),
        ({"new": "ctrl n"}, "cannot have the key"),
        ({"new": "hyperspace+n"}, "cannot have the key"),
        ({"new": "ctrl+f"}, "ctrl+f would belong to new and to search"),
        ({"copy-message": "e"}, "e would belong to"),
    ],
)
def test_keys_that_cannot_be_are_a_sentence(changed, said):
    with pytest.raises(InputError, match=re.escape(said)):
        check_keys(changed)


def test_keys_as_people_write_them():
    names = {"ctrl+n": "Ctrl+N", "escape": "Esc", "f2": "F2", "shift+enter": "Shift+Enter", "alt+left": "Alt+←"}
    names |= {"c": "c", "slash": "/", "delete": "Delete", "ctrl+pageup": "Ctrl+PgUp", "1…9": "1…9"}
    assert {key: key_name(key) for key in names} == names


def test_the_docs_have_the_table_of_keys():
    docs = Path(__file__).parent.parent.parent / "docs" / "tui.md"
    table = commands.key_table_markdown()
    assert "| Ctrl+F | `/search [TEXT]` |" in table
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| key")]
    text = docs.read_text(encoding="utf-8")
    assert [row for row in rows if row not in text] == []
