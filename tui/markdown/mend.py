"""Making the last line of an unfinished text look as it will once it is finished."""

import re

_UNDECIDED = re.compile(r"[`*_~]+$")
_CODE = re.compile(r"`[^`]*`")
_OPENERS = ("**", "~~")
_FENCE = re.compile(r"[ >]*(?:[-*+]|\d+[.)])?[ ]*(?:```|~~~)")


def mended(source: str) -> str:
    """Return the source with a last line that does not flicker.

    What may become a marker is left out, and what is open is closed: "some **bold te" is bold at once, and its
    asterisks never show. Only the last line is touched, and only if it has not been ended.
    """
    start = source.rfind("\n") + 1
    line = source[start:]
    if not line or sum(1 for above in source[:start].split("\n") if _FENCE.match(above)) % 2:
        return source
    line = _UNDECIDED.sub("", line)
    if _FENCE.match(line):
        return source
    if line.count("`") % 2:
        return f"{source[:start]}{line}`"
    bare = _CODE.sub("", line)
    for opener in _OPENERS:
        if bare.count(opener) % 2 and not bare[bare.rfind(opener) + 2 :][:1].isspace():
            line = line.rstrip() + opener
    return source[:start] + line
