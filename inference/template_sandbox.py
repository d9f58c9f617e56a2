"""Where chat templates run: Jinja's immutable sandbox, which keeps them from everything outside, and limits on their
own appetite.

A chat template is a program by a stranger. It may loop for ever, call itself for ever, or make a text of a billion
characters in one step. `render` and `compile` end it by a clock (see `bounded`), and every step that makes something
large out of something small is measured before it is taken.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from .bounded import LimitExceeded, bounded

SECONDS = 3.0
MEMORY_BYTES = 512 * 2**20
MAX_SOURCE = 200_000  # characters; the longest templates of real models have about 30,000
MAX_TEXT = 2**22  # characters of one text that a template makes, besides four times the conversation
MAX_BITS = 2**14  # of a whole number
MAX_WIDTH = 2**10
# What no chat template needs and could be made to work hard or write much.
WITHOUT_FILTERS = ("pprint", "urlize", "wordwrap", "xmlattr")
WITHOUT_METHODS = frozenset({"encode", "expandtabs", "format_map", "maketrans", "to_bytes", "translate"})


class TemplateFailure(Exception):
    """The template is broken, refuses, or was stopped; the message is half a sentence that says why."""


class Template:
    """A compiled template.

    Raises:
        TemplateFailure: the source is not valid Jinja, or cannot be compiled within the limits.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise TemplateFailure(f"it has {len(source):,} characters; {MAX_SOURCE:,} are the limit")
        self._environment = _environment()
        self._template = _restrained(lambda: self._environment.from_string(source))

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """Return the text that the template makes of the messages.

        Raises:
            TemplateFailure: the template raises an error, or was stopped at a limit.
        """
        said = sum(len(message["content"]) for message in messages)
        self._environment.max_text = MAX_TEXT + 4 * said
        return _restrained(lambda: self._template.render(messages=messages, **variables))


def _restrained(action: Any) -> Any:
    try:
        with bounded(SECONDS, MEMORY_BYTES):
            return action()
    except LimitExceeded as limit:
        raise TemplateFailure(str(limit)) from None
    except RecursionError:
        raise TemplateFailure("it is nested too deeply, or calls itself without end") from None
    except MemoryError:
        raise TemplateFailure("it takes more memory than there is") from None
    except Exception as error:  # the template's own: any line of it may raise whatever Python knows
        words = " ".join(str(error).split()) or type(error).__name__
        raise TemplateFailure(words if len(words) <= 300 else words[:299] + "…") from error


def _environment() -> Any:
    """Return the sandbox with the functions and the whitespace rules that chat templates are written for."""
    from jinja2 import TemplateError, nodes
    from jinja2.compiler import CodeGenerator
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.filters import FILTERS
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks for training what the model is to learn; for a prompt it means nothing."""

        tags = {"generation"}  # noqa: RUF012 - the name and the type are Jinja's

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    class Generator(CodeGenerator):
        """Sends `a ~ b`, which the sandbox cannot intercept, through the environment."""

        def visit_Concat(self, node: Any, frame: Any) -> None:
            self.write("environment.joined((")
            for argument in node.nodes:
                self.visit(argument, frame)
                self.write(", ")
            self.write("))")

    class Sandbox(ImmutableSandboxedEnvironment):
        code_generator_class = Generator
        intercepted_binops = frozenset({"+", "*", "**", "%"})
        max_text = MAX_TEXT

        def __init__(self) -> None:
            super().__init__(
                trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], finalize=self.measured
            )
            self.filters = {name: function for name, function in FILTERS.items() if name not in WITHOUT_FILTERS}
            self.filters.update(_Filters(self).by_name())
            self.globals.pop("lipsum")
            self.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)

        def allow(self, size: float) -> None:
            """Refuse to make something of this size."""
            if size > self.max_text:
                raise SecurityError(f"it makes something of more than {self.max_text:,} characters")

        def measured(self, value: Any) -> Any:
            """Return the value itself, of which a text may be made."""
            self.allow(self.weight(value))
            return value

        def text(self, value: Any) -> str:
            return value if isinstance(value, str) else str(self.measured(value))

        def weight(self, value: Any) -> int:
            """Return about how many characters the value has as a text, counting no further than the limit."""
            if isinstance(value, str):
                return len(value)
            # A list of lists that are all the same one is small until somebody writes it out.
            total, waiting = 0, [value]
            while waiting and total <= self.max_text:
                item = waiting.pop()
                total += len(item) if isinstance(item, str) else 8
                if isinstance(item, Mapping):
                    total += len(item)
                    waiting += item.keys()
                    waiting += item.values()
                elif isinstance(item, list | tuple | set | frozenset):
                    total += len(item)
                    waiting += item
            return total

        def concat(self, parts: Iterable[str]) -> str:
            kept, size = [], 0
            for part in parts:
                size += len(part)
                self.allow(size)
                kept.append(part)
            return "".join(kept)

        def joined(self, values: Iterable[Any]) -> str:
            return self.concat(map(self.text, values))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if isinstance(left, int) and isinstance(right, int):
                bits = {"*": left.bit_length() + right.bit_length(), "**": left.bit_length() * abs(right)}
                if bits.get(operator, 0) > MAX_BITS:
                    raise SecurityError("it reckons with a number of thousands of digits")
            elif operator == "%" and isinstance(left, str):
                self.allow_format(left, "%", right)
            elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
                self.allow(len(left) + len(right))
            elif operator == "*":
                for sequence, count in ((left, right), (right, left)):
                    if isinstance(count, int) and hasattr(sequence, "__len__"):
                        self.allow(len(sequence) * count)
            return super().call_binop(context, operator, left, right)

        def allow_format(self, form: str, sign: str, values: Any) -> None:
            widths = [int(digits) for digits in re.findall("[0-9]+", form) if len(digits) < 10]
            if max(widths, default=0) > MAX_WIDTH or re.search("[0-9]{10}", form):
                raise SecurityError("it asks for a very wide column")
            if re.search(r"%[^a-zA-Z%]*\*" if sign == "%" else r"\{[^{}]*\{", form):
                raise SecurityError("it computes the width of a column")
            self.allow(len(form) + form.count(sign) * (max(widths, default=0) + self.weight(values)))

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            return attr not in WITHOUT_METHODS and super().is_safe_attribute(obj, attr, value)

        def wrap_str_format(self, value: Any) -> Any:
            plain = super().wrap_str_format(value)
            if plain is None:
                return None

            def measured(*values: Any, **named: Any) -> str:
                self.allow_format(value.__self__, "{", [*values, *named.values()])
                return plain(*values, **named)

            return measured

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
            owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
            if isinstance(owner, str):
                if name == "join" and args:
                    # A generator can be walked only once.
                    args = (list(args[0]), *args[1:])
                __self._measure_method(owner, name, *args)
            return super().call(__context, __obj, *args, **kwargs)

        def _measure_method(self, owner: str, name: str, *values: Any) -> None:
            if name in ("center", "ljust", "rjust", "zfill") and values:
                self.allow(abs(values[0]))
            elif name == "replace" and len(values) >= 2:
                self.allow(len(owner) + owner.count(values[0]) * len(values[1]))
            elif name == "join" and values:
                self.allow(sum(len(value) + len(owner) for value in values[0]))

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def strftime_now(form: str) -> str:
        if len(form) > MAX_WIDTH:
            raise SecurityError("it asks for a very long date")
        return datetime.now().strftime(form)

    return Sandbox()


class _Filters:
    """Jinja's filters that make much of little, each with a measurement before it."""

    def __init__(self, sandbox: Any) -> None:
        self.sandbox = sandbox

    def by_name(self) -> dict[str, Any]:
        """Return them under the names that they have in a template."""
        names = ("batch", "center", "format", "indent", "join", "replace", "round", "slice", "sum", "tojson")
        return {"string": self.sandbox.text, **{name: getattr(self, name) for name in names}}

    def batch(self, value: Any, linecount: int, fill_with: Any = None) -> Any:
        from jinja2.filters import do_batch

        self.sandbox.allow(linecount)
        return do_batch(value, linecount, fill_with)

    def slice(self, value: Any, slices: int, fill_with: Any = None) -> Any:
        from jinja2.filters import sync_do_slice

        self.sandbox.allow(slices)
        return sync_do_slice(value, slices, fill_with)

    def center(self, value: Any, width: int = 80) -> str:
        self.sandbox.allow(width)
        return self.sandbox.text(value).center(width)

    def format(self, value: Any, *values: Any, **named: Any) -> str:
        if values and named:
            raise TypeError("format takes either values or names")
        form = self.sandbox.text(value)
        self.sandbox.allow_format(form, "%", [*values, *named.values()])
        return form % (named or values)

    def indent(self, value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        from jinja2.filters import do_indent

        text = self.sandbox.text(value)
        step = width if isinstance(width, int) else len(width)
        self.sandbox.allow(len(text) + (text.count("\n") + 1) * step)
        return do_indent(text, width, first, blank)

    def join(self, value: Any, d: str = "", attribute: str | int | None = None) -> str:
        from jinja2.filters import make_attrgetter

        if attribute is not None:
            value = map(make_attrgetter(self.sandbox, attribute), value)
        texts, between = [], self.sandbox.text(d)
        size = 0
        for item in value:
            texts.append(self.sandbox.text(item))
            size += len(texts[-1]) + len(between)
            self.sandbox.allow(size)
        return between.join(texts)

    def replace(self, value: Any, old: str, new: str, count: int | None = None) -> str:
        text, old, new = map(self.sandbox.text, (value, old, new))
        self.sandbox.allow(len(text) + text.count(old) * len(new))
        return text.replace(old, new, -1 if count is None else count)

    def round(self, value: Any, precision: int = 0, method: str = "common") -> float:
        from jinja2.filters import do_round

        if abs(precision) > MAX_WIDTH:
            raise ValueError("it rounds to more digits than there are")
        return do_round(value, precision, method)

    def sum(self, iterable: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
        from jinja2.filters import sync_do_sum

        if not isinstance(start, int | float):
            raise TypeError("sum adds numbers")
        return sync_do_sum(self.sandbox, iterable, attribute, start)

    def tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's own filter escapes HTML, and models were not trained on that.
        if isinstance(indent, int) and indent > 64:
            raise ValueError("it indents by more than 64 columns")
        self.sandbox.measured(value)
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
