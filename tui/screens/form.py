"""Forms: settings in rows, each with its field, its range and a line that says what it does, made from a table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Input, Static

from inference.errors import InputError
from inference.load_options import KV_TYPES, LoadOptions
from inference.load_options import RANGES as LOAD_RANGES
from inference.sampling import RANGES as SAMPLING_RANGES
from inference.sampling import Sampling

from ..text import harmless

# A range that ends here or above has no end that anybody would meet.
NO_END = 100_000
RANGE_CELLS = 13


class Settings(Protocol):
    """A frozen dataclass of settings that checks each of them, such as `Sampling`."""

    def with_settings(self, settings: Iterable[str]) -> Any:
        """Return a copy with each `key=value` applied, or raise InputError."""
        ...


@dataclass(frozen=True)
class Setting:
    """A row of a form.

    `choices` are the words to choose from; without them the value is typed. `automatic` is the word for None, where
    the value may be left to the program, and what an empty field means.
    """

    name: str
    label: str
    help: str
    range: str = ""
    choices: tuple[str, ...] = ()
    automatic: str = ""

    def write(self, value: Any) -> str:
        """Return the value as it stands in the field."""
        if value is None:
            return self.automatic if self.choices else ""
        if isinstance(value, bool):
            return "on" if value else "off"
        return f"{value:.10g}" if isinstance(value, float) else harmless(str(value))


def _settings(
    kind: type, ranges: Mapping[str, tuple[float, float]], about: Mapping[str, tuple[str, str]], automatic: str
) -> tuple[Setting, ...]:
    types = {field.name: str(field.type) for field in fields(kind)}
    rows = []
    for name, (label, text) in about.items():
        low, high = ranges.get(name, (None, None))
        span = "" if low is None else f"from {low:g}" if high >= NO_END else f"{low:g} to {high:g}"
        may_be_none = automatic if "None" in types[name] else ""
        choices: tuple[str, ...] = ("on", "off") if "bool" in types[name] else KV_TYPES if name == "kv_type" else ()
        rows.append(Setting(name, label, text, span, (may_be_none, *choices) if choices else (), may_be_none))
    return tuple(rows)


SAMPLING_SETTINGS = _settings(
    Sampling,
    SAMPLING_RANGES,
    {
        "temperature": ("temperature", "how daring; 0 always takes the likeliest word"),
        "top_k": ("top k", "choose among this many of the likeliest words; 0: all"),
        "top_p": ("top p", "among the likeliest with this share of probability; 1: all"),
        "min_p": ("min p", "leave out what is so much less likely than the best; 0: no"),
        "repeat_penalty": ("repeat penalty", "make what was just said less likely; 1: no"),
        "max_tokens": ("max tokens", "a reply that gets this long is cut"),
        "seed": ("seed", "the same seed gives the same reply; empty: a new one"),
    },
    "random",
)
LOAD_SETTINGS = _settings(
    LoadOptions,
    LOAD_RANGES,
    {
        "n_ctx": ("context", "how many tokens of the conversation the model sees"),
        "kv_type": ("KV cache", "how these are kept in memory; q8_0 takes half of f16"),
        "n_gpu_layers": ("GPU layers", "how much of the model the GPU computes; -1: all, 0: nothing"),
        "n_threads": ("threads", "how many cores it computes on"),
        "flash_attention": ("flash attention", "faster, and a quantized KV cache needs it"),
        "mmap": ("mmap", "read the file where it lies, as it is needed"),
        "template": ("template", "another prompt format: a built-in one, or a Jinja file"),
    },
    "auto",
)


class Choice(Widget, can_focus=True):
    """One of a few words. The arrow keys, the space bar and the mouse go through them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "step(-1)", "The one before", show=False),
        Binding("right,space,enter", "step(1)", "The next one", show=False),
    ]
    value: reactive[str] = reactive("")

    @dataclass
    class Changed(Message):
        """Another word was chosen."""

        choice: "Choice"

        @property
        def control(self) -> "Choice":
            """The widget, for `on`."""
            return self.choice

    def __init__(self, words: Sequence[str], value: str, **options: Any) -> None:
        super().__init__(**options)
        self.words = list(words)
        self.set_reactive(Choice.value, value)

    def render(self) -> Content:
        """Draw the word between two arrows."""
        return Content.assemble(("‹ ", "dim"), harmless(self.value), (" ›", "dim"))

    def action_step(self, step: int) -> None:
        """Choose the word that comes `step` places after this one, round and round."""
        at = self.words.index(self.value) if self.value in self.words else -1 if step > 0 else 0
        self.value = self.words[(at + step) % len(self.words)]
        self.post_message(self.Changed(self))

    def on_click(self, event: Click) -> None:
        """Go back where the left arrow was clicked, else on."""
        self.action_step(-1 if event.x - self.gutter.left < 2 else 1)


class FormRow(Widget):
    """One setting: its name, its field, what it does, and what is wrong with what was typed."""

    def __init__(self, setting: Setting, value: Any, ignored: str = "") -> None:
        super().__init__(id=f"row-{setting.name}")
        self.setting, self._first, self._ignored = setting, setting.write(value), ignored

    def compose(self) -> ComposeResult:
        """Lay out the row."""
        setting = self.setting
        yield Static(Content(setting.label), classes="label")
        if setting.choices:
            yield Choice(setting.choices, self._first)
        else:
            yield Input(self._first, placeholder=setting.automatic, compact=True, select_on_focus=False)
        yield Static(self._about(), classes="about")
        yield Static(classes="problem", markup=False)

    def _about(self) -> Content:
        if self._ignored:
            return Content.styled(self._ignored, "$warning")
        return Content.assemble((f"{self.setting.range:<{RANGE_CELLS}}", "$secondary"), self.setting.help)

    @property
    def field(self) -> "Input | Choice":
        """The field in which the value stands."""
        return self.query_one(Choice) if self.setting.choices else self.query_one(Input)

    @property
    def entry(self) -> str:
        """The setting as `with_settings` takes it."""
        return f"{self.setting.name}={self.field.value.strip() or self.setting.automatic}"

    def complain(self, problem: str) -> None:
        """Show what is wrong; "" for nothing."""
        line = self.query_one(".problem", Static)
        line.update(harmless(problem))
        self.set_class(bool(problem), "-wrong")


class Form(Vertical):
    """The rows for `start`, a dataclass of settings. What is typed is checked at once; up and down go through the rows.

    `ignored` holds the names of settings that have no effect here, each with the sentence that says so.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "app.focus_previous", "The row above", show=False),
        Binding("down", "app.focus_next", "The row below", show=False),
    ]

    @dataclass
    class Changed(Message):
        """Something in the form was changed."""

        form: "Form"

        @property
        def control(self) -> "Form":
            """The form, for `on`."""
            return self.form

    def __init__(
        self, rows: Sequence[Setting], start: Settings, ignored: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._settings, self._start, self._ignored = rows, start, ignored or {}

    def compose(self) -> ComposeResult:
        """Lay out the rows."""
        for setting in self._settings:
            yield FormRow(setting, getattr(self._start, setting.name), self._ignored.get(setting.name, ""))

    def show(self, values: Settings) -> None:
        """Fill in other values."""
        self._start = values
        for row in self.query(FormRow):
            row.field.value = row.setting.write(getattr(values, row.setting.name))

    def read(self) -> Any:
        """Return the settings in the form, or None where one of them cannot be; its row says why."""
        rows = list(self.query(FormRow))
        checks = [self._check(row) for row in rows]  # all of them, so that each row says what is wrong with it
        if not all(checks):
            return None
        return self._start.with_settings(row.entry for row in rows)

    def focus_problem(self) -> None:
        """Go to the first row with something wrong in it."""
        for row in self.query(FormRow).filter(".-wrong"):
            row.field.focus()
            return

    def _check(self, row: FormRow) -> bool:
        try:
            self._start.with_settings([row.entry])
        except InputError as error:
            row.complain(str(error))
            return False
        row.complain("")
        return True

    def on_input_changed(self, event: Input.Changed) -> None:
        """Check what was typed."""
        self._changed(event, event.input)

    def on_choice_changed(self, event: Choice.Changed) -> None:
        """Note what was chosen."""
        self._changed(event, event.choice)

    def _changed(self, event: Message, field: Widget) -> None:
        event.stop()
        if isinstance(field.parent, FormRow):
            self._check(field.parent)
            self.post_message(self.Changed(self))
