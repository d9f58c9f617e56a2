"""docs/tui.md says what is so."""

import re
import runpy
import shlex
from pathlib import Path

from tui.arguments import build_parser
from tui.config import PRESETS

PAGE = Path(__file__).parents[2] / "docs" / "tui.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_keys_are_those_of_the_app():
    with_keys = runpy.run_path(str(PAGE.with_name("keys.py")))["with_keys"]
    assert with_keys(TEXT) == TEXT, "python docs/keys.py writes them"


def commands() -> list[list[str]]:
    """Every koala-tui that stands in a code block, as the shell would split it, without pipes and redirections."""
    blocks = re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    found = []
    for line in "".join(blocks).splitlines():
        for part in re.split(r"[|>]|\$\(|\)\"", line.partition("  #")[0]):
            words = shlex.split(part.replace('eval "', ""))
            if words[:1] == ["koala-tui"]:
                found.append(words[1:])
    return found


def test_every_command_can_be_typed():
    assert len(commands()) > 15
    for words in commands():
        build_parser().parse_args(words)


def test_every_flag_is_explained_somewhere():
    parser = build_parser()
    shown = TEXT + parser.format_help()
    for action in parser._actions:
        for option in action.option_strings:
            assert option in shown
    for name in PRESETS:
        assert f"`{name}`" in TEXT
