"""The completion scripts, run by the shells that they are for."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tui import completion
from tui.arguments import build_parser
from tui.config import PRESETS, SAMPLING_KEYS

FLAGS = {"--prompt", "--plain", "--list", "--set", "--completion", "--no-save", "-p", "-h"}


@pytest.fixture
def folder(tmp_path):
    for name in ("one.gguf", "two words.gguf", "notes.txt", "form.jinja"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    return tmp_path


def run(command: list[str], folder: Path) -> list[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8", "TERM": "dumb"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.splitlines()


def bash(folder: Path, *words: str, presets=PRESETS) -> list[str]:
    """What bash offers for the last of the words; readline splits words at "=", so this does, too."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    (folder / "script").write_text(completion.script("bash", build_parser(presets)))
    split = ["koala-tui", *(part for word in words for part in re.findall(r"=|[^=]+", word) or [""])]
    lines = [
        "source ./script",
        f"COMP_WORDS=({' '.join(map(shlex.quote, split))})",
        f"COMP_CWORD={len(split) - 1}",
        "_koala_tui koala-tui",
        'for word in "${COMPREPLY[@]}"; do echo "$word"; done',
    ]
    return run(["bash", "--norc", "--noprofile", "-c", "\n".join(lines)], folder)


def zsh(folder: Path, line: str) -> list[str]:
    """What zsh offers at the end of the line: it is asked in a terminal of its own, as there is no other way."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    (folder / "script").write_text(completion.script("zsh", build_parser()))
    set_up = (
        "stty rows 200 columns 100; autoload -U compinit; compinit -u -D; source ./script; "
        "zle-line-init() { print -n READ''Y }; zle -N zle-line-init\n"  # from then on the line editor has the keys
    )
    main, terminal = os.openpty()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "PS1": "",
        "PROMPT_EOL_MARK": "",
    }
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"], cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal,
        start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown = ""

    def show_until(marker: str) -> str:
        nonlocal shown
        while marker not in shown:
            shown += os.read(main, 65536).decode(errors="replace")
        before, _, shown = shown.partition(marker)
        return before

    try:
        os.write(main, set_up.encode())
        show_until("READY")
        os.write(main, f"{line}\x04\x15print DON''E\n".encode())  # Ctrl+D lists, Ctrl+U empties the line
        return [word for word in re.split(r"\s\s+|[\r\n]+", show_until("DONE")) if word]
    finally:
        shell.kill()
        shell.wait()
        os.close(main)


def fish(folder: Path, line: str) -> list[str]:
    """What fish offers at the end of the line."""
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    (folder / "script").write_text(completion.script("fish", build_parser()))
    command = f"function koala-tui; end; source ./script; complete -C {shlex.quote(line)}"
    return [text.partition("\t")[0] for text in run(["fish", "--no-config", "-c", command], folder)]


class TestBash:
    def test_flags(self, folder):
        assert set(bash(folder, "-")) >= FLAGS
        assert bash(folder, "--pl") == ["--plain"]
        assert bash(folder, "one.gguf", "--temp") == ["--template"]

    def test_models_are_the_ggufs_and_the_folders_on_the_way_to_them(self, folder):
        assert sorted(bash(folder, "")) == ["more/", "one.gguf", "two words.gguf"]
        assert bash(folder, "tw") == ["two words.gguf"]
        assert bash(folder, "--plain", "o") == ["one.gguf"]

    def test_settings_and_presets(self, folder):
        assert bash(folder, "--set", "") == [f"{name}=" for name in SAMPLING_KEYS]
        assert bash(folder, "--set", "temp") == ["temperature="]
        assert bash(folder, "--set=temp") == ["temperature="]
        assert bash(folder, "--set=") == [f"{name}=" for name in SAMPLING_KEYS]
        assert bash(folder, "--set", "temperature=0") == []
        assert bash(folder, "--set=temperature=0") == []
        assert bash(folder, "--preset", "pre") == ["precise"]
        assert bash(folder, "--load", "n_c") == ["n_ctx="]

    def test_both_arguments_of_export(self, folder):
        assert bash(folder, "--export", "") == ["markdown", "jsonl", "sharegpt", "sharegpt-branches"]
        assert bash(folder, "--export", "jsonl", "no") == ["notes.txt"]

    def test_free_text_is_left_alone(self, folder):
        assert bash(folder, "--prompt", "o") == []
        assert bash(folder, "--context", "") == []

    def test_a_name_is_never_run(self, folder):
        presets = {"mine": None, "$(touch ran)": None, "`touch ran`": None, "two words": None}
        assert bash(folder, "--preset", "", presets=presets) == ["mine"]
        assert not (folder / "ran").exists()


def test_zsh(folder):
    assert set(zsh(folder, "koala-tui --")) >= {"--prompt", "--plain", "--set"}
    assert {"more/", "one.gguf", "two\\ words.gguf"} <= set(zsh(folder, "koala-tui "))
    assert "notes.txt" not in zsh(folder, "koala-tui ")
    assert {"temperature=", "top_k="} <= set(zsh(folder, "koala-tui --set "))
    assert set(PRESETS) <= set(zsh(folder, "koala-tui --preset "))
    assert "notes.txt" in zsh(folder, "koala-tui --export jsonl n")


def test_fish(folder):
    assert set(fish(folder, "koala-tui --")) >= {"--prompt", "--plain", "--set"}
    assert fish(folder, "koala-tui o") == ["one.gguf"]
    assert fish(folder, "koala-tui --set temp") == ["temperature="]
    assert fish(folder, "koala-tui --preset pre") == ["precise"]


def test_every_flag_is_in_every_script():
    parser = build_parser()
    flags = {option for action in parser._actions for option in action.option_strings}
    for shell in completion.SHELLS:
        text = completion.script(shell, parser)
        for flag in flags:
            assert flag in text or f"-{'l' if flag.startswith('--') else 's'} {flag.lstrip('-')} " in text, (
                shell,
                flag,
            )
