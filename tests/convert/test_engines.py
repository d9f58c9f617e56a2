"""A converted model in a program that is not ours: llama-cpp-python's server, with the template in the file."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from convert.__main__ import main
from datasets_cfg.prompt import encode

from ..conftest import ROOT

pytestmark = pytest.mark.slow


def ask(address: str, question: dict | None = None) -> dict:
    data = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


@pytest.fixture(scope="module")
def served(checkpoint, tmp_path_factory):
    """The address of a server with a converted model."""
    out = tmp_path_factory.mktemp("served")
    assert main([str(checkpoint), "--out", str(out), "--no-verify", "--quiet", "--quantize", "F32"]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = next(out.glob("*.gguf"))
    command = ["-m", "llama_cpp.server", "--model", model, "--port", port, "--n_ctx", "256", "--n_threads", "1"]
    with (out / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                ask(f"http://127.0.0.1:{port}/v1/models")
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None and time.monotonic() < deadline, (out / "log").read_text()[-3000:]
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1/chat/completions"
    finally:
        process.kill()
        process.wait()


def test_the_server_asks_in_the_template_of_the_file(served, checkpoint):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    messages = [{"role": "user", "content": "Who are you?"}]
    reply = ask(served, {"messages": messages, "max_tokens": 8, "temperature": 0})
    assert reply["usage"]["prompt_tokens"] == len(encode(tokenizer, messages, add_generation_prompt=True).input_ids)
    assert reply["choices"][0]["message"]["content"]
