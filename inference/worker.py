"""The process that owns llama.cpp: `python -m inference.worker`.

Requests come in on stdin and events go out on stdout, one JSON object a line. Numbers of requests rise:

    {"request": 1, "type": "load", "path": "model.gguf", "options": {"n_ctx": 4096}}
    {"request": 2, "type": "generate", "messages": [{"role": "user", "content": "Hi"}], "sampling": {"seed": 1},
     "folded": 0}
    {"request": 2, "type": "stop"}
    {"request": 3, "type": "prompt", "messages": [...], "folded": 0}

Each is answered by events that carry its number (see `events`). `stop` takes effect at once, even while a prompt is
read, and `prompt` is answered while a reply is written. When stdin closes, whoever started this process is gone: it
puts away what it has read (see `context_keeper`) and ends.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from . import bounded
from .errors import EngineError, InputError
from .events import Event, Failed, Finished, Folded, PromptIds, to_line
from .inbox import Inbox

if TYPE_CHECKING:
    from .events import Loaded
    from .gguf_header import GGUFHeader
    from .llama_model import LlamaModel
    from .load_options import LoadOptions
    from .sequence_cache import SequenceCache

ENDING_SECONDS = 4.0


def main() -> None:
    """Serve requests until stdin closes."""
    # Ctrl+C in a terminal reaches every process of the group; this one ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bounded.dies_when_stuck = True  # nothing is lost with this process that its parent does not know
    # llama.cpp and its backends write to stdout and stderr as they please. The events get a private descriptor;
    # everything else goes to stderr, which the parent keeps in case the process dies.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    inbox = Inbox()

    def read() -> None:
        inbox.read(sys.stdin.buffer)
        # The main thread may be in the middle of something that nothing can end.
        time.sleep(ENDING_SECONDS)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    worker = Worker(lambda event, request: out.write(to_line(event, request)), inbox)
    with suppress(BrokenPipeError):  # nobody is left to hear it
        worker.run()
    worker.close()
    os._exit(0)  # llama.cpp has nothing to tidy up that the system does not


class Worker:
    """Answers the requests of an inbox one by one."""

    def __init__(self, send: Callable[[Event, int], Any], inbox: Inbox) -> None:
        self.send, self.inbox = send, inbox
        self.keeper = None

    def run(self) -> None:
        """Answer each request until there are no more."""
        handlers = {"load": self.load, "generate": self.generate, "prompt": self.prompt}
        while not self.inbox.ended:
            values = self.inbox.next(self.keeper.seconds_left() if self.keeper else None)
            if values is not None:
                self._handle(handlers, **values)
            elif not self.inbox.ended:
                self.keeper.save()

    def close(self) -> None:
        """Put away what would have to be read again."""
        if self.keeper is not None:
            self.keeper.close()

    def _handle(self, handlers: dict[str, Callable[..., None]], request: int, type: str, **values: Any) -> None:
        try:
            handlers[type](request, **values)
        except EngineError as error:
            self.send(Failed(str(error), isinstance(error, InputError)), request)
        except BrokenPipeError:
            raise
        except Exception as error:
            traceback.print_exc()
            self.send(Failed(f"the model's process met an unforeseen error: {error!r}"), request)

    def load(self, request: int, path: str, options: dict[str, Any]) -> None:
        """Load the model, once, before anything else is asked."""
        from .builtin_templates import choose_template
        from .chat_template import ChatTemplate
        from .context_keeper import ContextKeeper
        from .fingerprint import fingerprint
        from .fit import choose
        from .gguf_header import check_chat_model, read_header
        from .llama_model import LlamaModel, has_gpu
        from .load_options import LoadOptions
        from .prompt import PromptEncoder

        header, wanted = read_header(path), LoadOptions(**options)
        check_chat_model(header)
        decided = choose(header, wanted, gpu=has_gpu())
        self.model = LlamaModel(path, decided, self.inbox.abort)
        special = _special_tokens(self.model, header)
        choice = choose_template(header, self.model.control_ids, wanted.template)
        self.encoder = PromptEncoder(ChatTemplate(choice.source, self.model.control_ids, special), self.model)
        self.model.turn_ends = {self.model.control_ids[stop] for stop in choice.stops if stop in self.model.control_ids}
        self.stops = [stop for stop in choice.stops if stop not in self.model.control_ids]
        loaded = self.model.describe(header.name, choice.why, fingerprint(path))
        self.keeper = ContextKeeper(self.model, self.encoder, _sequence_cache(loaded, wanted))
        self.keeper.recall()
        self.send(loaded, request)

    def prompt(self, request: int, messages: list[Any], folded: int) -> None:
        """Answer with the ids of the prompt."""
        self.send(PromptIds(self.encoder.encode(messages, folded).ids), request)

    def generate(self, request: int, messages: list[Any], sampling: dict[str, Any], folded: int) -> None:
        """Stream a reply."""
        from .folding import FoldedPrompt
        from .gathering import gathered
        from .generation import Generation
        from .sampling import Sampling

        started = time.perf_counter()
        settings = Sampling(**sampling)
        self.keeper.recall()
        folding = FoldedPrompt(
            messages, folded, self.encoder.encode, n_ctx=self.model.n_ctx, n_ctx_train=self.model.n_ctx_train
        )
        prompt = folding.begin(settings.max_tokens)
        if folding.folded != folded:
            self.send(Folded(folding.folded), request)
        restored = self.keeper.prepare(prompt, replaces=folding.folded > folded)
        generation = Generation(
            self.model,
            prompt,
            settings,
            folded=folding.folded,
            stops=self.stops,
            goes_on=bool(messages) and messages[-1]["role"] == "assistant" and bool(messages[-1]["content"].strip()),
            stopped=self.inbox.stopped,
            shorten=folding.shorten,
        )
        for event in gathered(generation.events(started, restored)):
            if isinstance(event, Finished):
                # Before the next request can come, which goes on from here.
                replies = list(generation.prompt.replies)
                if generation.reply and generation.ids:
                    replies += self.encoder.remember(generation.prompt, generation.reply, generation.ids)
                self.keeper.settle(replies)
            self.send(event, request)
            self._answer_counts()

    def _answer_counts(self) -> None:
        while (values := self.inbox.pick("prompt")) is not None:
            self._handle({"prompt": self.prompt}, **values)


def _special_tokens(model: "LlamaModel", header: "GGUFHeader") -> dict[str, str]:
    """Return the names that a template has for tokens, and see to it that these count as control tokens."""
    special = {}
    for kind, token in {"bos": model.bos, "eos": model.eos}.items():
        text = model.name(token)
        # Of a file that names none, llama.cpp takes a fixed id, which may be a comma; a file that names one
        # means it as a control token, even where its token types do not say so.
        if text and (text in model.control_ids or f"tokenizer.ggml.{kind}_token_id" in header.metadata):
            special[f"{kind}_token"] = text
            model.control_ids[text] = token
    return special


def _sequence_cache(loaded: "Loaded", options: "LoadOptions") -> "SequenceCache | None":
    """Return the cache for sequences of this model as it runs, or None where none is wanted."""
    import llama_cpp

    from .sequence_cache import SequenceCache

    if options.cache_dir is None or not options.cache_bytes:
        return None
    same = ("fingerprint", "n_ctx", "kv_type", "flash_attention")
    depends = {name: getattr(loaded, name) for name in same} | {"llama_cpp": llama_cpp.__version__}
    return SequenceCache(options.cache_dir, options.cache_bytes, depends)


if __name__ == "__main__":
    main()
