"""A child that fails for want of memory or disk says nothing about the model."""

import signal
import sys

import pytest

from convert.child import run_child
from convert.compare import Question, prove_tokenizer
from convert.verdict import VerificationFailed
from datasets_cfg.errors import BadInput

CHILDREN = {
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "crashed": "import os, signal; os.kill(os.getpid(), signal.SIGABRT)",
    "limited": "import resource, numpy; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
    "numpy.zeros(6144, numpy.float32).tofile({file!r})",
    "full": "file = open('/dev/full', 'wb', buffering=0); file.write(b'x')",
    "no memory": "import numpy; numpy.empty(1 << 50)",
    "damaged": "raise ValueError('Failed to load model from file: x.gguf')",
    "lost": "open('/nowhere/at/all')",
}


@pytest.fixture
def fail(tmp_path, monkeypatch):
    """Let a child do something else instead of its work."""

    def fail(how: str) -> None:
        (tmp_path / "stand_in.py").write_text(
            "from convert.child import serve_parent\n"
            f"def work(request, report):\n    {CHILDREN[how].format(file=str(tmp_path / 'logits'))}\n"
            "serve_parent(work)\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        monkeypatch.setattr("convert.compare.run_child", lambda module, *rest: run_child("stand_in", *rest))
        prove_tokenizer(tmp_path / "m.gguf", Question([], [], None, None, str), threads=1)

    return fail


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's limits and devices")
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("killed", "most likely for lack of memory; close other programs, or skip the check with --no-verify"),
        ("no memory", "most likely for lack of memory"),
        ("limited", r"m\.logits cannot be written: of 6144 numbers only \d+ fitted"),
        ("full", r"the disk of .*m\.logits is full"),
    ],
)
def test_want_of_memory_or_disk_is_bad_input(fail, how, message):
    with pytest.raises(BadInput, match=message):
        fail(how)


@pytest.mark.parametrize(
    ("how", "message"),
    [("crashed", signal.SIGABRT.name), ("damaged", "Failed to load model"), ("lost", "No such file")],
)
def test_whatever_else_ends_it_fails_the_verification(fail, how, message):
    with pytest.raises(VerificationFailed, match=f"tokenizer: llama.cpp cannot run the file: .*{message}"):
        fail(how)
