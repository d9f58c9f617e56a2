"""An OpenAI-compatible server without a model: it answers what the test tells it to, byte by byte."""

import asyncio
import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

MODELS = {"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": "somebody"}]}
STREAM = "text/event-stream"


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeServer:
    """`chat` is given each question and a function that writes bytes; `get` holds the answers to GET by their path."""

    chat: Callable
    get: dict[str, Any] = field(default_factory=lambda: {"/v1/models": MODELS})
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def asked(self) -> list[Any]:
        return [request.body for request in self.requests if request.method == "POST"]


def answer(status: int, body: bytes | Any, kind="application/json", **headers) -> bytes:
    """Return a whole response."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(content)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def head(kind=STREAM) -> bytes:
    """Return the head of a response that goes on until the connection is closed."""
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode()


def chunk(text: str | None = None, finish: str | None = None, **more) -> bytes:
    """Return one event of a stream."""
    delta = {} if text is None else {"content": text}
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more})


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


@asynccontextmanager
async def serve(chat, **options):
    """Serve until the block ends; `chat(question, write)` is a coroutine, or the bytes of the response."""
    server = FakeServer(chat, **options)

    async def connected(reader, writer):
        try:
            request = await read_request(reader)
            server.requests.append(request)

            async def write(data: bytes) -> None:
                writer.write(data)
                await writer.drain()

            if request.method == "GET":
                found = server.get.get(request.path, answer(404, {"detail": "Not Found"}))
                found = found() if callable(found) else found
                await write(found if isinstance(found, bytes) else answer(200, found))
            elif isinstance(server.chat, bytes):
                await write(server.chat)
            else:
                talking = asyncio.ensure_future(server.chat(request.body, write))
                gone = asyncio.ensure_future(reader.read())
                await asyncio.wait([talking, gone], return_when=asyncio.FIRST_COMPLETED)
                if not talking.done():
                    server.hung_up.set()
                    talking.cancel()
                gone.cancel()
        except (ConnectionError, asyncio.IncompleteReadError):
            server.hung_up.set()
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


async def read_request(reader) -> Request:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split()
    return Request(method, path, headers, json.loads(body) if body else None)
