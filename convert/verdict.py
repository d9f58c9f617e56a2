"""The outcome of a verification, free of heavy imports."""

from dataclasses import dataclass


class VerificationFailed(Exception):
    """A GGUF is not the same model as its checkpoint; the message says how it differs."""


@dataclass(frozen=True)
class Speed:
    """Tokens per second in llama.cpp on the CPU: `prompt` read at once, `answer` one by one."""

    prompt: float
    answer: float
