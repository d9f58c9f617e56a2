"""How a conversation looks: the colours and letters of everything in it, by the names that its lines give them."""

import re

CSS = """
Transcript {
    background: $background;
    color: $foreground;
    height: 1fr;
    overflow-x: hidden;
    overflow-y: scroll;
    scrollbar-size-vertical: 1;

    & > .transcript--speaker { text-style: bold; }
    & > .transcript--user-speaker { color: $secondary; }
    & > .transcript--reply-speaker { color: $primary; }
    & > .transcript--siblings { color: $foreground 70%; }
    & > .transcript--sibling-arrow { color: $accent; text-style: bold; }
    & > .transcript--note { color: $foreground 60%; text-style: italic; }
    & > .transcript--user { background: $surface; }
    & > .transcript--user-bar { color: $secondary; }
    & > .transcript--notice { color: $error; }
    & > .transcript--notice-bar { color: $error; }
    & > .transcript--marker { color: $warning; }
    & > .transcript--marker-rule { color: $foreground 25%; }
    & > .transcript--selected-bar { color: $accent; text-style: bold; }
    & > .transcript--selection { background: $primary 40%; }
    & > .transcript--match { background: $accent; color: $background; text-style: bold; }

    & > .transcript--heading { color: $primary; text-style: bold; }
    & > .transcript--heading-1 { text-style: bold underline; }
    & > .transcript--heading-3 { color: $foreground; }
    & > .transcript--heading-4 { color: $foreground; text-style: bold italic; }
    & > .transcript--strong { text-style: bold; }
    & > .transcript--em { text-style: italic; }
    & > .transcript--strike { text-style: strike; color: $foreground 60%; }
    & > .transcript--code { color: $accent; background: $panel; }
    & > .transcript--formula { color: $accent; text-style: italic; }
    & > .transcript--image { color: $secondary; text-style: italic; }
    & > .transcript--link { color: $secondary; text-style: underline; }
    & > .transcript--url { color: $foreground 60%; }
    & > .transcript--quote { color: $foreground 80%; text-style: italic; }
    & > .transcript--quote-bar { color: $foreground 35%; text-style: none; }
    & > .transcript--bullet { color: $primary; }
    & > .transcript--done { color: $foreground 60%; }
    & > .transcript--rule { color: $foreground 25%; }
    & > .transcript--table-head { text-style: bold; color: $primary; }
    & > .transcript--table-line { color: $foreground 25%; }
    & > .transcript--fence { background: $panel; color: $foreground; }
    & > .transcript--fence-head { color: $foreground 60%; }
    & > .transcript--fence-number { color: $accent; text-style: bold; }
    & > .transcript--goes-on { color: $foreground 40%; }

    & > .transcript--comment { color: $foreground 55%; text-style: italic; }
    & > .transcript--keyword { color: $secondary; }
    & > .transcript--string { color: $success; }
    & > .transcript--number { color: $warning; }
    & > .transcript--builtin { color: $secondary; }
    & > .transcript--name { text-style: bold; }
    & > .transcript--inserted { color: $success; }
    & > .transcript--deleted { color: $error; }

    /* Sixteen colours cannot be mixed: what is paler elsewhere is dim, and boxes have a line above them. */
    &:ansi {
        & > .transcript--siblings { text-style: dim; }
        & > .transcript--note { text-style: dim italic; }
        & > .transcript--marker-rule { text-style: dim; }
        & > .transcript--selection { text-style: reverse; background: ansi_default; }
        & > .transcript--match { text-style: reverse bold; color: ansi_default; background: ansi_default; }
        & > .transcript--strike { text-style: strike dim; }
        & > .transcript--url { text-style: dim; }
        & > .transcript--quote-bar { text-style: dim; }
        & > .transcript--done { text-style: dim; }
        & > .transcript--rule { text-style: dim; }
        & > .transcript--table-line { text-style: dim; }
        & > .transcript--fence-head { text-style: dim underline; }
        & > .transcript--goes-on { text-style: dim; }
        & > .transcript--comment { text-style: dim italic; }
    }
}
"""

NAMES = frozenset(re.findall(r"transcript--([a-z0-9-]+)", CSS))
