"""What is asked of an OpenAI-compatible server, in words that it understands."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .endpoint_server import Kind, Refusal
from .engine import Message
from .errors import InputError
from .sampling import Sampling

# Under which names a setting is sent. One of them that is understood is enough.
FIELDS = {
    "temperature": {"temperature"},
    "top_k": {"top_k"},
    "top_p": {"top_p"},
    "min_p": {"min_p"},
    "repeat_penalty": {"repeat_penalty", "repetition_penalty"},
    "max_tokens": {"max_tokens", "max_completion_tokens"},
    "seed": {"seed"},
}
NEEDED = {"model", "messages", "stream"}
STANDARD = NEEDED | {"temperature", "top_p", "max_tokens", "max_completion_tokens", "seed"}
CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
# What a kind of server takes without an error and does nothing with.
SILENTLY_IGNORED: dict[Kind, set[str]] = {
    "Ollama": {"top_k", "min_p", "repeat_penalty", "repetition_penalty"},
    "llama-cpp-python": {"repetition_penalty"},
    "llama-server": {"repetition_penalty"},
    "vLLM": {"repeat_penalty"},
}
CANNOT_CONTINUE = "this server cannot continue a reply that was begun; ask for another one instead"


@dataclass(frozen=True)
class RequestForm:
    """How to ask one server: which fields it does not take, and how it names the others."""

    model: str
    kind: Kind = ""
    left_out: frozenset[str] = frozenset()
    limit: str = "max_tokens"
    thinking: bool = True

    @property
    def ignored(self) -> set[str]:
        """The settings that have no effect on this server, as far as is known."""
        without = self.left_out | SILENTLY_IGNORED.get(self.kind, set())
        return {name for name, fields in FIELDS.items() if fields <= without | {"max_completion_tokens"}}

    def body(
        self, messages: Sequence[Message], sampling: Sampling, max_tokens: int, *, streams: bool = True
    ) -> dict[str, Any]:
        """Return the body of the request for the reply to `messages`, of up to `max_tokens`.

        Raises:
            InputError: the last message is the assistant's, and the server is known not to continue it.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message["role"], "content": message["content"]} for message in messages],
            "stream": streams,
            **({"stream_options": {"include_usage": True}} if streams else {}),
            self.limit: max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or (-1 if self.kind == "vLLM" else 0),
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repeat_penalty,
            "repetition_penalty": sampling.repeat_penalty,
            "seed": sampling.seed,
        }
        if self.kind == "llama-server" and streams:
            body["return_progress"] = True
        if messages and messages[-1]["role"] == "assistant":
            if self.kind == "llama-cpp-python" or "continue_final_message" in self.left_out:
                raise InputError(CANNOT_CONTINUE)
            body |= CONTINUE
            if not self.thinking:
                body["chat_template_kwargs"] = {"enable_thinking": False}
        without = self.left_out | SILENTLY_IGNORED.get(self.kind, set())
        return {name: value for name, value in body.items() if name not in without}

    def after(self, refusal: Refusal, body: dict[str, Any]) -> "RequestForm | None":
        """Return the form to try next where the server refused `body`, or None where its form is not to blame.

        That is one without the fields that the refusal names, or else one with nothing but what every server takes.
        """
        text = refusal.details
        if "enable_thinking" in text and "continue_final_message" in body and self.thinking:
            return replace(self, thinking=False)
        if refusal.status not in (400, 422):
            return None
        if "max_completion_tokens" in text and self.limit in body and self.limit == "max_tokens":
            return replace(self, limit="max_completion_tokens")
        optional = body.keys() - NEEDED
        named = {name for name in optional if re.search(rf"(?<!\w){name}(?!\w)", text)}
        leave = named or body.keys() - STANDARD - CONTINUE.keys()
        return replace(self, left_out=self.left_out | leave) if leave else None
