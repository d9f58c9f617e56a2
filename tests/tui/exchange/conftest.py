"""Stores in memory, and random chats."""

import pytest
from hypothesis import strategies as st

from tui.store import Store, WholeChat, WholeMessage

characters = st.characters(exclude_categories=()) | st.sampled_from("\x00\n\r\t`~#<>&*_[]|\\\u2028\ud800\x1b")
texts = st.text(characters, max_size=60).map(
    lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")  # as the store keeps it
)
times = st.floats(0, 4e9)
values = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)  # fmt: skip


@st.composite
def chats(draw, most: int = 12) -> WholeChat:
    """A chat with a random tree."""
    size = draw(st.integers(0, most))
    messages = [
        WholeMessage(
            parent=draw(st.none() | st.integers(0, place - 1)) if place else None,
            role=draw(st.sampled_from(["user", "assistant", "system"])),
            content=draw(texts),
            state=draw(st.sampled_from(["complete", "partial", "failed"])),
            created=draw(times),
            details=draw(values),
        )
        for place in range(size)
    ]
    return WholeChat(
        uid=draw(st.uuids()).hex,
        messages=messages,
        head=draw(st.none() | st.integers(0, size - 1)) if size else None,
        title=draw(texts),
        created=draw(times),
        updated=draw(times),
        pinned=draw(st.booleans()),
        settings=draw(values),
        draft=draw(texts),
    )


@pytest.fixture
def store():
    """An empty store."""
    opened = Store.open(None)
    yield opened
    opened.close()


@pytest.fixture
def example() -> WholeChat:
    """A chat with two branches: the first question was asked twice, and the second one answered twice."""
    return WholeChat(
        uid="example",
        title="Trees *and* such",
        messages=[
            WholeMessage(None, "user", "What is a tree?", created=1_700_000_000.25),
            WholeMessage(0, "assistant", "A plant.", created=1_700_000_001.5, details={"model": "koala-7b", "seed": 7}),
            WholeMessage(None, "user", "What is a tree in computing?", created=1_700_000_002.0),
            WholeMessage(2, "assistant", "A graph", state="partial", created=1_700_000_003.0),
            WholeMessage(2, "assistant", "A connected graph without cycles.", created=1_700_000_004.0),
        ],
        head=4,
        created=1_700_000_000.0,
        updated=1_700_000_005.0,
        settings={"system": "Be brief.", "sampling": {"temperature": 0.5}},
        draft="and then",
    )
