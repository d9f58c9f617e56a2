"""One model with one context in llama.cpp, spoken to through its C interface.

Everything here belongs in a process of its own (see `worker`): what llama.cpp does not like ends the process.
"""

import ctypes
import os
import re
import sys
import unicodedata
from collections import deque
from collections.abc import Sequence

import llama_cpp as C

from .errors import EngineError, InputError
from .events import Loaded
from .fit import CPU_CHUNK, GPU_CHUNK
from .load_options import LoadOptions
from .sampling import Sampling

PENALTY_WINDOW = 64
INFO, WARNING, ERROR = 2, 3, 4  # the levels of ggml.h; the comments in llama-cpp-python number them otherwise
FLASH_ATTENTION = {None: -1, False: 0, True: 1}
OUT_OF_GPU_MEMORY = r"(?i)out of memory|failed to allocate \w*(CUDA|Vulkan|Metal|SYCL|ROCm|HIP)|OutOfDeviceMemory"
_C_LIBRARY = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)


def has_gpu() -> bool:
    """Tell whether llama.cpp can put layers on a GPU here."""
    return bool(C.llama_supports_gpu_offload())


class Log:
    """The last lines that llama.cpp logged; the reason of a failure is only there."""

    def __init__(self, lines: int = 400) -> None:
        self.lines: deque[tuple[int, str]] = deque(maxlen=lines)
        # llama.cpp keeps no reference to its callback: this one must live as long as the process.
        self._callback = C.llama_log_callback(self._take)
        C.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _user_data: object) -> None:
        if level >= INFO:
            self.lines.append((level, text.decode("utf-8", errors="replace").rstrip("\n")))

    def reason(self) -> str:
        """Return what the log gives as the cause: its first error since the start, or else its last warning."""
        errors = [text for level, text in self.lines if level == ERROR]
        warnings = [text for level, text in self.lines if level == WARNING]
        line = errors[0] if errors else warnings[-1] if warnings else "llama.cpp gives no reason"
        # Without the name of the C function, and without what the caller says anyway.
        return line.split(": ", 1)[-1].removeprefix("error loading model: ").strip()

    def has(self, pattern: str) -> bool:
        """Tell whether a line of the log matches."""
        return any(re.search(pattern, text) for _, text in self.lines)

    def total(self, pattern: str) -> float:
        """Return the sum of the numbers that the pattern's group finds in the lines of the log."""
        return sum(float(found[1]) for _, text in self.lines if (found := re.search(pattern, text)))


class LlamaModel:
    """A loaded model, its vocabulary, and the token ids whose keys and values its context holds (`context_ids`).

    `options` say how it runs, and leave nothing open but flash attention, where None has llama.cpp choose. `abort` are
    two bytes, the second of them zero: as long as the first is not zero, evaluations end early. `turn_ends` are tokens
    with which the model ends a reply besides those that llama.cpp knows of.

    Raises:
        InputError: llama.cpp cannot load the file, or not with these options.
    """

    def __init__(self, path: str, options: LoadOptions, abort: ctypes.Array) -> None:
        self.log, self._abort = Log(), abort
        C.llama_backend_init()
        self._load(path, options)
        self._open(path, options, abort)
        self.turn_ends: set[int] = set()
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

    def _load(self, path: str, options: LoadOptions) -> None:
        """Load the weights and the vocabulary."""
        parameters = C.llama_model_default_params()
        self.n_gpu_layers = parameters.n_gpu_layers = options.n_gpu_layers if has_gpu() else 0
        self.mmap = parameters.use_mmap = options.mmap and bool(C.llama_supports_mmap())
        self._model = C.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._model:
            raise InputError(f"llama.cpp cannot load {path}: {self._reason()}")
        layers = C.llama_model_n_layer(self._model) + 1  # the output counts as one
        if not 0 <= self.n_gpu_layers <= layers:
            self.n_gpu_layers = layers
        self._vocab = C.llama_model_get_vocab(self._model)
        self.n_vocab = C.llama_vocab_n_tokens(self._vocab)
        if not self.n_vocab or C.llama_vocab_type(self._vocab) == C.LLAMA_VOCAB_TYPE_NONE:
            raise InputError(f"{path} holds no vocabulary, so nobody can talk to it; give a chat model")
        odd = (C.llama_model_has_encoder, C.llama_model_is_diffusion)
        if not C.llama_model_has_decoder(self._model) or any(is_odd(self._model) for is_odd in odd):
            raise InputError(f"{path} is a model that does not write a text word by word; give a chat model")
        # Recurrent models cannot go back to the middle of what they have read.
        self.can_trim = not (C.llama_model_is_recurrent(self._model) or C.llama_model_is_hybrid(self._model))

    def _open(self, path: str, options: LoadOptions, abort: ctypes.Array) -> None:
        """Open the context that the model reads and writes in."""
        self.n_ctx_train = C.llama_model_n_ctx_train(self._model)
        self.n_threads, self.kv_type, flash = options.n_threads, options.kv_type, options.flash_attention
        # A fixed number: arithmetic, and so a reply, must not depend on timing. Some GPUs cannot be stopped within it.
        self.chunk = GPU_CHUNK if self.n_gpu_layers else CPU_CHUNK
        context = C.llama_context_default_params()
        context.n_ctx = options.n_ctx
        context.n_batch = context.n_ubatch = self.chunk
        context.n_threads = context.n_threads_batch = self.n_threads
        context.type_k = context.type_v = getattr(C, f"GGML_TYPE_{self.kv_type.upper()}")
        context.flash_attn_type = FLASH_ATTENTION[flash]
        context.no_perf = True
        # llama.cpp asks hundreds of times for each token whether to go on, so this is no Python function: the length
        # of the text in `abort` is 0, which is false, until somebody makes its first byte something else.
        self._abort_check = C.ggml_abort_callback(ctypes.cast(_C_LIBRARY.strlen, ctypes.c_void_p).value)
        context.abort_callback = self._abort_check
        context.abort_callback_data = ctypes.cast(abort, ctypes.c_void_p)
        self._context = C.llama_init_from_model(self._model, context)
        if not self._context:
            raise InputError(
                f"llama.cpp cannot open a context of {context.n_ctx:,} tokens for {path}: {self._reason()}; "
                "try a smaller one (n_ctx)"
            )
        if C.llama_pooling_type(self._context) > C.LLAMA_POOLING_TYPE_NONE:
            raise InputError(f"{path} is a model that compares texts and writes none; give a chat model")
        self.n_ctx = C.llama_n_ctx(self._context)
        self.flash_attention = self.log.has("Flash Attention enabled") if flash is None else flash
        self.state_bytes = int(self.log.total(r"(?:KV|RS) buffer size = *([0-9.]+) MiB") * 2**20)
        self._memory = C.llama_get_memory(self._context)
        self._batch = batch = C.llama_batch_init(self.chunk, 0, 1)
        self._batch_tokens, self._batch_places, self._batch_logits = batch.token, batch.pos, batch.logits
        for index in range(self.chunk):
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0

    def _reason(self) -> str:
        """Return why llama.cpp failed, with a hint where a GPU was too small."""
        reason = self.log.reason()
        if self.n_gpu_layers and self.log.has(OUT_OF_GPU_MEMORY):
            return f"the memory of the GPU is too small ({reason}); keep some layers off it (n_gpu_layers)"
        return reason

    @property
    def chat_template(self) -> str | None:
        """The Jinja source in the file, or None."""
        source = C.llama_model_chat_template(self._model, None)
        return source.decode("utf-8", errors="replace") if source else None

    def describe(self, name: str, template: str, fingerprint: str) -> Loaded:
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
            state_bytes=self.state_bytes,
            kv_type=self.kv_type,
            flash_attention=self.flash_attention,
            mmap=self.mmap,
            template=template,
            fingerprint=fingerprint,
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
        return token in self.turn_ends or bool(C.llama_vocab_is_eog(self._vocab, token))

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
            self.clear()
            shared = 0
        del self.context_ids[shared:]
        return shared

    def evaluate(self, ids: Sequence[int]) -> bool:
        """Append at most `chunk` ids to the context; return False, with nothing kept, if it was aborted.

        The caller sees to it that they fit.
        """
        tokens, places, logits, start = (
            self._batch_tokens,
            self._batch_places,
            self._batch_logits,
            len(self.context_ids),
        )
        self._batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            tokens[index], places[index], logits[index] = token, start + index, 0
        logits[len(ids) - 1] = 1
        status = C.llama_decode(self._context, self._batch)
        if status == 0:
            self.context_ids.extend(ids)
            return True
        if not C.llama_memory_seq_rm(self._memory, 0, start, -1):
            self.clear()
        if status == 2:
            return False
        raise EngineError(f"llama.cpp failed to evaluate {len(ids)} tokens (code {status}): {self.log.reason()}")

    # ---- the context on disk

    def state_size(self) -> int:
        """Return how many bytes the keys and values of the context take outside it."""
        return C.llama_state_seq_get_size(self._context, 0)

    def copy_state(self, target: memoryview) -> int:
        """Write the keys and values of the context to `target`; return the number of bytes, 0 where that failed."""
        buffer = (ctypes.c_uint8 * len(target)).from_buffer(target)
        return C.llama_state_seq_get_data(self._context, buffer, len(target), 0)

    def restore_state(self, source: memoryview, ids: Sequence[int]) -> bool:
        """Replace the context by what was copied when it held `ids`; where that fails it is empty."""
        self.clear()
        # llama.cpp only reads from it, but ctypes points into nothing that may not be written.
        buffer = (ctypes.c_uint8 * len(source)).from_buffer(source)
        if C.llama_state_seq_set_data(self._context, buffer, len(source), 0) != len(source):
            self.clear()
            return False
        self.context_ids = list(ids)
        return True

    def clear(self) -> None:
        """Empty the context."""
        C.llama_memory_clear(self._memory, True)
        self.context_ids.clear()

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
