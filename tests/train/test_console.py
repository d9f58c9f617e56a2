"""What a run tells on the console, in a terminal and elsewhere."""

import os
import re
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PrinterCallback, ProgressCallback, TrainerControl, TrainerState

from train import console
from train.console import LiveLine, PlainLines, duration, use_console
from train.labels import label

from ..conftest import ROOT

RECORD = {
    **{"loss": 1.25, "grad_norm": 1.0, "learning_rate": 2e-5, "epoch": 0.5, "num_tokens": 12345.0},
    **{"tokens_per_second": 12345.6, "mfu": 0.4321, "padding_share": 0.0031, "loss/hc3": 1.0},
}
EVALUATION = {
    **{"eval_loss": 1.5, "eval_perplexity": 4.4817, "eval_tokens": 900, "eval_runtime": 3.0},
    **{"eval_loss/hc3": 1.2, "eval_loss/sharegpt": 1.8, "eval_perplexity/hc3": 3.3, "eval_loss/odd": float("nan")},
}
CONTROL = TrainerControl()


def state(step: int, *, main: bool = True) -> TrainerState:
    return TrainerState(global_step=step, max_steps=100, is_world_process_zero=main)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_count_only_the_steps_of_this_run(clock, capsys):
    lines = PlainLines()
    lines.on_train_begin(None, state(40), CONTROL)
    clock[0] = 10.0  # for ten steps, and there are fifty to go
    lines.on_log(None, state(50), CONTROL, logs=RECORD)
    assert capsys.readouterr().out == (
        "step 50/100  loss 1.2500  12,346 tokens/s  MFU 43.2%  padding 0.3%  learning rate 2.00e-05  50 s left\n"
    )


def test_plain_lines_leave_out_what_is_not_known(clock, capsys):
    lines = PlainLines()
    lines.on_train_begin(None, state(40), CONTROL)
    lines.on_log(None, state(40), CONTROL, logs={"loss": 1.0})
    lines.on_log(None, state(40), CONTROL, logs={"train_runtime": 1.0})
    lines.on_log(None, state(40), CONTROL, logs=None)
    assert capsys.readouterr().out == "step 40/100  loss 1.0000\n"


def test_an_evaluation_is_a_line_with_the_highest_loss_first(capsys):
    PlainLines().on_log(None, state(50), CONTROL, logs=EVALUATION)
    told = "step 50/100  evaluation: loss 1.5000, perplexity 4.48; odd nan, sharegpt 1.800, hc3 1.200\n"
    assert capsys.readouterr().out == told


@pytest.mark.parametrize(("value", "told"), [(1304.8, "1,305"), (3.2e9, "3.2e+09"), (float("inf"), "inf")])
def test_large_perplexities_are_short(capsys, value, told):
    PlainLines().on_log(None, state(1), CONTROL, logs={"eval_loss": 9.0, "eval_perplexity": value})
    assert capsys.readouterr().out.endswith(f"perplexity {told}\n")


@pytest.mark.parametrize("kind", [LiveLine, PlainLines])
def test_only_the_main_process_speaks(kind, capfd):
    callback, other = kind(), state(1, main=False)
    callback.on_train_begin(None, other, CONTROL)
    callback.on_step_end(None, other, CONTROL)
    for logs in (RECORD, EVALUATION):
        callback.on_log(None, other, CONTROL, logs=logs)
    callback.on_prediction_step(None, other, CONTROL, eval_dataloader=[1])
    callback.on_evaluate(None, other, CONTROL)
    callback.on_train_end(None, other, CONTROL)
    assert capfd.readouterr() == ("", "")


def test_an_evaluation_alone_is_told_too(capfd):
    callback = LiveLine()  # trainer.evaluate() without training
    callback.on_prediction_step(None, state(0), CONTROL, eval_dataloader=[1])
    callback.on_log(None, state(0), CONTROL, logs=EVALUATION)
    callback.on_evaluate(None, state(0), CONTROL)
    assert "evaluation: loss 1.5000" in capfd.readouterr().out


@given(st.text())
def test_a_name_from_data_is_one_harmless_line(name):
    told = label(name)
    assert len(told) <= 60
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in told)
    told.encode("utf-8")


def test_a_terminal_that_lacks_a_character_does_not_stop_the_run(monkeypatch):
    from io import BytesIO, TextIOWrapper

    out = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    PlainLines().on_log(None, state(1), CONTROL, logs={"eval_loss": 1.0, "eval_loss/süß": 1.0})
    assert b"; s?? 1.000\n" in out.buffer.getvalue()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (99, "99 s"), (120, "2 min"), (5940, "99 min"), (6060, "1 h 41 min"), (187_200, "2 d 4 h")],
)
def test_durations(seconds, told):
    assert duration(seconds) == told


@pytest.mark.parametrize("live", [True, False])
def test_the_trainers_own_reports_are_replaced(live):
    class Trainer:
        callbacks = (ProgressCallback, PrinterCallback)

        def remove_callback(self, kind):
            self.callbacks = tuple(callback for callback in self.callbacks if callback is not kind)

        def add_callback(self, callback):
            self.callbacks = (*self.callbacks, callback)

    trainer = Trainer()
    ours = use_console(trainer, live=live)
    assert trainer.callbacks == (ours,)
    assert isinstance(ours, LiveLine if live else PlainLines)


SCRIPT = """
from transformers import TrainerControl, TrainerState
from train.console import LiveLine

line, state, control = LiveLine(), TrainerState(max_steps=40, global_step=30), TrainerControl()
line.on_train_begin(None, state, control)
for state.global_step in range(31, 41):
    line.on_step_end(None, state, control)
    line.on_log(None, state, control, logs={"loss": 1.25, "tokens_per_second": 1e4, "mfu": 0.5, "padding_share": 0.01})
for batch in range(3):
    line.on_prediction_step(None, state, control, eval_dataloader=range(3))
sources = {f"eval_loss/{name}": 1.0 for name in ["a\\x1b]0;owned\\x07\\nb", "\\x9b31mred", *map(str, range(20))]}
line.on_log(None, state, control, logs={"eval_loss": 1.5, "eval_perplexity": 4.48, **sources})
line.on_evaluate(None, state, control)
line.on_train_end(None, state, control)
print("the end")
"""


def in_a_terminal(columns: int) -> str:
    """What the script writes to a pseudo-terminal."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError:  # Linux says so at the end
                break
            if not block:
                break
            written += block
    os.close(ours)
    assert process.returncode == 0, written
    return written.decode()


@pytest.mark.slow
def test_the_live_line_in_a_terminal():
    written = in_a_terminal(100)
    assert set(re.findall(r"\x1b.{0,3}", written)) <= {"\x1b[A"}  # of tqdm, if any
    assert not re.search(r"[\x00-\x07\x0b\x0c\x0e-\x1a\x7f-\x9f]", written)
    lines = [line.split("\r") for line in written.replace("\r\n", "\n").split("\n")]
    assert "step 30/40, ? left" in lines[0][1]
    assert any("evaluating: batch 2/3" in part for part in lines[0])
    assert lines[0][-1].startswith("step 40/40  evaluation: loss 1.5000, perplexity 4.48; ")
    assert all(len(line[-1]) <= 100 for line in lines)
    *_, last, end, nothing = lines
    assert re.fullmatch(
        r"100%\|█{10}\| step 40/40, 00:00 left, loss 1\.2500, 10,000 tokens/s, MFU 50\.0%, padding 1\.0%", last[-1]
    )
    assert (end, nothing) == (["the end"], [""])
    assert "a␛]0;owned␇ b 1.000" in " ".join(line[-1].strip() for line in lines)


@pytest.mark.slow
def test_a_narrow_terminal_keeps_what_matters_on_one_line():
    written = in_a_terminal(50)
    bars = [part for part in re.split(r"[\r\n]+", written) if "%|" in part]
    assert bars
    assert all(len(bar.rstrip()) < 50 for bar in bars)
    assert "step 40/40, 00:00 left, loss" in bars[-1]
