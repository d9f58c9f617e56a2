"""One line that says which model this is, what it is doing, how full its context is, and how fast it is."""

from dataclasses import dataclass, replace
from typing import Any

from textual.content import Content
from textual.timer import Timer
from textual.widget import Widget

METER_CELLS = 8
# Whatever is drawn costs the model a few milliseconds, so figures wait, and what happens is shown at once.
STATE_SECONDS, FIGURES_SECONDS = 0.05, 1.0
# Each state has a sign of its own, so that nothing depends on the colour.
SIGNS = {
    "ready": "●",
    "loading": "◌",
    "waiting": "◷",
    "reading": "◔",
    "writing": "▸",
    "failed": "✕",
    "no model": "○",
    "closing": "◌",
}
GAP = 3
SHORTEST_NAME = 8


@dataclass(frozen=True)
class Facts:
    """What there is to say; 0 and "" where it is not known. Sizes in tokens and bytes, times in seconds."""

    state: str = "loading"
    model: str = ""
    quantization: str = ""
    context_used: int = 0
    context_size: int = 0
    tokens_per_second: float = 0.0
    time_to_first_token: float = 0.0
    memory: int = 0


class StatusLine(Widget):
    """State on the left, facts on the right; where it is narrow the less important facts go first."""

    DEFAULT_CSS = "StatusLine { height: 1; }"

    def __init__(self) -> None:
        super().__init__(id="status-line")
        self.facts = Facts()
        self._timer: Timer | None = None

    @property
    def state(self) -> str:
        """What the model does at the moment."""
        return self.facts.state

    def show(self, **changes: Any) -> None:
        """Change some of the facts: a new state is drawn at once, figures within a second."""
        facts = replace(self.facts, **changes)
        if facts == self.facts or not self.is_running:
            self.facts = facts
            return
        urgent = facts.state.split()[:1] != self.facts.state.split()[:1] or facts.model != self.facts.model
        self.facts = facts
        if urgent or self._timer is None:
            if self._timer is not None:
                self._timer.stop()
            self._timer = self.set_timer(STATE_SECONDS if urgent else FIGURES_SECONDS, self._draw)

    def _draw(self) -> None:
        self._timer = None
        self.refresh()

    def render(self) -> Content:
        """Draw the line."""
        facts, width = self.facts, self.size.width
        state = Content.assemble((self._sign(), self._colour()), f" {facts.state}").truncate(width, ellipsis=True)
        room = width - state.cell_length - GAP
        parts = self._parts(room)
        right = Content(" " * GAP).join(parts)
        if right.cell_length > room:
            return state
        return Content.assemble(state, " " * (width - state.cell_length - right.cell_length), right)

    def _sign(self) -> str:
        return next((sign for name, sign in SIGNS.items() if self.facts.state.startswith(name)), SIGNS["ready"])

    def _colour(self) -> str:
        if self.facts.state == "ready":
            return "$success"
        return "$error" if self.facts.state.startswith("failed") else "$warning"

    def _parts(self, room: int) -> list[Content]:
        """Return as many facts as there is room for, in the order in which they are shown."""
        facts = self.facts
        places = {
            "model": _muted(facts.model),
            "context": self._meter(meter=False),
            "speed": _speed(facts.tokens_per_second),
            "meter": self._meter(meter=True),
            "quantization": _muted(f"{facts.model} · {facts.quantization}") if facts.quantization else None,
            "first token": _first(facts.time_to_first_token),
            "memory": _memory(facts.memory),
        }
        shown: dict[str, Content] = {}
        replaces = {"meter": "context", "quantization": "model"}
        for name, content in places.items():  # the most important first; where one does not fit, no later one is shown
            if content is None or not content.plain:
                continue
            slot = replaces.get(name, name)
            candidate = {**shown, slot: content}
            if sum(part.cell_length for part in candidate.values()) + GAP * (len(candidate) - 1) > room:
                if name == "model" and room > SHORTEST_NAME:
                    shown = {slot: content.truncate(room, ellipsis=True)}
                break
            shown = candidate
        order = ("speed", "first token", "context", "memory", "model")
        return [shown[name] for name in order if name in shown]

    def _meter(self, *, meter: bool) -> Content | None:
        used, size = self.facts.context_used, self.facts.context_size
        if not size:
            return None
        share = min(1.0, used / size)
        filled = max(round(share * METER_CELLS), 1 if used else 0)
        bar = [
            ("━" * filled, "$warning" if share > 0.85 else "$primary"),
            ("╌" * (METER_CELLS - filled) + " ", "$foreground-muted"),
        ]
        return Content.assemble(*(bar if meter else ()), f"{used:,}", (f"/{size:,}", "$foreground-muted"))


def _muted(text: str) -> Content:
    return Content.styled(text, "$foreground-muted")


def _speed(tokens_per_second: float) -> Content | None:
    if not tokens_per_second:
        return None
    digits = f"{tokens_per_second:,.0f}" if tokens_per_second >= 100 else f"{tokens_per_second:.1f}"
    return Content.assemble(digits, (" tok/s", "$foreground-muted"))


def _first(seconds: float) -> Content | None:
    if not seconds:
        return None
    shown = f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
    return Content.assemble(shown, (" to first", "$foreground-muted"))


def _memory(size: int) -> Content | None:
    return Content.assemble(f"{size / 2**30:.1f}", (" GiB", "$foreground-muted")) if size else None
