"""A stand-in of the Hugging Face Hub on the loopback device, with faults that a test can order."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

SHA = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """`repositories` maps names to files; each of `cuts` breaks one answer off after so many bytes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.refused: dict[str, tuple[int, dict[str, str]]] = {}
        self.cuts: list[int] = []
        self.failures: list[int] = []
        self.listing: bytes | None = None
        self.whole_files_only = False
        self.wrong_sums = False
        self.stalls_after: int | None = None
        self.go_on = threading.Event()
        self.ranges: list[str | None] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        hub, path = self.server, unquote(self.path.partition("?")[0])
        if found := re.fullmatch(r"/api/models/(.+)", path):
            name = found[1]
            if name in hub.refused:
                status, headers = hub.refused[name]
                self.answer(status, b"", headers)
            elif name not in hub.repositories:
                self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            else:
                self.answer(
                    200, hub.listing or json.dumps({"sha": SHA, "siblings": list(self.siblings(name))}).encode()
                )
        elif found := re.fullmatch(rf"/(.+)/resolve/{SHA}/(.+)", path):
            if hub.failures:
                self.answer(hub.failures.pop(0))
                return
            self.send_file(hub.repositories[found[1]][found[2]])
        else:
            self.answer(404)

    def siblings(self, name):
        for file, content in self.server.repositories[name].items():
            sum = hashlib.sha256(b"something else" if self.server.wrong_sums else content).hexdigest()
            yield {"rfilename": file, "size": len(content), "lfs": {"sha256": sum, "size": len(content)}}

    def send_file(self, content):
        hub, wanted = self.server, self.headers.get("Range")
        hub.ranges.append(wanted)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and not hub.whole_files_only else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        rest = content[start:]
        if hub.cuts:
            rest = rest[: hub.cuts.pop(0)]
        if hub.stalls_after is not None:
            self.wfile.write(rest[: hub.stalls_after])
            self.wfile.flush()
            hub.go_on.wait(20)
            rest = rest[hub.stalls_after :]
        self.wfile.write(rest)
        self.close_connection = True

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def serve_hub():
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        hub.shutdown()
        thread.join()
        hub.server_close()
