"""What an OpenAI-compatible server answers, chunk by chunk, as text and figures."""

import json
import re
from collections.abc import Iterator
from typing import Any

from .endpoint_server import error_text
from .errors import EngineError
from .events import PromptProgress

DONE = "[DONE]"
THINKING, THOUGHT = "<think>\n", "\n</think>\n\n"
_HALF = re.compile("[\ud800-\udbff]\\Z")


class ReplyReader:
    """Reads the chunks of one reply.

    `reason` is the server's finish_reason, once it has come; `ended` says that nothing more comes. Token counts are
    None where the server does not tell. What a server sends apart as the model's reasoning comes between the tags with
    which models write it themselves.
    """

    def __init__(self, continued: str = "") -> None:
        self.reason: str | None = None
        self.ended = False
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.completion_tokens: int | None = None
        self._opened = "<think>" in continued and "</think>" not in continued
        self._thinking = False
        self._at_start = not continued
        self._half = ""

    def read(self, data: str) -> Iterator[str | PromptProgress]:
        """Yield the text and the progress in the data of one event, which may hold a whole reply.

        Raises:
            EngineError: it is an error, or nothing that such a server sends.
        """
        if data.strip() == DONE:
            self.ended = True
            return
        try:
            chunk = json.loads(data)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            raise EngineError(f"the server sent something that is no part of a reply: {data[:200]!r}")
        if chunk.get("error") or ("choices" not in chunk and "message" in chunk):
            raise EngineError(f"the server reports an error: {' '.join(error_text(chunk).split())[:500]}")
        self._read_figures(chunk)
        progress = chunk.get("prompt_progress")
        if isinstance(progress, dict) and _is_count(progress.get("processed")) and _is_count(progress.get("total")):
            yield PromptProgress(progress["processed"], progress["total"])
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        part = choice.get("delta") or choice.get("message")
        text = self._text(part) if isinstance(part, dict) else ""
        if self._at_start:  # as the local engine does
            text = text.lstrip()
        if text:
            self._at_start = False
            yield text
        if choice.get("finish_reason"):
            self.reason = str(choice["finish_reason"])

    @property
    def is_empty(self) -> bool:
        """Whether nothing has come yet."""
        return self._at_start and not (self.reason or self.ended)

    def rest(self) -> str:
        """Return what is left at the end."""
        half, self._half = self._half, ""
        return "\N{REPLACEMENT CHARACTER}" if half else ""

    def _text(self, part: dict[str, Any]) -> str:
        thought = _plain(part.get("reasoning_content")) or _plain(part.get("reasoning"))
        said = _plain(part.get("content")) or _plain(part.get("refusal"))
        text = ""
        if thought:
            text += thought if self._thinking or self._opened else THINKING + thought
            self._thinking, self._opened = True, False
        if said:
            text += THOUGHT + said if self._thinking else said
            self._thinking = False
        return self._whole(text)

    def _whole(self, text: str) -> str:
        """Return the text with pairs of surrogates made one, where JSON had them in two chunks."""
        text = self._half + text
        held = _HALF.search(text)
        self._half = held[0] if held else ""
        text = text.removesuffix(self._half)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not text.isascii() else text

    def _read_figures(self, chunk: dict[str, Any]) -> None:
        usage, timings = chunk.get("usage"), chunk.get("timings")
        if isinstance(usage, dict):
            self.prompt_tokens = _count(usage.get("prompt_tokens"), self.prompt_tokens)
            self.completion_tokens = _count(usage.get("completion_tokens"), self.completion_tokens)
            details = usage.get("prompt_tokens_details")
            if isinstance(details, dict):
                self.cached_tokens = _count(details.get("cached_tokens"), self.cached_tokens)
        if isinstance(timings, dict):
            self.cached_tokens = _count(timings.get("cache_n"), self.cached_tokens)


def _plain(content: Any) -> str:
    """Return the text of a content, which may come in parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_plain(part.get("text")) for part in content if isinstance(part, dict))
    return ""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count(value: Any, otherwise: int | None) -> int | None:
    return value if _is_count(value) else otherwise
