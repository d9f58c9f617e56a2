from hypothesis import given
from hypothesis import strategies as st

from inference.events import Delta, Finished, Folded
from inference.gathering import gathered

END = Finished("stop", 1, 1, 1, 0, 1, 0.1, 0.1, 0.1)


def at(times):
    """A clock that says these times, one for each delta that is looked at."""
    times = iter(times)
    last = [0.0]

    def clock():
        last[0] = next(times, last[0])
        return last[0]

    return clock


def test_what_comes_in_quick_succession_is_joined():
    events = [Delta("a"), Delta("b"), Delta("c", 2), END]
    assert list(gathered(events, 1.0, at([0.0, 0.0, 0.1, 0.2]))) == [Delta("a"), Delta("bc", 3), END]


def test_a_slow_model_is_passed_on_at_once():
    events = [Delta("a"), Delta("b"), Delta("c")]
    assert list(gathered(events, 1.0, at([0, 0, 5, 5, 10, 10]))) == events


def test_no_delta_waits_behind_another_event():
    events = [Delta("a"), Delta("b"), Folded(2), Delta("c"), Delta("d")]
    assert list(gathered(events, 1.0, lambda: 0.0)) == [Delta("a"), Delta("b"), Folded(2), Delta("cd", 2)]


EVENTS = st.lists(st.one_of(st.builds(Delta, st.text(), st.integers(1, 3)), st.just(Folded(2)), st.just(END)))


@given(EVENTS, st.lists(st.floats(0, 1)))
def test_no_text_no_token_and_no_order_is_lost(events, steps):
    times = [sum(steps[: n + 1]) for n in range(len(steps))]
    passed = list(gathered(iter(events), 0.5, at(times)))

    def plain(events):
        text, tokens = "", 0
        for event in events:
            if isinstance(event, Delta):
                text, tokens = text + event.text, tokens + event.tokens
            else:
                text += f"\0{event}\0"
        return text, tokens

    assert plain(passed) == plain(events)
