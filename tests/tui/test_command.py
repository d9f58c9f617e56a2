import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_gguf import REPLY
from tui.__main__ import main

ROOT = Path(__file__).parent.parent.parent
KOALA_TUI = (sys.executable, "-m", "tui")


def koala_tui(*arguments, stdin="", **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*KOALA_TUI, *map(str, arguments)],
        input=stdin, capture_output=True, text=True, encoding="utf-8", timeout=60, cwd=ROOT, **options,
    )  # fmt: skip


def test_one_shot_writes_the_answer_and_nothing_else(models):
    result = koala_tui(models["koala"], "--prompt", "Who are you?", "--set", "temperature=0", "--threads", 1)
    assert (result.returncode, result.stdout, result.stderr) == (0, REPLY, "")


def test_an_answer_that_was_cut_says_so(models):
    result = koala_tui(models["koala"], "-p", "-", "--set", "max_tokens=3", stdin="Who are you?\n")
    assert (result.returncode, result.stdout) == (0, "I am **Koala**\n")
    assert result.stderr.startswith("note: the answer was cut at max_tokens=3")


def test_the_same_seed_gives_the_same_answer(models):
    arguments = (models["babble"], "-p", "x", "--set", "seed=5", "--set", "max_tokens=20", "--system", "Be brief.")
    assert koala_tui(*arguments).stdout == koala_tui(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "needs a terminal"),
        (["-p", "x"], "no model was named"),
        (["--plain"], "no model was named"),
        (["missing.gguf"], "there is no file missing.gguf"),
        ([str(ROOT)], "is a folder"),
        ([__file__], "is not a GGUF file"),
        (["missing.gguf", "--set", "warmth=1"], "temperature"),
        (["missing.gguf", "--set", "temperature=hot"], "needs a number"),
        (["bad\x1b[31mname"], "bad␛[31mname"),
    ],
)
def test_bad_input_is_one_sentence(capsys, arguments, said):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err and "\x1b" not in captured.err and not captured.out
    assert len([line for line in captured.err.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize("arguments", [["x.gguf", "--context", "0"], ["x.gguf", "--threads", "many"], ["--nonsense"]])
def test_bad_options_exit_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2


def test_debug_shows_the_traceback(models):
    result = koala_tui("missing.gguf", "--debug")
    assert result.returncode != 0 and "Traceback" in result.stderr


def test_the_chat_needs_a_terminal(models):
    result = koala_tui(models["koala"])
    assert result.returncode == 2 and "--prompt" in result.stderr


def test_a_reader_that_leaves(models):
    command = f"'{sys.executable}' -m tui '{models['babble']}' -p x --set temperature=0 --context 8192 | head -c 10"
    result = subprocess.run(command, shell=True, capture_output=True, timeout=60, cwd=ROOT)
    assert len(result.stdout) == 10 and b"Traceback" not in result.stderr and b"Error" not in result.stderr


def test_ctrl_c(models):
    process = subprocess.Popen(
        [*KOALA_TUI, models["babble"], "-p", "x", "--set", "temperature=0", "--set", "max_tokens=9999999"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    process.stdout.read(20)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and b"Traceback" not in err


def test_help_is_quick_and_light():
    code = (
        "import sys, tui.__main__\n"
        "try: tui.__main__.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'llama_cpp', 'textual', 'jinja2', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "--prompt" in result.stdout and "temperature=0.7" in result.stdout
