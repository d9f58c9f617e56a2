import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import InputError
from inference.folding import FoldedPrompt, fold, leave_out, places
from inference.prompt import Prompt


def chat(*sizes, system=0):
    """Messages of so many words."""
    roles = ["user", "assistant"] * len(sizes)
    messages = [{"role": role, "content": "w " * size} for role, size in zip(roles, sizes, strict=False)]
    return ([{"role": "system", "content": "s " * system}] if system else []) + messages


def words(messages):
    return sum(len(message["content"].split()) for message in messages)


def encode(messages, folded):
    return Prompt([7] * words(leave_out(messages, folded)), [], "", "", 0, 0)


def folding(messages, n_ctx, folded=0):
    return FoldedPrompt(messages, folded, encode, n_ctx=n_ctx, n_ctx_train=4096)


def test_whole_turns_can_go_and_the_system_message_and_the_last_turn_cannot():
    messages = chat(1, 1, 1, 1, 1, system=1)
    assert places(messages) == [0, 2, 4]
    assert leave_out(messages, 4) == [messages[0], messages[5]]
    assert leave_out(messages, 400) == leave_out(messages, 4)
    assert leave_out(messages, 3) == leave_out(messages, 2), "what is left begins with a user message"
    going_on = chat(1, 1, 1, 1)
    assert places(going_on) == [0, 2], "the question stays with the answer that goes on"
    # Questions that got no answer stand one after the other.
    assert places([*chat(1), *chat(1, 1, 1)]) == [0, 1, 3]
    assert places(chat(1, system=1)[:1]) == [0]


def test_nothing_is_folded_while_there_is_room():
    messages = chat(20, 20, 20, 20, 10)
    prompt = folding(messages, 120)
    assert len(prompt.begin(30).ids) == 90 and prompt.folded == 0


def test_folding_goes_down_to_half_of_the_context_at_once():
    messages = chat(*(10 for _ in range(19)), system=5)
    prompt = folding(messages, 200)
    assert len(prompt.begin(1000).ids) == 95
    assert prompt.folded == 10
    # So the next turns have the same beginning.
    for turn in range(2):
        messages = [*messages, *({"role": role, "content": "w " * 10} for role in ("assistant", "user"))]
        prompt = folding(messages, 200, prompt.folded)
        prompt.begin(1000)
        assert prompt.folded == 10, turn


def test_a_short_answer_needs_little_room():
    messages = chat(30, 30, 35)
    assert folding(messages, 100).begin(5) is not None
    wide, narrow = folding(messages, 100), folding(messages, 100)
    wide.begin(5), narrow.begin(6)
    assert (wide.folded, narrow.folded) == (0, 2)


def test_a_fold_that_is_no_longer_possible_shrinks():
    prompt = folding(chat(10, 10, 10), 200, folded=8)
    assert len(prompt.begin(10).ids) == 10 and prompt.folded == 2


def test_what_does_not_fit_is_a_sentence():
    with pytest.raises(InputError, match=r"are 205 tokens long, and the context holds 200; shorten it, or .* 4,096"):
        folding(chat(10, 10, 200, system=5), 200).begin(10)
    with pytest.raises(InputError, match=r"shorten it$"):
        FoldedPrompt(chat(4100), 0, encode, n_ctx=4096, n_ctx_train=4096).begin(10)
    # It fits, if barely: that is for the reply to say.
    assert len(folding(chat(199), 200).begin(100).ids) == 199


def test_a_reply_that_fills_the_context_makes_room_once_or_twice():
    prompt = folding(chat(40, 40, 40, 40, 20), 240)
    assert len(prompt.begin(40).ids) == 180
    folded, shorter = prompt.shorten(60)
    assert folded == 4 and len(shorter.ids) == 20
    assert prompt.shorten(220) is None, "nothing more can go"
    # What could go is not worth reading everything else again.
    assert folding(chat(5, 5, 20), 240).shorten(210) is None


sizes = st.lists(st.integers(0, 60), min_size=1, max_size=30)


@given(sizes, st.integers(0, 30), st.integers(8, 400), st.integers(1, 500), st.integers(0, 40))
def test_folding_keeps_its_promises(lengths, system, n_ctx, max_tokens, folded):
    messages = chat(*lengths, system=system)
    asked = []

    def size(place):
        asked.append(place)
        return words(leave_out(messages, place))

    room = min(max_tokens, n_ctx // 4)
    place = fold(messages, folded, size, n_ctx, room)
    possible = places(messages)
    assert place in possible
    assert place >= max(other for other in possible if other <= folded)
    if place > max(other for other in possible if other <= folded):
        before = possible[possible.index(place) - 1]
        assert size(place) <= n_ctx // 2 or place == possible[-1]
        assert size(before) > n_ctx // 2 or size(before) + room > n_ctx, "no more than needed"
    elif size(place) + room > n_ctx:
        assert place == possible[-1]
    assert len(asked) <= 3 + len(possible).bit_length() + 2, "the conversation is not written out over and over"
