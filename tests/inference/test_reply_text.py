import itertools

from hypothesis import given
from hypothesis import strategies as st

from inference.reply_text import ReplyText

STOPS = ("\nUser:", "\nA", "##")
texts = st.text(alphabet="\nUAser: #ä🐨x", max_size=60)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """Cut the bytes at these places into pieces, as tokens do."""
    edges = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def before_stops(text: str) -> str:
    return text[: min((at for stop in STOPS if (at := text.find(stop)) >= 0), default=len(text))]


@given(texts, st.lists(st.integers(0, 300)))
def test_all_comes_out_up_to_the_first_stop_string_and_nothing_of_it(text, places):
    reply, out, seen = ReplyText(STOPS, on=True), "", b""
    for piece in cut(text.encode(), places):
        reply.add(piece)
        out += reply.take()
        seen += piece
        # Whatever was let out is right, whatever comes next.
        so_far = seen.decode(errors="ignore")
        for goes_on in ("", *(stop[size:] for stop in STOPS for size in range(len(stop)))):
            assert before_stops(so_far + goes_on).startswith(out)
    reply.close()
    assert out + reply.take() == before_stops(text)
    assert reply.stopped == (before_stops(text) != text)


@given(st.binary(max_size=80), st.lists(st.integers(0, 100)))
def test_bytes_that_are_no_utf8_are_replaced_and_never_hold_anything_back(data, places):
    reply, out, pieces = ReplyText(on=True), "", cut(data, places)
    for piece in pieces:
        reply.add(piece)
        out += reply.take()
        if reply.ends_settled:
            assert out == b"".join(pieces[: reply.settled]).decode(errors="replace")
    reply.close()
    assert out + reply.take() == data.decode("utf-8", errors="replace")


@given(texts, st.lists(st.integers(0, 300)))
def test_the_settled_tokens_are_those_whose_text_is_out(text, places):
    reply, out = ReplyText(STOPS, on=True), ""
    pieces = cut(text.encode(), places)
    for piece in pieces:
        reply.add(piece)
        out += reply.take()
        settled = b"".join(pieces[: reply.settled]).decode(errors="replace")
        assert out.startswith(settled)
        assert reply.ends_settled == (out == settled)
    reply.close()
    if not reply.stopped:
        assert reply.settled == len(pieces)


def test_space_before_the_first_word_is_left_out_unless_the_reply_goes_on():
    first, more = ReplyText(), ReplyText(on=True)
    for reply in (first, more):
        for piece in (b" ", b"\n  Hi", b" there "):
            reply.add(piece)
    assert first.take() == "Hi there "
    assert more.take() == " \n  Hi there "


def test_bytes_that_are_no_utf8_settle_as_soon_as_that_is_clear():
    reply = ReplyText()
    for piece in (b"a", b"\xc3", b"\xc3"):
        reply.add(piece)
    assert (reply.take(), reply.settled, reply.ends_settled) == ("a�", 2, True)


def test_a_character_in_the_making_is_not_settled():
    reply = ReplyText()
    for piece in (b"a", b"\xf0", b"\x9f"):
        reply.add(piece)
    assert (reply.take(), reply.settled) == ("a", 1)
    for piece in (b"\x90", b"\xa8"):
        reply.add(piece)
    assert (reply.take(), reply.settled) == ("🐨", 5)
