"""What Markdown is made of, as far as a terminal can show it.

Inline text is a list of runs: a text, in which a newline breaks the line, and the names of its styles, such as
"strong" or "strong link". `gap` tells that the writer left an empty line before a block.
"""

from dataclasses import dataclass, field
from typing import NamedTuple


class Run(NamedTuple):
    """A stretch of text in one style; `style` is names with spaces between them, or ""."""

    text: str
    style: str = ""


Runs = list[Run]


@dataclass(slots=True)
class Paragraph:
    """Running text."""

    runs: Runs
    gap: bool = False


@dataclass(slots=True)
class Heading:
    """A title of level 1 to 6."""

    level: int
    runs: Runs
    gap: bool = False


@dataclass(slots=True)
class Code:
    """A code block, the `number`th of its message, 1-based. `info` is what stands behind the opening fence."""

    number: int
    info: str
    lines: list[str]
    closed: bool = True
    gap: bool = False

    @property
    def language(self) -> str:
        """The first word of the info, in lower case."""
        return self.info.split(maxsplit=1)[0].strip("{}.").lower() if self.info.strip() else ""

    @property
    def source(self) -> str:
        """The code as it was written, without a newline at the end."""
        return "\n".join(self.lines)


@dataclass(slots=True)
class Rule:
    """A line across the page."""

    gap: bool = False


@dataclass(slots=True)
class Quote:
    """Blocks that somebody else said."""

    blocks: "list[Block]"
    gap: bool = False


@dataclass(slots=True)
class Item:
    """An entry of a list. `marker` is a bullet or a number; `done` is None where there is no check box."""

    marker: str
    blocks: "list[Block]"
    done: bool | None = None
    gap: bool = False


@dataclass(slots=True)
class ListBlock:
    """Entries, bulleted or numbered."""

    items: list[Item]
    gap: bool = False


@dataclass(slots=True)
class Table:
    """Rows of cells. `aligns` has "", "left", "center" or "right" for each column; no row has more cells."""

    aligns: list[str]
    header: list[Runs]
    rows: list[list[Runs]] = field(default_factory=list)
    gap: bool = False


Block = Paragraph | Heading | Code | Rule | Quote | ListBlock | Table
