"""One model with one context in llama.cpp, spoken to through its C interface.

Everything here belongs in a process of its own (see `worker`): what llama.cpp does not like ends the process.
"""

import ctypes
import os
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Sequence

import llama_cpp as C

from .errors import EngineError, InputError
from .events import Loaded
from .load_options import LoadOptions
from .machine import usable_cores
from .sampling import Sampling

DEFAULT_CONTEXT = 4096
# The prompt goes in by chunks of a fixed size: arithmetic, and so a reply, must not depend on timing.
CPU_CHUNK, GPU_CHUNK = 128, 512
PENALTY_WINDOW = 64
WARNING, ERROR = 3, 4  # the levels of ggml.h; the comments in llama-cpp-python number them otherwise


class Log:
    """The last lines that llama.cpp logged; the reason of a failure is only there."""

    def __init__(self, lines: int = 200) -> None:
        self.lines: deque[tuple[int, str]] = deque(maxlen=lines)
        # llama.cpp keeps no reference to its callback: this one must live as long as the process.
        self._callback = C.llama_log_callback(self._take)
        C.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _user_data: object) -> None:
        self.lines.append((level, text.decode("utf-8", errors="replace").rstrip("\n")))

    def reason(self) -> str:
        """Return what the log gives as the cause: its first error since the start, or else its last warning."""
        errors = [text for level, text in self.lines if level == ERROR]
        warnings = [text for level, text in self.lines if level == WARNING]
        line = errors[0] if errors else warnings[-1] if warnings else "llama.cpp gives no reason"
        # Without the name of the C function, and without what the caller says anyway.
        return line.split(": ", 1)[-1].removeprefix("error loading model: ").strip()


class LlamaModel:
    """A loaded model, its vocabulary, and the token ids whose keys and values its context holds (`context_ids`).

    Raises:
        InputError: llama.cpp cannot load the file, or not with a context of this size.
    """

    def __init__(self, path: str, wanted: LoadOptions) -> None:
        self.log = Log()
        C.llama_backend_init()
        gpu = bool(C.llama_supports_gpu_offload())
        parameters = C.llama_model_default_params()
        parameters.n_gpu_layers = self.n_gpu_layers = -1 if gpu else 0
        self._model = C.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._model:
            raise InputError(f"llama.cpp cannot load {path}: {self.log.reason()}")
        if not C.llama_model_has_decoder(self._model):
            raise InputError(f"{path} is a model that does not write text; give a chat model")
        self._vocab = C.llama_model_get_vocab(self._model)
        self.n_vocab = C.llama_vocab_n_tokens(self._vocab)

        self.n_ctx_train = C.llama_model_n_ctx_train(self._model)
        self.n_threads = wanted.n_threads or usable_cores()
        self.chunk = GPU_CHUNK if gpu else CPU_CHUNK
        options = C.llama_context_default_params()
        options.n_ctx = wanted.n_ctx or min(self.n_ctx_train or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        options.n_batch = options.n_ubatch = self.chunk
        options.n_threads = options.n_threads_batch = self.n_threads
        options.no_perf = True
        self._context = C.llama_init_from_model(self._model, options)
        if not self._context:
            raise InputError(
                f"llama.cpp cannot open a context of {options.n_ctx} tokens for {path}: {self.log.reason()}; "
                "try a smaller one"
            )
        self.n_ctx = C.llama_n_ctx(self._context)
        self._memory = C.llama_get_memory(self._context)
        self._batch = C.llama_batch_init(self.chunk, 0, 1)
        self.context_ids: list[int] = []

        self._nfkc = self._metadata("koala.text_nfkc") == "true"
        self._joins_spaces = self._metadata("tokenizer.ggml.remove_extra_whitespaces") == "true"
        self.add_bos = bool(C.llama_vocab_get_add_bos(self._vocab))
        self.bos, self.eos = C.llama_vocab_bos(self._vocab), C.llama_vocab_eos(self._vocab)
        self.control_ids = {
            text: token
            for token in range(self.n_vocab)
            if C.llama_vocab_get_attr(self._vocab, token) & C.LLAMA_TOKEN_ATTR_CONTROL and (text := self.name(token))
        }

    @property
    def chat_template(self) -> str | None:
        """The Jinja source in the file, or None."""
        source = C.llama_model_chat_template(self._model, None)
        return source.decode("utf-8", errors="replace") if source else None

    def describe(self, name: str) -> Loaded:
        """Return what was loaded, under this name, with the values in effect."""
        buffer = ctypes.create_string_buffer(256)
        C.llama_model_desc(self._model, buffer, len(buffer))
        return Loaded(
            name=name,
            description=buffer.value.decode("utf-8", errors="replace"),
            n_ctx=self.n_ctx,
            n_ctx_train=self.n_ctx_train,
            n_threads=self.n_threads,
            n_gpu_layers=self.n_gpu_layers,
            n_vocab=self.n_vocab,
            parameters=C.llama_model_n_params(self._model),
            size_bytes=C.llama_model_size(self._model),
        )

    def _metadata(self, key: str) -> str | None:
        """Return the value of a key of the file as text, or None where there is no such key."""
        buffer = ctypes.create_string_buffer(256)
        length = C.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", errors="replace") if length >= 0 else None

    # ---- the vocabulary

    def name(self, token: int) -> str:
        """Return the token's text as it stands in the vocabulary, "" for none."""
        text = C.llama_vocab_get_text(self._vocab, token) if token >= 0 else None
        return text.decode("utf-8", errors="replace") if text else ""

    def is_end(self, token: int) -> bool:
        """Tell whether the model ends its reply with this token."""
        return bool(C.llama_vocab_is_eog(self._vocab, token))

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of plain text. No control token comes out of it, and none is added.

        Some tokenizers (OpenLLaMA's first) change a text before they cut it, which llama.cpp leaves out.
        """
        if self._nfkc:
            text = unicodedata.normalize("NFKC", text)
        if self._joins_spaces:
            text = re.sub(" {2,}", " ", text.lstrip(" ")).rstrip(" \u2581")
        raw = text.encode("utf-8", errors="replace")
        room = len(raw) + 8
        for _ in range(2):
            ids = (C.llama_token * room)()
            count = C.llama_tokenize(self._vocab, raw, len(raw), ids, room, False, False)
            if count >= 0:
                return ids[:count]
            room = -count
        raise EngineError(f"llama.cpp cannot tokenize a text of {len(raw):,} bytes")

    def piece(self, token: int) -> bytes:
        """Return the bytes that the token stands for; they need not be whole characters. Control tokens are empty."""
        room = 64
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            count = C.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            room = -count
        raise EngineError(f"llama.cpp has no text for the token {token}")

    # ---- the context

    def keep_prefix(self, ids: Sequence[int]) -> int:
        """Drop from the context whatever does not agree with `ids`; return how many of them it still holds.

        At least the last one is left to be evaluated, since its logits are needed.
        """
        shared = 0
        for known, wanted in zip(self.context_ids, ids[:-1], strict=False):
            if known != wanted:
                break
            shared += 1
        if not C.llama_memory_seq_rm(self._memory, 0, shared, -1):
            # A recurrent model cannot go back to the middle.
            C.llama_memory_clear(self._memory, True)
            shared = 0
        del self.context_ids[shared:]
        return shared

    def evaluate(self, ids: Sequence[int]) -> bool:
        """Append at most `chunk` ids to the context; return False if the abort check ended it, with nothing kept.

        The caller sees to it that they fit.
        """
        batch, start = self._batch, len(self.context_ids)
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index] = token
            batch.pos[index] = start + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = 0
        batch.logits[len(ids) - 1] = 1
        status = C.llama_decode(self._context, batch)
        if status == 0:
            self.context_ids.extend(ids)
            return True
        if not C.llama_memory_seq_rm(self._memory, 0, start, -1):
            C.llama_memory_clear(self._memory, True)
            self.context_ids.clear()
        if status == 2:
            return False
        raise EngineError(f"llama.cpp failed to evaluate {len(ids)} tokens (code {status}): {self.log.reason()}")

    def abort_when(self, check: Callable[[], bool] | None) -> None:
        """Let a running evaluation end early once `check` is true. None switches this off."""
        self._abort = C.ggml_abort_callback((lambda _data: check()) if check else 0)
        C.llama_set_abort_callback(self._context, self._abort, None)

    # ---- choosing tokens

    def sampler(self, sampling: Sampling, history: Sequence[int]) -> "Sampler":
        """Return a sampler for one reply; `history` are the ids before it, for the repeat penalty."""
        return Sampler(self._context, self.n_vocab, sampling, history)


class Sampler:
    """llama.cpp's sampler chain for one reply; `close` it afterwards."""

    def __init__(self, context: object, n_vocab: int, sampling: Sampling, history: Sequence[int]) -> None:
        self._context = context
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        steps = []
        if sampling.repeat_penalty != 1:
            steps.append(C.llama_sampler_init_penalties(n_vocab, PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0))
        if sampling.temperature == 0:
            steps.append(C.llama_sampler_init_greedy())
        else:
            if sampling.top_k:
                steps.append(C.llama_sampler_init_top_k(sampling.top_k))
            if sampling.top_p < 1:
                steps.append(C.llama_sampler_init_top_p(sampling.top_p, 1))
            if sampling.min_p > 0:
                steps.append(C.llama_sampler_init_min_p(sampling.min_p, 1))
            steps.append(C.llama_sampler_init_temp(sampling.temperature))
            steps.append(C.llama_sampler_init_dist(sampling.seed))
        for step in steps:
            C.llama_sampler_chain_add(self._chain, step)
        for token in history[-PENALTY_WINDOW:]:
            C.llama_sampler_accept(self._chain, token)

    def sample(self) -> int:
        """Choose the next token from the logits of the last evaluation."""
        return C.llama_sampler_sample(self._chain, self._context, -1)

    def close(self) -> None:
        """Free the chain and its steps."""
        C.llama_sampler_free(self._chain)
