"""Nothing that was said to be on disk is lost, whenever the app is killed."""

import os
import subprocess
import sys

import pytest

from ...conftest import ROOT
from . import kill_harness

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks its writers")


def kill(times: int, seed: int) -> str:
    done = subprocess.run(  # a process without threads, which may fork
        [sys.executable, "-m", "tests.tui.store.kill_harness", "--kills", str(times), "--seed", str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_25_kills():
    assert "none lost" in kill(25, seed=1)


@pytest.mark.slow
def test_500_kills():
    assert "none lost" in kill(500, seed=2)


def test_the_harness_notices_a_loss(tmp_path):
    path, promised = tmp_path / "chats.db", kill_harness.Promised()
    with kill_harness.closing(kill_harness.Store.open(path)) as store:
        chat = store.create_chat()
        kept = store.add_message(chat, None, "user", "kept")
        reply = store.add_message(chat, kept, "assistant", "as far as thi", state="streaming")
    promised.take(b'["finished", %d, "kept", "complete"]' % kept)
    promised.take(b'["flushed", %d, "as far as thi"]' % reply)
    promised.take(b'["finished", 99, "cut')
    kill_harness.check(path, promised)
    promised.take(b'["flushed", %d, "as far as this"]' % reply)
    with pytest.raises(AssertionError, match=f"the end of reply {reply} is lost"):
        kill_harness.check(path, promised)
    promised.take(b'["finished", 99, "lost", "complete"]')
    with pytest.raises(AssertionError, match="message 99 is lost"):
        kill_harness.check(path, promised)
