"""One question, one answer on stdout: the mode for scripts and pipes."""

import os
import select
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from inference.engine import Engine, Message
from inference.errors import InputError
from inference.events import Delta, Finished, Folded, Loaded, PromptProgress, Queued
from inference.sampling import Sampling

from .text import harmless

CUT_SHORT = {
    "length": "the answer was cut at max_tokens={limit}; --set max_tokens=N allows more",
    "context": "the answer was cut because the context is full; --context N makes it larger",
}
SILENCE_SECONDS = 3.0
SILENCE = (
    "note: waiting for the end of the text on stdin, which comes after the prompt; with </dev/null there is none\n"
)


def prompt_text(given: str) -> str:
    """Return the prompt: what was given, and what was piped in.

    Raises:
        InputError: there is nothing to ask.
    """
    if given == "-":
        text = _read_stdin()
    else:
        piped = _read_stdin() if _stdin_has_text() else ""
        text = f"{given}\n\n{piped}" if given and piped else given or piped
    if not text.strip():
        raise InputError("the prompt is empty; write it after --prompt or pipe it in")
    return text


def _stdin_has_text() -> bool:
    # Only a pipe or a file: waiting for a terminal, or for a socket that a service manager left open, has no end.
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    if stat.S_ISFIFO(mode) and os.name == "posix" and not select.select([sys.stdin], [], [], SILENCE_SECONDS)[0]:
        # A pipe that nobody writes to is easily handed down by accident.
        sys.stderr.write(SILENCE)
        sys.stderr.flush()
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _read_stdin() -> str:
    return sys.stdin.buffer.read().decode("utf-8", errors="replace").rstrip("\n")


async def answer(
    start_engine: Callable[[], Awaitable[Engine]],
    messages: Sequence[Message],
    sampling: Sampling,
    *,
    out: TextIO | None,
    err: TextIO,
    report: dict[str, Any],
) -> None:
    """Stream the reply to `out`, if there is one, and everything else to `err`; keep what --json tells in `report`.

    Progress and speed are shown only where `err` is a terminal; a warning that the answer was cut is always shown.
    Where the reply ends early, `report` holds what there is of it.

    Raises:
        EngineError: there is no answer, or only a part of it.
        BrokenPipeError: the reader of `out` is gone.
    """
    progress = _Progress(err)
    progress.show("loading the model …")
    asked, sampling = asdict(sampling), sampling.with_seed()
    report["sampling"] = asdict(sampling)
    engine = await start_engine()
    stream = engine.generate(messages, sampling)
    text = report["text"] = ""
    try:
        report |= _model(engine.loaded)
        async for event in stream:
            if isinstance(event, Queued):
                progress.show(f"waiting for {event.ahead} other replies …")
            elif isinstance(event, Folded):
                report["folded"] = event.messages
            elif isinstance(event, PromptProgress):
                progress.show(f"reading the prompt … {100 * event.done // max(event.total, 1)}%")
            elif isinstance(event, Delta):
                progress.clear()
                text = report["text"] = text + event.text
                if out is not None:
                    out.write(harmless(event.text))
                    out.flush()
            elif isinstance(event, Finished):
                progress.clear()
                report |= _ending(event) | {"ignored": sorted(getattr(engine, "ignored", ()))}
                if out is not None and not text.endswith("\n"):
                    out.write("\n")
                    out.flush()
                err.writelines(f"note: {harmless(note)}\n" for note in _notes(report, asked))
                if out is None or not out.isatty():
                    progress.note(
                        f"{event.completion_tokens} tokens, {event.tokens_per_second:.1f} tokens/s, seed {event.seed}"
                    )
    finally:
        progress.clear()
        await stream.aclose()
        await engine.close()


def _notes(report: dict[str, Any], asked: dict[str, Any]) -> Iterator[str]:
    """Yield what somebody who only sees the answer would not expect of it."""
    if "--template" in report["template"]:
        yield f"the prompt format is {report['template']}"
    usual = asdict(Sampling())
    in_vain = [name for name in report["ignored"] if asked[name] != usual[name]]
    if in_vain:
        yield f"the server does not take {', '.join(in_vain)}, so that had no effect"
    if report["reason"] in CUT_SHORT:
        yield CUT_SHORT[report["reason"]].format(limit=report["sampling"]["max_tokens"])


def _model(loaded: Loaded) -> dict[str, Any]:
    return {
        "model": loaded.name,
        "fingerprint": loaded.fingerprint,
        "context": loaded.n_ctx,
        "template": loaded.template,
    }


def _ending(event: Finished) -> dict[str, Any]:
    return {
        "reason": event.reason,
        "seed": event.seed,
        "prompt_tokens": event.prompt_tokens,
        "evaluated_tokens": event.evaluated_tokens,
        "cached_tokens": event.cached_tokens,
        "completion_tokens": event.completion_tokens,
        "time_to_first_token": event.time_to_first_token,
        "prompt_seconds": event.prompt_seconds,
        "decode_seconds": event.decode_seconds,
        "tokens_per_second": event.tokens_per_second,
        "folded": event.folded,
    }


class _Progress:
    """A line at the foot of a terminal that replaces itself; silent where `err` is not a terminal."""

    def __init__(self, err: TextIO) -> None:
        self._err = err
        self._enabled = err.isatty()
        self._shown = False

    def show(self, text: str) -> None:
        if self._enabled:
            self._err.write(f"\r\x1b[2K{text}")
            self._err.flush()
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            self._err.write("\r\x1b[2K")
            self._err.flush()
            self._shown = False

    def note(self, text: str) -> None:
        if self._enabled:
            self._err.write(text + "\n")
