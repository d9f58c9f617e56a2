"""What an engine reports while it works, and the form in which this crosses a pipe: one JSON object a line."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from .errors import EngineError, InputError


@dataclass(frozen=True)
class Loaded:
    """The model is ready. The values are those in effect, not those asked for.

    `n_ctx` and `n_ctx_train` are in tokens, `size_bytes` is what the weights take, `state_bytes` what the KV cache
    takes; 0 where an endpoint does not tell. `kv_type` is the type of the KV cache. `template` says which prompt format
    is used and why ("the file's own", or a built-in one). `fingerprint` tells models apart (see `fingerprint`); ""
    for an endpoint.
    """

    name: str
    description: str
    n_ctx: int
    n_ctx_train: int = 0
    n_threads: int = 0
    n_gpu_layers: int = 0
    n_vocab: int = 0
    parameters: int = 0
    size_bytes: int = 0
    state_bytes: int = 0
    kv_type: str = ""
    flash_attention: bool = False
    mmap: bool = False
    template: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class Queued:
    """`ahead` other replies come first. Sent when waiting begins and whenever the number falls."""

    ahead: int


@dataclass(frozen=True)
class Folded:
    """The first `messages` messages after the system message do not fit any more: the model no longer sees them."""

    messages: int


@dataclass(frozen=True)
class PromptProgress:
    """`done` of the prompt's `total` tokens are in the context (those that were there before count as done)."""

    done: int
    total: int


@dataclass(frozen=True)
class Delta:
    """The next piece of the reply, always whole characters; `tokens` counts the tokens that it came from."""

    text: str
    tokens: int = 1


@dataclass(frozen=True)
class Finished:
    """The reply is over: the model ended it, it reached `max_tokens`, was cancelled, or filled the context.

    `evaluated_tokens` of the `prompt_tokens` were new; `cached_tokens` were already in the context, `restored_tokens`
    of them because they were read from disk. `folded` messages after the system message were not in the prompt. Times
    are in seconds and count from the moment at which the engine took up the request. Token counts are None where an
    endpoint does not tell.
    """

    reason: Literal["stop", "length", "cancelled", "context"]
    seed: int
    prompt_tokens: int | None
    evaluated_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int
    prompt_seconds: float
    decode_seconds: float
    time_to_first_token: float | None
    restored_tokens: int = 0
    folded: int = 0

    @property
    def tokens_per_second(self) -> float:
        """The speed of writing, 0 where nothing was written."""
        return self.completion_tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0


@dataclass(frozen=True)
class PromptIds:
    """The token ids that a conversation becomes, up to where the reply would begin."""

    ids: list[int]


@dataclass(frozen=True)
class Failed:
    """The request came to nothing. `bad_input` tells what the user can mend from what they cannot."""

    message: str
    bad_input: bool = False

    def error(self) -> EngineError:
        """Return this failure as an exception."""
        return (InputError if self.bad_input else EngineError)(self.message)


Event = Loaded | Queued | Folded | PromptProgress | Delta | Finished | PromptIds | Failed
_KINDS = {kind.__name__: kind for kind in (Loaded, Queued, Folded, PromptProgress, Delta, Finished, PromptIds, Failed)}


def to_line(event: Event, request: int) -> bytes:
    """Return the event of the request with this number as one line of JSON, in ASCII."""
    return json.dumps({"event": type(event).__name__, "request": request, **asdict(event)}).encode() + b"\n"


def from_line(line: bytes) -> tuple[int, Event]:
    """Return the number of the request and the event in the line.

    Raises:
        EngineError: the line is not an event.
    """
    try:
        values = json.loads(line)
        kind = _KINDS[values.pop("event")]
        return values.pop("request"), kind(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EngineError(f"the model's process sent something that is no event: {line[:200]!r}") from error
