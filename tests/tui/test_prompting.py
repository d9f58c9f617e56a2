from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tui.entries import entries
from tui.prompting import first_seen, folded_so_far, prompt
from tui.store import StoredMessage


def path(*messages: tuple, **details) -> list[StoredMessage]:
    """A path of messages, each (role, content) or (role, content, state); the last one has the details."""
    made = []
    for number, (role, content, *state) in enumerate(messages, 1):
        last = details if number == len(messages) else {}
        made.append(
            StoredMessage(
                number, 1, number - 1 or None, role, content, state[0] if state else "complete", 0, last, 1, 1
            )
        )
    return made


def test_system_and_turns():
    messages = prompt(path(("user", "a"), ("assistant", "b"), ("user", "c")), "be kind")
    assert messages == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert prompt(path(("user", "a")), None) == prompt(path(("user", "a")), "") == [{"role": "user", "content": "a"}]


def test_questions_without_an_answer_join_the_next():
    messages = prompt(path(("user", "a"), ("assistant", "", "partial"), ("user", "b")), None)
    assert messages == [{"role": "user", "content": "a\n\nb"}]


def test_an_answer_without_a_word_stays():
    assert len(prompt(path(("user", "a"), ("assistant", ""), ("user", "b")), None)) == 3


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.sampled_from(["", "x"]),
                          st.sampled_from(["complete", "partial", "streaming"])), max_size=8))  # fmt: skip
def test_roles_always_alternate(messages):
    roles = [message["role"] for message in prompt(path(*messages), None)]
    assert all(one != other for one, other in pairwise(roles))


def test_what_was_folded_stays_folded_except_in_a_larger_context():
    said = path(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), folded=2, load={"n_ctx": 512})
    assert folded_so_far(said, 512) == 2 and folded_so_far(said, 256) == 2 and folded_so_far(said, 1024) == 0
    assert folded_so_far(said[:2]) == 0
    assert first_seen(said, 2) is said[2] and first_seen(said, 0) is None and first_seen(said, 9) is None


def test_the_marker_stands_where_sight_begins():
    said = path(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    assert [entry.kind for entry in entries(said, folded=2)] == ["user", "reply", "marker", "user", "reply"]
    assert [entry.kind for entry in entries(said, folded=0)] == ["user", "reply"] * 2


def test_notes_say_why_a_reply_ended_early():
    def note(state="partial", text="x", **details):
        return entries(path(("assistant", text, state), **details), continue_key="Ctrl+G")[0].note

    assert note("complete") == "" and note("complete", "") == "the model ended its reply without a word"
    assert note(reason="cancelled") == "stopped · Ctrl+G continues it"
    assert note(reason="length", sampling={"max_tokens": 9}).startswith("cut at max_tokens=9 · Ctrl+G continues it")
    assert note(reason="context").startswith("cut because the context is full")
    assert note(reason="error") == note() == "interrupted · Ctrl+G continues it"


def test_speakers():
    one, other = entries(path(("user", "a"), ("assistant", "b"), model="Big\x1bModel" + "x" * 99))
    assert one.speaker == "You" and other.speaker == "Big␛Model" + "x" * 39
