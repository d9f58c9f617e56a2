"""One question, one answer: what scripts rely on."""

import asyncio
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inference.errors import EngineError
from inference.local import LocalEngine
from inference.sampling import Sampling
from tests.inference.conftest import fake_worker
from tests.inference.fake_server import DONE, chunk, head, serve
from tests.tiny_gguf import REPLY
from tui import one_shot

ROOT = Path(__file__).parent.parent.parent
KOALA_TUI = (sys.executable, "-m", "tui")


@pytest.fixture
def koala_tui(home):
    def run(*arguments, stdin: str = "") -> subprocess.CompletedProcess:
        return subprocess.run(
            [*KOALA_TUI, *map(str, arguments)], input=stdin, capture_output=True, text=True, encoding="utf-8",
            timeout=60, cwd=ROOT,
        )  # fmt: skip

    return run


class Screen(io.StringIO):
    def isatty(self):
        return True


async def ask(out=None, err=None, sampling=None, **script) -> dict:
    """Have a worker without a model answer, and return the report."""
    report = {}

    async def start():
        return await LocalEngine.start("fake.gguf", command=fake_worker(**script))

    messages = [{"role": "user", "content": "Hi"}]
    out, err = out or io.StringIO(), err or io.StringIO()
    try:
        await one_shot.answer(start, messages, sampling or Sampling(seed=5), out=out, err=err, report=report)
    except EngineError as error:
        report["error"] = str(error)
    return report


async def test_the_answer_goes_out_and_nothing_else_does():
    out, err = io.StringIO(), io.StringIO()
    await ask(out, err, deltas=["Hel", "lo\x1b[31m", "."], prompt_steps=3)
    assert (out.getvalue(), err.getvalue()) == ("Hello␛[31m.\n", "")


async def test_a_terminal_sees_progress_that_leaves_no_trace_and_the_figures():
    out, err = io.StringIO(), Screen()
    await ask(out, err, deltas=["Hello."], prompt_steps=2)
    shown = err.getvalue()
    assert "loading the model …" in shown and "reading the prompt … 50%" in shown
    assert shown.rpartition("\x1b[2K")[2] == "1 tokens, 20.0 tokens/s, seed 5\n"


async def test_figures_do_not_come_between_answer_and_prompt_where_both_share_a_screen():
    err = Screen()
    await ask(Screen(), err, deltas=["Hello."])
    assert "tokens/s" not in err.getvalue()


@pytest.mark.parametrize(("reason", "said"), [("length", "cut at max_tokens=2048"), ("context", "context is full")])
async def test_an_answer_that_was_cut_says_so_always(reason, said):
    err = io.StringIO()
    await ask(err=err, deltas=["Hello"], reason=reason)
    assert said in err.getvalue()


async def test_a_guessed_prompt_format_is_told():
    err = io.StringIO()
    await ask(err=err, loaded={"name": "Fake", "template": "plain; --template chooses another"})
    assert err.getvalue() == "note: the prompt format is plain; --template chooses another\n"


async def test_the_report_keeps_what_there_is_when_the_engine_dies():
    report = await ask(deltas=["Half ", "an answer"], die_after=1)
    assert report["text"] == "Half " and "killed" in report["error"] and report["sampling"]["seed"] == 5


def test_json_has_everything(koala_tui, models):
    done = koala_tui(models["koala"], "-p", "Who are you?", "--json", "--set", "temperature=0", "--context", 512)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["text"] == REPLY and report["exit_code"] == 0 and "error" not in report
    assert report["model"] == "Tiny Koala" and report["fingerprint"] and report["context"] == 512
    assert report["sampling"] == {**vars(Sampling(temperature=0.0)), "seed": report["seed"]}
    assert report["reason"] == "stop" and report["folded"] == 0
    assert report["prompt_tokens"] == report["evaluated_tokens"] > 0 == report["cached_tokens"]
    assert report["completion_tokens"] > 10 and report["tokens_per_second"] > 0 < report["time_to_first_token"]
    assert done.stdout.isascii()


def test_json_of_a_seed_gives_the_answer_again(koala_tui, models):
    arguments = (models["babble"], "-p", "x", "--json", "--set", "max_tokens=20")
    first = json.loads(koala_tui(*arguments).stdout)
    again = json.loads(koala_tui(*arguments, "--set", f"seed={first['seed']}").stdout)
    assert first["text"] == again["text"] and first["text"]


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["none.gguf"], "there is no file none.gguf", 2),
        ([], "no model was named", 2),
        (["none.gguf", "--set", "warmth=1"], "there is no setting", 2),
    ],
)
def test_json_of_an_error(koala_tui, arguments, said, code):
    done = koala_tui(*arguments, "-p", "x", "--json")
    assert done.returncode == code
    report = json.loads(done.stdout)
    assert said in report["error"] and report["exit_code"] == code
    assert done.stderr.startswith("error: ") and said in done.stderr


def test_a_conversation_that_does_not_fit(koala_tui, models):
    done = koala_tui(models["koala"], "-p", "word " * 3000)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the context holds 2,048" in done.stderr and "Traceback" not in done.stderr


def test_settings_come_from_defaults_config_preset_and_flags_in_that_order(koala_tui, models, home, tmp_path):
    config = home / "config.yaml"
    config.parent.mkdir()
    config.write_text(
        f"model: {models['koala']}\n"
        "system: from the config\n"
        "sampling: {temperature: 1.5, top_k: 7, max_tokens: 99}\n"
        "load: {n_ctx: 256}\n"
        "presets: {mine: {top_k: 9, min_p: 0.5, max_tokens: 77, system: from my own preset}}\n"
    )

    def report(*flags):
        return json.loads(koala_tui("-p", "x", "--json", *flags).stdout)

    plain, preset, flag = report(), report("--preset", "mine"), report("--preset", "mine", "--set", "top_k=1")
    effective = [(each["sampling"]["top_k"], each["sampling"]["max_tokens"]) for each in (plain, preset, flag)]
    assert effective == [(7, 99), (9, 77), (1, 77)]
    assert {each["sampling"]["temperature"] for each in (plain, preset, flag)} == {1.5}
    assert plain["context"] == 256 and report("--context", 512)["context"] == 512
    assert report("--load", "n_ctx=768")["context"] == 768
    assert plain["prompt_tokens"] != preset["prompt_tokens"] > report("--system", "")["prompt_tokens"]
    other = tmp_path / "other.yaml"
    other.write_text("sampling: {top_k: 3}\n")
    assert report(models["koala"], "--config", other)["sampling"]["top_k"] == 3


def test_nothing_is_left_behind(koala_tui, models, home):
    assert koala_tui(models["koala"], "-p", "x").returncode == 0
    assert not home.exists()


def test_piped_text_comes_after_the_prompt(monkeypatch, tmp_path):
    def prompt(given: str, piped: str | None) -> str:
        (tmp_path / "stdin").write_text(piped or "")
        with (tmp_path / "stdin").open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            return one_shot.prompt_text(given)

    assert prompt("Review this.", "a\n b\n") == "Review this.\n\na\n b"
    assert prompt("Hello", None) == "Hello"
    assert prompt("-", "from stdin\n") == "from stdin"
    with pytest.raises(one_shot.InputError, match="prompt is empty"):
        prompt("-", " \n")


def test_a_pipe_that_nobody_writes_to_is_mentioned(models, monkeypatch):
    code = "import tui.one_shot as o; o.SILENCE_SECONDS = 0.05; print(o.prompt_text('Hi'))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert process.stderr.readline().startswith("note: waiting for the end of the text on stdin")
    out, err = process.communicate("there", timeout=20)
    assert (out, err) == ("Hi\n\nthere\n", "")


def test_the_answer_comes_as_it_is_written(models, tmp_path):
    process = subprocess.Popen(
        [*KOALA_TUI, models["babble"], "-p", "x", "--set", "temperature=0", "--set", "max_tokens=99999"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    begun = time.monotonic()
    assert process.stdout.read(10) and time.monotonic() - begun < 20
    assert process.poll() is None
    process.kill()
    process.communicate()


async def test_an_endpoint(home):
    async def chat(question, write):
        assert question["messages"] == [{"role": "user", "content": "Hi"}]
        await write(head() + chunk("Hel") + chunk("lo\x1b[0m") + chunk(None, "stop") + DONE)

    ollama = {"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": "library"}]}
    async with serve(chat, get={"/v1/models": ollama}) as server:
        process = await asyncio.create_subprocess_exec(
            *KOALA_TUI, "-p", "Hi", "--endpoint", server.url, "--set", "top_k=5", "--json", cwd=ROOT,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
    report = json.loads(out)
    assert process.returncode == 0, err
    assert report["text"] == "Hello\x1b[0m" and report["model"] == "tiny" and report["fingerprint"] == ""
    assert err.decode() == "note: the server does not take top_k, so that had no effect\n", report["ignored"]
