import pytest

from inference.sampling import Sampling
from tui.chat_settings import ChatSettings, from_store
from tui.config import Preset

DEFAULTS = ChatSettings(Sampling(), "be kind")


@pytest.mark.parametrize(
    "settings",
    [
        DEFAULTS,
        ChatSettings(Sampling(temperature=0.1, seed=3), "other", "mine"),
        ChatSettings(Sampling(), None),
        ChatSettings(Sampling(max_tokens=1), "be kind", "p"),
    ],
)
def test_they_survive_the_store(settings):
    assert from_store(settings.to_store(DEFAULTS), DEFAULTS) == settings


def test_only_what_differs_is_stored_so_that_new_defaults_reach_old_chats():
    stored = ChatSettings(Sampling(temperature=0.1), "be kind").to_store(DEFAULTS)
    assert stored == {"sampling": {"temperature": 0.1}}
    assert from_store(stored, ChatSettings(Sampling(top_k=1), "new")) == ChatSettings(
        Sampling(temperature=0.1, top_k=1), "new"
    )


@pytest.mark.parametrize(
    "stored",
    [{}, {"sampling": {"warmth": 1, "temperature": -1, "top_k": "x"}, "preset": 3}, {"sampling": [], "other": {}}],
)
def test_what_cannot_be_used_is_as_if_it_were_not_there(stored):
    assert from_store(stored, DEFAULTS) == DEFAULTS


def test_a_preset_changes_what_it_names():
    preset = Preset({"temperature": 0.0})
    assert DEFAULTS.with_preset("p", preset) == ChatSettings(Sampling(temperature=0.0), "be kind", "p")
    assert DEFAULTS.with_preset("p", Preset({}, "")).system is None
