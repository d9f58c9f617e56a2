"""Tokens travel in small groups: each one wakes whoever reads it, and takes processor time from the model."""

import time
from collections.abc import Callable, Iterable, Iterator

from .events import Delta, Event

SECONDS = 0.08  # a little less than a frame of the conversation


def gathered(
    events: Iterable[Event], seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
) -> Iterator[Event]:
    """Yield the events, with Deltas joined that come within so many seconds of the last one that was passed on.

    The first Delta, and every one of a slow model, passes at once; no Delta waits behind another event.
    """
    held: Delta | None = None
    passed = -seconds
    for event in events:
        if isinstance(event, Delta):
            held = event if held is None else Delta(held.text + event.text, held.tokens + event.tokens)
            if clock() - passed < seconds:
                continue
            event, held, passed = held, None, clock()
        elif held is not None:
            yield held
            held = None
        yield event
    if held is not None:
        yield held
