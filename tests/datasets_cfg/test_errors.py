"""Bad input is a sentence that commands no terminal."""

from hypothesis import given
from hypothesis import strategies as st

from datasets_cfg.errors import BadInput, exit_code, visible


def test_names_from_files_command_no_terminal(capsys):
    def command() -> None:
        raise BadInput("the tensor \x1b]0;owned\x07 \x9b2J \u202egnp.exe\u2069\r is\tno\ntensor, größer 你好")

    assert exit_code(command) == 2
    assert capsys.readouterr().err == (
        "error: the tensor \\x1b]0;owned\\x07 \\x9b2J \\u202egnp.exe\\u2069\\r is\tno\ntensor, größer 你好\n"
    )


@given(st.text())
def test_what_is_shown_has_no_control_characters_and_keeps_the_rest(text):
    shown = visible(text)
    assert all(character.isprintable() or character in "\n\t" or character in text for character in shown)
    assert not any(
        (ord(character) < 32 and character not in "\n\t") or 127 <= ord(character) < 160 for character in shown
    )
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text
