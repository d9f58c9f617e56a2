"""Markdown out of which anything may come, for tests that must hold for every text."""

from hypothesis import strategies as st

FRAGMENTS = [
    *("- ", "* ", "+ ", "1. ", "2) ", "10. ", "> ", "# ", "### ", "    ", "  ", " ", "\t", "\n", "\n\n", "\n\n\n"),
    *("```", "```py\n", "~~~", "````", "|", "---", "---\n", "|---|\n", "| a | b |\n|---|:-:|\n", "| x | y | z |\n"),
    *(
        "===",
        "***",
        "**",
        "*",
        "_",
        "~~",
        "`",
        "``",
        "[x] ",
        "[ ] ",
        "[a](b)",
        "![i](j)",
        "[",
        "](",
        "\\",
        "\\(",
        "\\)",
    ),
    *("$$", "<br>", "<b>", "&amp;", "://a.b", "http://a.b/c ", "[r]: /x\n", "word", "two words ", "x = 1  # n\n"),
    *('"""', "/*", "日本語", "e\u0301", "👩‍👩‍👧", "\u200b", "\u202e", "\x1b[31m", "[b]"),
]
markdown = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=40).map("".join)
widths = st.integers(12, 70)
