"""The commands that fit what was typed after a slash, above the composer."""

from collections.abc import Mapping, Sequence

from textual.content import Content
from textual.widgets import Static

from ..commands import Command, key_names, matching, usage

MOST = 7


class CommandHints(Static):
    """A few lines, one for each command; hidden where there is none."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        super().__init__(id="command-hints")
        self._keys = keys
        self.commands: Sequence[Command] = ()
        self.display = False

    def offer(self, typed: str) -> None:
        """Show the commands for the text in the composer."""
        commands: Sequence[Command] = ()
        if typed.startswith("/") and "\n" not in typed and not typed.startswith("//"):
            name, space, _ = typed[1:].partition(" ")
            commands = [each for each in matching(name) if not space or each.name == name]
        if commands != self.commands:
            self.commands = commands
            self.display = bool(commands)
            self.update(Content("\n").join(self._lines()))

    def _lines(self) -> list[Content]:
        width = max((len(usage(each)) for each in self.commands[:MOST]), default=0)
        lines = [
            Content.assemble(
                (usage(each).ljust(width), "bold $secondary"),
                f"  {each.help}",
                (f"  {key_names(each, self._keys)}", "$foreground-muted"),
            )
            for each in self.commands[:MOST]
        ]
        if len(self.commands) > MOST:
            lines.append(Content.styled(f"… and {len(self.commands) - MOST} more", "$foreground-muted"))
        return lines
