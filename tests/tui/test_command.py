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


def test_chats_are_exported_and_imported(home, models, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}\n{"x": 1}\n'
        '{"conversations": [{"from": "human", "value": "Bye"}, {"from": "gpt", "value": "See you"}]}\n'
    )
    done = koala_tui("--import", tmp_path / "in.jsonl")
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "2 chats with 4 messages imported"
    assert done.stderr.startswith("left out: ") and not done.stdout
    listed = koala_tui("--chat").stdout
    assert "1: Hi (2 messages, " in listed and "2: Bye (2 messages, " in listed
    done = koala_tui("--export", "jsonl", tmp_path / "out.jsonl")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"2 chats written to {tmp_path / 'out.jsonl'}\n")
    assert koala_tui("--export", "jsonl", "-").stdout == (tmp_path / "out.jsonl").read_text()
    one = koala_tui("--export", "markdown", "-", "--chat", 2).stdout
    assert "See you" in one and "Hello" not in one
    done = koala_tui("--import", tmp_path / "out.jsonl")
    assert done.stderr == "0 chats with 0 messages imported; 2 chats had been there already\n"
    done = koala_tui("--import", tmp_path / "out.jsonl", "--store", tmp_path / "other.db")
    assert done.stderr == "2 chats with 4 messages imported\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--import", "none.jsonl"], "none.jsonl"),
        (["--export", "pdf", "x"], "choose one of markdown, jsonl"),
        (["--export", "jsonl", "/proc/nowhere/x"], "/proc/nowhere/x cannot be written"),
        (["--export", "jsonl", "x", "--chat", "7"], "there is no chat 7"),
        (["--plain", "--chat", "7", "{koala}"], "there is no chat 7"),
    ],
)
def test_exchange_that_cannot_be(models, arguments, said):
    done = koala_tui(*(argument.format(koala=models["koala"]) for argument in arguments))
    assert done.returncode in (1, 2) and said in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1


def test_the_forms_are_those_of_the_exchange():
    from tui.arguments import FORMS
    from tui.exchange import FORMS as KNOWN

    assert FORMS == KNOWN


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json"],
        ["-p", "x", "--continue"],
        ["-p", "x", "--chat", "1"],
        ["--continue", "--chat", "1"],
        ["--no-save", "--store", "x"],
        ["m.gguf", "--endpoint-model", "x"],
        ["-p", "x", "--plain"],
        ["--gpu-layers", "-2"],
        ["--chat", "x"],
        ["--completion", "tcsh"],
    ],
)
def test_flags_that_do_not_go_together(capsys, arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2 and "koala-tui: error: " in capsys.readouterr().err


def test_a_config_that_is_wrong_is_one_sentence(home, capsys, tmp_path):
    home.mkdir()
    (home / "config.yaml").write_text("modle: x\n")
    for arguments in (["-p", "x"], ["--plain"], ["--chat"], []):
        assert main(arguments) == 2
        assert f"error: {home / 'config.yaml'}, line 1: modle" in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml cannot be read" in capsys.readouterr().err
    assert main(["--print-config"]) == 0


def test_a_store_that_cannot_be_opened_is_one_sentence(home, models, capsys, tmp_path):
    (tmp_path / "folder").mkdir()
    assert main([str(models["koala"]), "--plain", "--store", str(tmp_path / "folder")]) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", ["{koala} -p x --json", "{koala} -p x", "{koala} --plain", "--print-config"])
def test_a_full_disk_at_the_other_end(models, arguments):
    command = f"echo Hi | '{sys.executable}' -m tui {arguments.format(koala=models['koala'])} > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_a_terminal_without_the_characters(models):
    for arguments in (["--help"], [models["koala"], "-p", "x"]):
        done = koala_tui(*arguments, env={**os.environ, "PYTHONIOENCODING": "ascii"})
        assert (done.returncode, done.stderr) == (0, "")
