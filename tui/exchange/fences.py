"""Code fences that what is between them cannot close."""

import re


def fenced(text: str, language: str = "") -> str:
    """Return the text, unaltered, between fences that are longer than any run of backticks in it.

    What is not fit to name a language is left out.
    """
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    name = language if re.fullmatch(r"[\w+#.-]*", language) else ""
    return f"{fence}{name}\n{text}\n{fence}"
