"""SIGTERM makes a run save after the step at hand and stop."""

import os
import select
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from train.stop import EXIT_CODE, SaveOnSigterm

from ..conftest import ROOT


def state(step: int):
    return SimpleNamespace(global_step=step, max_steps=10)


@pytest.fixture
def control():
    return SimpleNamespace(should_save=False, should_training_stop=False)


@pytest.fixture
def listening(control):
    """A callback of a run that has begun; whatever it does to this process is undone."""
    before = signal.getsignal(signal.SIGTERM)
    callback = SaveOnSigterm()
    callback.on_train_begin(None, state(0), control)
    yield callback
    signal.signal(signal.SIGTERM, before)


def test_the_step_at_hand_is_finished_and_saved(listening, control):
    listening.on_step_end(None, state(4), control)
    assert not (listening.stopped or control.should_save or control.should_training_stop)
    os.kill(os.getpid(), signal.SIGTERM)
    assert not control.should_training_stop
    listening.on_step_end(None, state(5), control)
    assert listening.stopped
    assert control.should_save
    assert control.should_training_stop
    assert EXIT_CODE == 143


def test_after_the_last_step_the_model_is_finished_instead(listening, control):
    os.kill(os.getpid(), signal.SIGTERM)
    listening.on_step_end(None, state(10), control)
    assert not (listening.stopped or control.should_save or control.should_training_stop)


def test_when_training_is_over_sigterm_ends_the_process(listening, control):
    listening.on_train_end(None, state(10), control)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


LONG_LIVED = """
import sys, time
from train.stop import end_with_launcher
end_with_launcher()
print("ready", flush=True)
time.sleep(60)
"""

LAUNCHER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such call")
@pytest.mark.parametrize(
    "launched",
    # With accelerate itself, tests/train/test_resume.py shows it.
    [pytest.param(True, id="by accelerate", marks=pytest.mark.slow), pytest.param(False, id="by a shell")],
)
def test_a_run_ends_with_its_launcher_but_not_with_a_shell(launched):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    if launched:
        environment["ACCELERATE_MIXED_PRECISION"] = "no"  # accelerate sets it for each process that it starts
    parent = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, LONG_LIVED],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(parent.stdout.readline())
    child = os.pidfd_open(pid)
    try:
        parent.kill()
        parent.wait()
        ended, _, _ = select.select([child], [], [], 20 if launched else 0.5)
        assert bool(ended) == launched
    finally:
        if not select.select([child], [], [], 0)[0]:
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)
        parent.stdin.close()
        parent.stdout.close()
