"""Names that data brought along, made fit for one line of a terminal, a picture or a page."""

from datasets_cfg.show import harmless

_LONGEST = 60


def label(name: str, longest: int = _LONGEST) -> str:
    """The name on one line of at most `longest` characters: control characters show as symbols and do nothing."""
    text = harmless(" ".join(name.split()))
    text = " ".join(text.encode("utf-8", "replace").decode().split())  # half a character has no encoding
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
