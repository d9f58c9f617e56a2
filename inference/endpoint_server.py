"""An OpenAI-compatible server: where it is, what it serves, and what goes wrong with it in plain sentences."""

import asyncio
import json
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from .errors import EngineError, InputError

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 300.0
LOADING_SECONDS = 120.0
POLL_SECONDS = 0.5
MAX_BODY_BYTES = 8 * 2**20
SHOWN_MODELS = 12
MENDABLE = (400, 401, 403, 404, 413, 422)
NO_SERVER = "is no OpenAI-compatible server"

Kind = Literal["llama-server", "vLLM", "Ollama", "llama-cpp-python", ""]
# How servers sign the models that they list.
OWNERS: dict[str, Kind] = {"llamacpp": "llama-server", "vllm": "vLLM", "library": "Ollama", "me": "llama-cpp-python"}


@dataclass(frozen=True)
class Address:
    """Where a server is.

    `api` is the URL that ends with the version of the interface, `root` that of everything else there, and `shown` is
    `api` without a password.
    """

    api: str
    root: str
    shown: str
    host: str
    encrypted: bool

    @property
    def is_this_machine(self) -> bool:
        """Whether nothing leaves the machine."""
        return self.host == "localhost" or self.host == "::1" or self.host.startswith("127.")


@dataclass(frozen=True)
class ServedModel:
    """A model as a server lists it; `facts` is everything that it says."""

    id: str
    kind: Kind
    facts: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """How to call it on a screen: llama.cpp's servers list the path of the file."""
        is_path = self.id.endswith(".gguf") and ("/" in self.id or "\\" in self.id)
        return PurePath(self.id.replace("\\", "/")).stem if is_path else self.id


class Refusal(EngineError):
    """The server answered with an error: its `status` and what it says."""

    def __init__(self, message: str, status: int, details: str, body: Any) -> None:
        super().__init__(message)
        self.status, self.details, self.body = status, details, body


class RefusedInput(Refusal, InputError):
    """One that the user can mend."""


def find_address(url: str) -> Address:
    """Return the address of what people write as the URL of an endpoint, with or without /v1.

    Raises:
        InputError: it is no URL of a web server.
    """
    text = url.strip()
    if re.match(r"(localhost|127\.[\d.]+|\[::1\])(:\d+)?(/|$)", text):
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or re.search(r"[\s\x00-\x1f\x7f]", text):
        raise InputError(f"{url!r} is not the URL of a server; write it like http://localhost:8080/v1")
    path = re.sub(r"(/chat/completions|/completions|/models)?/*$", "", parts.path)
    if not re.search(r"/v\d", path):
        path += "/v1"
    root = re.sub(r"/v\d.*$", "", path)
    return Address(
        api=urlunsplit((parts.scheme, parts.netloc, path, "", "")),
        root=urlunsplit((parts.scheme, parts.netloc, root, "", "")),
        shown=urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", "")),
        host=host,
        encrypted=parts.scheme == "https",
    )


def find_key(address: Address, given: str | None = None) -> str | None:
    """Return the API key for the server: the one given, that of KOALA_API_KEY, or that of OPENAI_API_KEY.

    The last was not meant for this server alone, so it never goes unencrypted over a network.

    Raises:
        InputError: the key holds what no key can.
    """
    key = given or os.environ.get("KOALA_API_KEY")
    if not key and (address.encrypted or address.is_this_machine):
        key = os.environ.get("OPENAI_API_KEY")
    key = (key or "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise InputError("the API key holds spaces or characters that no key has; copy it again")
    return key or None


class Server:
    """A connection to the server at `address`.

    Raises:
        InputError: there can be no such address.
    """

    def __init__(self, address: Address, key: str | None) -> None:
        import httpx2

        try:
            httpx2.URL(address.api)
        except httpx2.InvalidURL as error:
            raise InputError(f"{address.shown} is not the URL of a server ({error})") from None
        self.address, self.has_key = address, key is not None
        self.client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx2.Limits(max_keepalive_connections=0),  # one that was kept may be dead when it is needed
            verify=address.encrypted,  # reading all certificates takes a tenth of a second
            timeout=httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            trust_env=not address.is_this_machine,  # a proxy would look for this machine on its own
        )

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()

    async def models(self) -> list[ServedModel]:
        """Return what the server serves; a server that is still loading its model is waited for.

        Raises:
            InputError: this is no such server, or it refuses to tell.
            EngineError: it cannot be reached, or failed.
        """
        deadline = asyncio.get_running_loop().time() + LOADING_SECONDS
        while True:
            try:
                listed = await self.ask(f"{self.address.api}/models")
                break
            except Refusal as refusal:
                if refusal.status != 503 or asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(POLL_SECONDS)
        entries = listed.get("data") if isinstance(listed, dict) else None
        if entries is None and isinstance(listed, dict) and "data" in listed:
            entries = []  # Ollama without a model says null
        if not isinstance(entries, list):
            raise InputError(
                f"{self.address.shown} is no OpenAI-compatible server: it does not list its models; check the URL"
            )
        return [
            ServedModel(entry["id"], OWNERS.get(str(entry.get("owned_by")), ""), entry)
            for entry in entries
            if isinstance(entry, dict) and isinstance(entry.get("id"), str)
        ]

    async def ask(self, url: str) -> Any:
        """Return the JSON at `url`.

        Raises:
            Refusal: the server answered with an error.
            InputError: it answered with something else than JSON.
            EngineError: it cannot be reached.
        """
        import httpx2

        try:
            async with self.client.stream("GET", url) as response:
                await self.check(response)
                body = await read_body(response)
        except httpx2.HTTPError as error:
            raise self.failure(error) from error
        try:
            return json.loads(body)
        except ValueError:
            raise InputError(f"{self.address.shown} {NO_SERVER}: its answer is not JSON; check the URL") from None

    @asynccontextmanager
    async def ask_for_reply(self, body: dict[str, Any]) -> AsyncIterator["httpx2.Response"]:
        """Ask for the reply that `body` describes; the response has only begun.

        Raises:
            Refusal: the server answered with an error.
            httpx2.HTTPError: it cannot be reached; `failure` makes a sentence of it.
        """
        async with self.client.stream("POST", f"{self.address.api}/chat/completions", json=body) as response:
            await self.check(response)
            yield response

    async def check(self, response: "httpx2.Response") -> None:
        """Raise `Refusal` where the response is an error or leads elsewhere."""
        if response.is_success:
            return
        status, details, body = response.status_code, "", None
        if response.has_redirect_location:
            details = f"it leads to {response.headers['Location']}; give that URL"
        else:
            text = (await read_body(response)).decode("utf-8", errors="replace")
            try:
                body = json.loads(text)
                details = error_text(body)
            except ValueError:
                details = "" if "<" in text[:200] else text
        details = " ".join(details.split())[:500]
        kind = RefusedInput if status in MENDABLE else Refusal
        raise kind(self._sentence(status, details), status, details, body)

    def failure(self, error: Exception) -> EngineError:
        """Return what a broken connection means, in a sentence."""
        import httpx2

        there = self.address.shown
        causes = list(_causes(error))
        unfinished = (ssl.SSLWantReadError, ssl.SSLWantWriteError)  # a part of every encrypted connection
        refused = [cause for cause in causes if isinstance(cause, ssl.SSLError) and not isinstance(cause, unfinished)]
        if refused:
            text = getattr(refused[0], "verify_message", "") or refused[0].reason or str(refused[0])
            return EngineError(
                f"no secure connection to {there} comes about ({text}); check the certificate, or whether the server "
                "speaks http instead of https"
            )
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return EngineError(f"there is no machine called {self.address.host}; check the URL and the network")
        if isinstance(error, httpx2.ConnectTimeout):
            return EngineError(f"{there} does not answer; check the URL and the network")
        if isinstance(error, httpx2.ReadTimeout):
            return EngineError(f"{there} has said nothing for {SILENCE_SECONDS:.0f} s; the reply was given up")
        if isinstance(error, httpx2.ConnectError):
            return EngineError(f"no server answers at {there}; start it, or check the URL")
        if isinstance(error, httpx2.ProxyError):
            return EngineError(f"the proxy does not let through to {there} ({error})")
        return EngineError(f"the connection to {there} broke ({str(error) or type(error).__name__})")

    def _sentence(self, status: int, details: str) -> str:
        there = self.address.shown
        says = f": {details}" if details else ""
        if status in (401, 403):
            mend = "check KOALA_API_KEY" if self.has_key else "set KOALA_API_KEY to its key"
            wants = "does not accept the API key" if self.has_key else "wants an API key"
            return f"{there} {wants} ({status}{says}); {mend}"
        if status == 404:
            return f"{there} does not know what was asked for (404{says}); check the URL and the model's name"
        if status == 429:
            return f"{there} has too much to do, or the limit of the API key is reached (429{says}); try later"
        if status == 503:
            return f"{there} is not ready (503{says}); try again in a moment"
        return f"{there} answered with error {status}{says}"


async def connect(address: Address, key: str | None) -> Server:
    """Return the server at `address`; made in a thread, as libraries and certificates take a moment to load.

    Raises:
        InputError: there can be no such address.
    """
    return await asyncio.to_thread(Server, address, key)


async def read_body(response: "httpx2.Response") -> bytes:
    """Return the whole body of a streamed response, of which a chat needs no more than a few megabytes."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise InputError(f"the server answered with more than {MAX_BODY_BYTES:,} bytes; this is no chat server")
    return bytes(body)


def error_text(body: Any) -> str:
    """Return what an error in JSON says, in whichever of the usual forms."""
    if isinstance(body, str):
        return body
    if isinstance(body, list) and all(isinstance(entry, dict) and "msg" in entry for entry in body):
        # What FastAPI finds fault with; the rest of each entry would repeat the conversation.
        return ", ".join(f"{'.'.join(map(str, entry.get('loc', ())))}: {entry['msg']}" for entry in body)
    if isinstance(body, dict):
        for key in ("error", "message", "detail", "error_description"):
            if body.get(key):
                return error_text(body[key])
    return json.dumps(body, ensure_ascii=False) if body else ""


def choose_model(models: list[ServedModel], wanted: str | None) -> ServedModel:
    """Return the model of this name, or the only one.

    Raises:
        InputError: there is none, or it has to be named.
    """
    if not models:
        raise InputError("the server has no model; load one there first")
    if wanted is None and len(models) == 1:
        return models[0]
    for model in models:
        if wanted is not None and wanted in (model.id, model.name, model.id.removesuffix(":latest")):
            return model
    names = ", ".join(model.name for model in models[:SHOWN_MODELS])
    names += f" and {len(models) - SHOWN_MODELS} more" if len(models) > SHOWN_MODELS else ""
    if wanted is None:
        raise InputError(f"the server has several models; name one of them with --endpoint-model: {names}")
    raise InputError(f"the server has no model {wanted!r}; it has {names}")


async def list_models(url: str, api_key: str | None = None) -> list[str]:
    """Return the names of the models that the server at `url` serves.

    Raises:
        InputError, EngineError: there is no such server, or it refuses.
    """
    address = find_address(url)
    server = await connect(address, find_key(address, api_key))
    try:
        return [model.id for model in await server.models()]
    finally:
        await server.close()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and what led to it, groups included."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [current.__cause__, current.__context__, *getattr(current, "exceptions", ())]
