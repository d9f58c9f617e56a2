import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import EngineError
from inference.sse import MAX_EVENT_BYTES, EventParser


def parse(*pieces: bytes) -> list[str]:
    parser = EventParser()
    return [data for piece in pieces for data in parser.feed(piece)] + list(parser.end())


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data:a\r\n\r\ndata: b\r\r", ["a", "b"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b": ping\n\ndata: a\n: ping\n\n\n\n", ["a"]),
        (b"event: message\nid: 7\nretry: 10\ndata: a\n\n", ["a"]),
        (b'error: {"code": 500}\n\n', ['{"code": 500}']),
        (b"data: no empty line at the end", ["no empty line at the end"]),
        (b"data:  two spaces\n\n", [" two spaces"]),
        (b"\xef\xbb\xbfdata: a mark\n\n", ["a mark"]),
        (b"data: \xff\xfe\n\n", ["\N{REPLACEMENT CHARACTER}" * 2]),
        (b"data\n\ndata:\n\nnothing\n\n", []),
        (b"", []),
    ],
)
def test_events(stream, events):
    assert parse(stream) == events


LINES = st.sampled_from(["data: ", "data:", ": ", "event: ", "error: ", ""])
STREAMS = st.lists(st.tuples(LINES, st.text(alphabet="aé🐨:{} "), st.sampled_from(["\n", "\r\n", "\r", "\n\n"])))


@given(STREAMS, st.data())
def test_any_cut_gives_the_same_events(lines, data):
    stream = "".join(map("".join, lines)).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert parse(*pieces) == parse(stream)
    assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == parse(stream)


@given(st.binary())
def test_any_bytes_are_taken(stream):
    assert all(isinstance(event, str) for event in parse(stream))


@pytest.mark.parametrize("piece", [b"x" * 2**16, b"data: " + b"x" * 2**16 + b"\n"])
def test_an_endless_event_is_given_up(piece):
    parser = EventParser()
    with pytest.raises(EngineError, match="no chat server"):
        for _ in range(MAX_EVENT_BYTES // len(piece) + 2):
            assert list(parser.feed(piece)) == []
