"""A screen as text that can be read in a diff: its characters, and below them which style each run of cells has.

Colours have the names that the theme gives them, where it has one. Rows alike follow each other in one line.
"""

import itertools
from collections.abc import Iterable, Iterator

from rich.color import Color, ColorType
from rich.segment import Segment
from rich.style import Style
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from textual.app import App
from textual.color import Color as TextualColor
from textual.widgets import Input, TextArea

# What a colour is called, the first that fits; the theme has hundreds of names, most of them for the same few colours.
NAMES = (
    *("foreground", "background", "surface", "panel", "primary", "secondary", "accent", "success", "warning", "error"),
    *("foreground-muted", "border-blurred", "scrollbar", "scrollbar-active"),
)
ATTRIBUTES = ("bold", "dim", "italic", "underline", "blink", "reverse", "strike")


class ScreenExtension(SingleFileSnapshotExtension):
    """One text file for each snapshot."""

    _write_mode = WriteMode.TEXT
    file_extension = "txt"


async def draw(pilot) -> str:
    """Return what is on the screen, once it has come to rest."""
    app = pilot.app
    for field in app.screen.query("Input, TextArea"):
        if isinstance(field, (Input, TextArea)):
            field.cursor_blink = False
    await pilot.pause()
    rows = [list(row) for row in app.screen._compositor.render_strips()]
    text = ["".join(segment.text for segment in row).rstrip() for row in rows]
    names = _colour_names(app)
    styles = [_runs(row, names) for row in rows]
    return "\n".join([*text, "=" * app.size.width, *_merge(styles)]) + "\n"


def _runs(row: Iterable[Segment], names: dict[str, str]) -> str:
    """Return the runs of a row as `cells style`, joined by commas; what is left is blank background.

    Spaces belong to the run before them where one cannot tell the difference.
    """
    runs: list[tuple[int, str, str]] = []
    for segment in row:
        if not segment.text:
            continue
        style = segment.style or Style.null()
        attributes = " ".join(name for name in ATTRIBUTES if getattr(style, name))
        look = f"{attributes} {_colour(style.color, names)}".strip()
        behind = _colour(style.bgcolor, names)
        if segment.text.isspace() and not (style.reverse or style.underline or style.strike):
            look = runs[-1][1] if runs and runs[-1][2] == behind else ""
        if runs and runs[-1][1:] == (look, behind):
            runs[-1] = (runs[-1][0] + segment.cell_length, look, behind)
        else:
            runs.append((segment.cell_length, look, behind))
    if runs and runs[-1][1:] == ("", "background"):
        runs.pop()
    return ", ".join(
        " ".join([str(cells), *[look] * bool(look), *[f"on {behind}"] * (behind != "background")])
        for cells, look, behind in runs
    )


def _colour(colour: Color | None, names: dict[str, str]) -> str:
    if colour is None or colour.is_default:
        return "default"
    if colour.type is ColorType.TRUECOLOR:
        return names.get(colour.triplet.hex, colour.triplet.hex)
    return colour.name


def _colour_names(app: App) -> dict[str, str]:
    """Return the names of the theme's colours by their values; what lets its ground shine through has several."""
    if app.current_theme.ansi:
        return {}  # its colours have names already
    variables = app.get_css_variables()
    grounds = [TextualColor.parse(variables[name]) for name in ("background", "surface", "panel")]
    names: dict[str, str] = {}
    for name in NAMES:
        colour = TextualColor.parse(variables.get(name, "transparent"))
        if colour.ansi is None and colour.a > 0:
            for ground in grounds:
                names.setdefault(ground.blend(colour, colour.a, 1).hex6.lower(), name)
    return names


def _merge(styles: list[str]) -> Iterator[str]:
    for style, group in itertools.groupby(enumerate(styles, 1), key=lambda pair: pair[1]):
        numbers = [number for number, _ in group]
        rows = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        yield f"{rows:>5}: {style}"
