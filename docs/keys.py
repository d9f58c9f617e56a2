"""Write the tables of keys and commands into docs/tui.md, from the app's own: python docs/keys.py"""

import sys
from pathlib import Path

PAGE = Path(__file__).parent / "tui.md"
BEGIN, END = "<!-- keys -->\n", "<!-- /keys -->\n"

sys.path.insert(0, str(PAGE.parent.parent))


def with_keys(page: str) -> str:
    """Return the page with the tables as they are now."""
    from tui.commands import key_table_markdown

    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{key_table_markdown()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_keys(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
