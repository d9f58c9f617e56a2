import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tui.memory import resident_bytes


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc")
def test_it_is_what_the_system_says():
    assert resident_bytes([os.getpid()]) == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert resident_bytes([os.getpid(), child.pid]) > resident_bytes([os.getpid()])
    finally:
        child.communicate(b"\n")
    assert resident_bytes([child.pid]) == 0


def test_without_proc_it_is_0(monkeypatch, tmp_path):
    monkeypatch.setattr("tui.memory.PROC", tmp_path)
    assert resident_bytes([os.getpid()]) == 0
