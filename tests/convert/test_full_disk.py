"""What the system does not let be written, met for real: a limit on the size of files, a device that is always full."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from convert.full_disk import full_disk_is_bad_input
from datasets_cfg.errors import BadInput

from ..conftest import ROOT

# In a process of its own, since the limit holds for all of it.
LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from convert.full_disk import full_disk_is_bad_input
from datasets_cfg.errors import exit_code

def write():
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    file = Path(sys.argv[1])
    with full_disk_is_bad_input(file.parent), file.open("wb") as handle:
        if sys.argv[2] == "tofile":
            np.zeros(6144, np.float32).tofile(handle)
        else:
            handle.write(bytes(6144))

sys.exit(exit_code(write))
"""


@pytest.mark.parametrize(
    ("how", "message"),
    [("tofile", r"of 6144 numbers only \d+ fitted.*GB free"), ("write", r"cannot be used: File too large; choose")],
)
def test_a_write_that_is_cut_short_is_a_sentence(tmp_path, how, message):
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "file", how], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {tmp_path}") and done.stderr.count("\n") == 1
    assert re.search(message, done.stderr), done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_full_disk_is_a_sentence(tmp_path):
    with (
        pytest.raises(BadInput, match=r"the disk of .*/out is full \(.* GB free\); free some space"),
        full_disk_is_bad_input(tmp_path / "out"),
        Path("/dev/full").open("wb") as handle,
    ):
        handle.write(bytes(1))


def test_a_refused_name_is_named_with_the_reason(tmp_path):
    long = tmp_path / ("x" * 300)
    with pytest.raises(BadInput, match=r"xxx cannot be used: File name too long"), full_disk_is_bad_input(tmp_path):
        long.write_text("")


def test_other_errors_are_raised_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), full_disk_is_bad_input(tmp_path):
        (tmp_path / "none").read_text()
    with pytest.raises(OSError, match="another") as caught, full_disk_is_bad_input(tmp_path):
        raise OSError(errno.EIO, "another")
    assert caught.value.errno == errno.EIO
