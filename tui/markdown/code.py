"""Code in colour, line by line.

The names of the styles are those of `STYLES`; how they look is up to the themes.
"""

from textual.highlight import HighlightTheme, highlight

from .blocks import Run, Runs

# A longer line, such as minified JavaScript, is shown without colours: it would take long, and nobody reads it.
MAX_LINE = 2_000
TAB = 4
_MULTILINE = {"string", "comment"}


class _Names(HighlightTheme):
    """Kinds of tokens by the names that Pygments gives them; what is missing here has its parent's style."""

    STYLES = {  # noqa: RUF012
        ("Comment",): "comment",
        ("Keyword",): "keyword",
        ("Operator", "Word"): "keyword",
        ("Literal", "String"): "string",
        ("Literal", "Number"): "number",
        ("Literal",): "string",
        ("Name", "Builtin"): "builtin",
        ("Name", "Class"): "name",
        ("Name", "Function"): "name",
        ("Name", "Decorator"): "name",
        ("Name", "Tag"): "keyword",
        ("Name", "Attribute"): "name",
        ("Name", "Variable"): "builtin",
        ("Generic", "Heading"): "name",
        ("Generic", "Subheading"): "name",
        ("Generic", "Inserted"): "inserted",
        ("Generic", "Deleted"): "deleted",
        ("Generic", "Emph"): "comment",
        ("Generic", "Strong"): "name",
    }


STYLES = tuple(sorted(set(_Names.STYLES.values())))


def coloured(lines: list[str], language: str) -> list[Runs]:
    """Return each of the lines as runs. Tabs become spaces."""
    lines = [line.expandtabs(TAB) for line in lines]
    if not language or not lines:
        return [_plain(line) for line in lines]
    long = {index for index, line in enumerate(lines) if len(line) > MAX_LINE}
    code = "\n".join("" if index in long else line for index, line in enumerate(lines))
    try:
        content = highlight(code, language=language, theme=_Names, tab_size=TAB)
    except Exception:  # a lexer that chokes on half a program must not take the chat with it
        return [_plain(line) for line in lines]
    result: list[Runs] = []
    spans = sorted((span for span in content.spans if span.style in STYLES), key=lambda span: span.start)
    at, index = 0, 0  # of the line in the code, and the first span that may reach into it
    for number, line in enumerate(lines):
        if number in long:
            result.append(_plain(line))
            at += 1
            continue
        runs: Runs = []
        end = done = at
        end += len(line)
        while index < len(spans) and spans[index].end <= at:
            index += 1
        for span in spans[index:]:
            if span.start >= end:
                break
            start, stop = max(span.start, done), min(span.end, end)
            if start >= stop:
                continue
            if start > done:
                runs.append(Run(code[done:start]))
            if runs and runs[-1].style == span.style:
                runs[-1] = Run(runs[-1].text + code[start:stop], runs[-1].style)
            else:
                runs.append(Run(code[start:stop], str(span.style)))
            done = stop
        if done < end:
            runs.append(Run(code[done:end]))
        result.append(runs)
        at = end + 1
    return result


class LineColourer:
    """Colours the lines of a block that is still being written, each once, without looking at the whole again.

    What a line means can depend on those above it: the inside of a string or a comment over several lines. The line
    that opened it is therefore kept, and put before the next ones until it is closed.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self._opener = ""

    def colour(self, line: str, *, complete: bool) -> Runs:
        """Return the next line as runs; a line that is not complete will be given again."""
        above = [self._opener] if self._opener else []
        *_, runs = coloured([*above, line], self._language)
        if complete and runs:
            self._opener = (self._opener or line) if self._goes_on(above, line, runs) else ""
        return runs

    def _goes_on(self, above: list[str], line: str, runs: Runs) -> bool:
        if runs[-1].style not in _MULTILINE:
            return False
        probe = coloured([*above, line, "x"], self._language)[-1]
        return bool(probe) and probe[0].style in _MULTILINE


def _plain(line: str) -> Runs:
    return [Run(line)] if line else []
