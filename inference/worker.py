"""The process that owns llama.cpp: `python -m inference.worker`.

Requests come in on stdin and events go out on stdout, one JSON object a line:

    {"request": 1, "type": "load", "path": "model.gguf", "options": {"n_ctx": 4096}}
    {"request": 2, "type": "generate", "messages": [{"role": "user", "content": "Hi"}], "sampling": {"seed": 1},
     "folded": 0}
    {"request": 2, "type": "stop"}
    {"request": 3, "type": "prompt", "messages": [...], "folded": 0}

Each is answered by events that carry its number (see `events`). `stop` takes effect at once, even while a prompt
is read. When stdin closes, whoever started this process is gone, and it ends.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

from .errors import EngineError, InputError
from .events import Delta, Event, Failed, Finished, PromptIds, to_line


def main() -> None:
    """Serve requests until stdin closes."""
    # Ctrl+C in a terminal reaches every process of the group; this one ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # llama.cpp and its backends write to stdout and stderr as they please. The events get a private descriptor;
    # everything else goes to stderr, which the parent keeps in case the process dies.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def send(event: Event, request: int) -> None:
        out.write(to_line(event, request))

    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    stopped: set[int] = set()
    threading.Thread(target=_read, args=(sys.stdin.buffer, requests, stopped), daemon=True).start()
    try:
        Worker(send, stopped).run(requests)
    except BrokenPipeError:
        os._exit(0)  # nobody is left to hear it


def _read(source: BinaryIO, requests: "queue.SimpleQueue[dict[str, Any]]", stopped: set[int]) -> None:
    try:
        for line in source:
            request = json.loads(line)
            if request["type"] == "stop":
                stopped.add(request["request"])
            else:
                requests.put(request)
    finally:
        # Not sys.exit: the main thread may be in the middle of a long evaluation.
        os._exit(0)


class Worker:
    """Answers requests one by one; `stopped` holds the numbers of those that are to end early."""

    def __init__(self, send: Callable[[Event, int], None], stopped: set[int]) -> None:
        self.send, self.stopped = send, stopped

    def run(self, requests: "queue.SimpleQueue[dict[str, Any]]") -> None:
        """Answer each request, for ever."""
        handlers = {"load": self.load, "generate": self.generate, "prompt": self.prompt}
        while True:
            values = requests.get()
            request, kind = values.pop("request"), values.pop("type")
            try:
                handlers[kind](request, **values)
            except EngineError as error:
                self.send(Failed(str(error), isinstance(error, InputError)), request)
            except BrokenPipeError:
                raise
            except Exception as error:
                traceback.print_exc()
                self.send(Failed(f"the model's process met an unforeseen error: {error!r}"), request)
            finally:
                self.stopped.discard(request)

    def load(self, request: int, path: str, options: dict[str, Any]) -> None:
        """Load the model, once, before anything else is asked."""
        from .chat_template import ChatTemplate
        from .gguf_header import check_chat_model, read_header
        from .llama_model import LlamaModel
        from .load_options import LoadOptions
        from .prompt import PromptEncoder

        header = read_header(path)
        check_chat_model(header)
        self.model = LlamaModel(path, LoadOptions(**options))
        special = {}
        for kind, token in {"bos": self.model.bos, "eos": self.model.eos}.items():
            text = self.model.name(token)
            # Of a file that names none, llama.cpp takes a fixed id, which may be a comma; a file that names one
            # means it as a control token, even where its token types do not say so.
            if text and (text in self.model.control_ids or f"tokenizer.ggml.{kind}_token_id" in header.metadata):
                special[f"{kind}_token"] = text
                self.model.control_ids[text] = token
        template = ChatTemplate(self.model.chat_template or "", self.model.control_ids, special)
        self.encoder = PromptEncoder(template, self.model)
        self.send(self.model.describe(header.name), request)

    def prompt(self, request: int, messages: list[Any], folded: int) -> None:
        """Answer with the ids of the prompt."""
        self.send(PromptIds(self.encoder.encode(_unfolded(messages, folded))), request)

    def generate(self, request: int, messages: list[Any], sampling: dict[str, Any], folded: int) -> None:
        """Stream a reply."""
        from .generation import generate
        from .sampling import Sampling

        messages = _unfolded(messages, folded)
        prompt = self.encoder.encode(messages)
        reply = ""
        for event in generate(self.model, prompt, Sampling(**sampling), lambda: request in self.stopped):
            if isinstance(event, Delta):
                reply += event.text
            elif isinstance(event, Finished) and reply and event.reason != "context":
                self.encoder.remember(messages, reply, self.model.context_ids)
            self.send(event, request)


def _unfolded(messages: list[Any], folded: int) -> list[Any]:
    system = sum(message["role"] == "system" for message in messages[:1])
    return messages[:system] + messages[system + folded :]


if __name__ == "__main__":
    main()
