"""A model by its hub id, fetched by huggingface_hub itself from a stand-in of the hub on the loopback device."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from convert.hub import local_folder
from datasets_cfg.errors import BadInput

REPOSITORY = Path(__file__).parents[2]
SHA = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 4000
MODEL = {
    "README.md": b"# A model",
    "LICENSE.txt": b"do what you like",
    "config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "tokenizer.json": b"{}",
    "tokenizer.model": b"\x0a\x0b",
    "model.safetensors": WEIGHTS,
}
UNWANTED = {
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"the weights once more",
    "onnx/model.safetensors": b"an export",
    "original/params.json": b"{}",
    "train.py": b"import os",
}
REPOSITORIES = {
    "owner/model": {**MODEL, **UNWANTED},
    "owner/pickled": {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
    "owner/gated": MODEL,
    "owner/breaks-off": MODEL,
}


class Hub(BaseHTTPRequestHandler):
    """Enough of the hub's interface for `snapshot_download`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = next((name for name in REPOSITORIES if f"/{name}/" in f"{self.path}/"), None)
        path = self.path.partition("?")[0]
        if name is None:
            self.answer(404, headers={"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models/") and path.endswith(("/revision/main", "/revision/v1")):
            self.answer(200, json.dumps({"_id": "1", "id": name, "sha": SHA, "siblings": []}).encode())
        elif "/revision/" in path:
            self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        elif "/tree/" in path:
            files = [
                {"type": "file", "path": file, "size": len(content), "oid": etag(content)}
                for file, content in REPOSITORIES[name].items()
            ]
            self.answer(200, json.dumps(files).encode())
        else:
            self.resolve(name, path.partition(f"/resolve/{SHA}/")[2])

    do_HEAD = do_GET

    def resolve(self, name, file):
        content = REPOSITORIES[name][file]
        if name == "owner/gated":
            self.answer(403, headers={"X-Error-Code": "GatedRepo"})
            return
        if self.command == "GET":
            if name == "owner/breaks-off" and content is WEIGHTS and not self.server.repaired:
                self.answer(410)  # huggingface_hub gives up at once, other failures it tries again for seconds
                return
            self.server.fetched.append(file)
        self.answer(200, content, {"X-Repo-Commit": SHA, "ETag": f'"{etag(content)}"'})

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def etag(content):
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.fetched, server.repaired = [], False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def fetch(hub, tmp_path):
    """Ask for a name in a process of its own, since huggingface_hub reads its settings once."""

    def run(name, *, offline=False, port=None, **options):
        code = (
            "import sys\n"
            "from convert.hub import local_folder\n"
            "from datasets_cfg.errors import BadInput\n"
            "try:\n"
            f"    print(local_folder({name!r}, **{options!r}))\n"
            "except BadInput as error:\n"
            "    print('refused:', error)\n"
        )
        settings = {
            "HF_ENDPOINT": f"http://127.0.0.1:{port or hub.server_port}",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": str(int(offline)),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            env={**inherited, **settings},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n"), done.stderr

    return run


def test_a_folder_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("owner/model").mkdir(parents=True)
    assert local_folder("owner/model") == Path("owner/model")
    with pytest.raises(BadInput, match="is a folder on this machine"):
        local_folder("owner/model", revision="main")


@pytest.mark.parametrize("name", ["model", "a/b/c", "./owner/model", "/owner/model", "../model", "owner/", "a b/c"])
def test_what_is_neither_folder_nor_hub_id_is_a_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="is not there; give the folder of a checkpoint, or a hub id"):
        local_folder(name)


def test_a_name_that_is_too_long_is_a_sentence():
    with pytest.raises(BadInput, match=r"xx cannot be opened \(File name too long\); give the folder") as caught:
        local_folder("owner/" + "x" * 10_000)
    assert len(str(caught.value)) < 300


def test_a_file_is_a_sentence(tmp_path):
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(BadInput, match="is a file; give the folder"):
        local_folder(str(tmp_path / "model.gguf"))


def test_a_model_is_fetched_once_and_without_what_is_not_needed(fetch, hub):
    folder, said = fetch("owner/model")
    found = {path.name: path.read_bytes() for path in Path(folder).rglob("*")}
    assert found == MODEL
    assert said == "fetch owner/model from the hub\n"
    count = len(hub.fetched)
    assert fetch("owner/model", revision="v1", quiet=True) == (folder, "")
    assert fetch("owner/model", offline=True, quiet=True) == (folder, "")
    assert len(hub.fetched) == count


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("owner/missing", {}, "neither a folder here nor a public model on the hub; .* `hf auth login` if it is priv"),
        ("owner/gated", {}, r"owner/gated is gated: accept its terms at http://.*/owner/gated, then log in with `hf"),
        ("owner/pickled", {}, "owner/pickled on the hub has no .*safetensors/convert .* refs/pr/NUMBER"),
        ("owner/model", {"revision": "v9"}, "owner/model has no revision v9 on the hub"),
        ("owner/model", {"offline": True}, r"nor complete in the hub's cache \(.*HF_HUB_OFFLINE is set\); go online"),
        ("owner/model", {"port": 9}, "the hub cannot be reached .*; go online, or give a folder"),
        ("owner/model--x", {}, "neither a folder here nor a hub id"),
    ],
)
def test_what_cannot_be_fetched_is_a_sentence(fetch, name, options, message):
    said, _ = fetch(name, **options)
    assert re.match(f"refused: .*{message}", said), said
    assert "\n" not in said


def test_a_download_that_broke_off_goes_on_where_it_stopped(fetch, hub, tmp_path):
    said, _ = fetch("owner/breaks-off", quiet=True)
    assert re.match("refused: the download of owner/breaks-off broke off .* run this again", said), said
    assert fetch("owner/breaks-off", offline=True)[0].startswith("refused: ")  # half a model is none
    complete = {path.name for path in (tmp_path / "hf").glob("hub/*/snapshots/*/*")}
    assert "model.safetensors" not in complete
    hub.repaired = True
    hub.fetched.clear()
    folder, _ = fetch("owner/breaks-off", quiet=True)
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == MODEL
    assert set(hub.fetched) == set(MODEL) - complete
