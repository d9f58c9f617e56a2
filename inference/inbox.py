"""Requests on their way to the one thread that answers them, and the wish to stop, which overtakes them."""

import ctypes
import json
import threading
from collections import deque
from typing import Any, BinaryIO


class Inbox:
    """Requests in the order in which they came. `abort` is not zero while the one in work is to end early."""

    def __init__(self) -> None:
        self._waiting: deque[dict[str, Any]] = deque()
        self._stopped: set[int] = set()
        self._current = 0
        self._changed = threading.Condition()
        self.abort = ctypes.create_string_buffer(2)
        self.ended = False

    def read(self, source: BinaryIO) -> None:
        """Take requests, one JSON object a line, until the source ends; whatever is in work is stopped then."""
        try:
            for line in source:
                self._take(json.loads(line))
        finally:
            with self._changed:
                self.ended = True
                self.abort[0] = 1
                self._changed.notify()

    def _take(self, request: dict[str, Any]) -> None:
        with self._changed:
            if request["type"] != "stop":
                self._waiting.append(request)
                self._changed.notify()
            elif request["request"] >= self._current:
                self._stopped.add(request["request"])
                if request["request"] == self._current:
                    self.abort[0] = 1

    def next(self, seconds: float | None) -> dict[str, Any] | None:
        """Return the next request, now in work; None where there is none in so many seconds, or ever again."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.ended, seconds)
            if self.ended or not self._waiting:
                return None
            request = self._waiting.popleft()
            self._current = request["request"]
            self._stopped = {number for number in self._stopped if number >= self._current}
            self.abort[0] = int(self._current in self._stopped)
            return request

    def pick(self, kind: str) -> dict[str, Any] | None:
        """Return the first request of this kind out of the order, or None."""
        if not self._waiting:
            return None
        with self._changed:
            found = next((request for request in self._waiting if request["type"] == kind), None)
            if found is not None:
                self._waiting.remove(found)
            return found

    def stopped(self) -> bool:
        """Tell whether the request in work is to end early."""
        return self.abort[0] != b"\0"
