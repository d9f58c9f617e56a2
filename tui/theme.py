"""Koala's colours: eucalyptus on slate, eucalyptus on paper, and a pair with the highest contrast."""

from textual.theme import Theme


def _scrollbars(track: str, thumb: str, hover: str, active: str) -> dict[str, str]:
    return {
        "scrollbar": thumb,
        "scrollbar-background": track,
        "scrollbar-corner-color": track,
        "scrollbar-hover": hover,
        "scrollbar-background-hover": track,
        "scrollbar-active": active,
        "scrollbar-background-active": track,
    }


KOALA_THEME = Theme(
    name="koala",
    primary="#93c2a0",
    secondary="#8fb3c9",
    accent="#dcb27f",
    foreground="#d6dcd8",
    background="#14181a",
    surface="#1a1f22",
    panel="#232a2d",
    success="#93c2a0",
    warning="#dcb27f",
    error="#dd8075",
    dark=True,
    variables={
        "block-cursor-text-style": "none",
        "border-blurred": "#2c3539",
        **_scrollbars("#14181a", "#2c3539", "#3c484d", "#93c2a0"),
    },
)
KOALA_LIGHT = Theme(
    name="koala-light",
    primary="#3d7350",
    secondary="#2f6483",
    accent="#8a5a14",
    foreground="#22302a",
    background="#f7f8f4",
    surface="#eef1ec",
    panel="#e2e7e0",
    success="#3d7350",
    warning="#8a5a14",
    error="#a8392d",
    dark=False,
    variables={
        "block-cursor-text-style": "none",
        "border-blurred": "#c9d1ca",
        **_scrollbars("#f7f8f4", "#c9d1ca", "#aab6ad", "#3d7350"),
    },
)
HIGH_CONTRAST = Theme(
    name="koala-contrast",
    primary="#7dffa6",
    secondary="#7fd4ff",
    accent="#ffd75f",
    foreground="#ffffff",
    background="#000000",
    surface="#0c0c0c",
    panel="#262626",
    success="#7dffa6",
    warning="#ffd75f",
    error="#ff8f87",
    dark=True,
    variables={
        "block-cursor-text-style": "bold",
        "border-blurred": "#b0b0b0",
        "foreground-muted": "#d0d0d0",
        "text-muted": "#d0d0d0",
        **_scrollbars("#000000", "#b0b0b0", "#ffffff", "#7dffa6"),
    },
)
THEMES = (KOALA_THEME, KOALA_LIGHT, HIGH_CONTRAST)
