"""What is said is in the store, or in memory until that can be written: nothing is lost, nothing is there twice."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tui.keeper import Keeper
from tui.store import NotFoundError, Store, StoreError

WRITES = (
    *("create_chat", "rename", "pin", "set_settings", "set_draft"),
    *("add_message", "update_message", "take_back", "select", "set_head", "heartbeat"),
)
FULL = "the disk is full"


class Broken:
    """A store whose writes fail while `broken`."""

    def __init__(self) -> None:
        self._store = Store.open(None)
        self.broken = False
        self.fails_after = None  # that many further writes succeed

    def __getattr__(self, name: str):
        value = getattr(self._store, name)
        if name not in WRITES:
            return value

        def write(*arguments, **options):
            if self.fails_after is not None:
                self.fails_after -= 1
                if self.fails_after < 0:
                    raise StoreError(FULL)
            if self.broken:
                raise StoreError(FULL)
            return value(*arguments, **options)

        return write


def said(keeper: Keeper, chat: int) -> list[tuple]:
    return [(m.role, m.content, m.state, m.position, m.siblings) for m in keeper.path(chat)]


def belongs(store: Keeper | Store, chat: int) -> tuple:
    found = store.chat(chat)
    return found.title, found.draft, found.pinned


def test_it_writes_through():
    store = Broken()
    keeper = Keeper(store)
    chat = keeper.create_chat({})
    question = keeper.add(chat, None, "user", "hi", durable=True)
    reply = keeper.add(chat, question, "assistant", "", state="streaming", details={"model": "m"})
    keeper.update(chat, reply, content="hello", state="complete")
    assert [message.content for message in store.path(chat)] == ["hi", "hello"] and not keeper.pending
    assert keeper.trouble is None and keeper.sibling(chat, reply, 1) is None


def test_a_chat_in_a_broken_store_lives_in_memory_and_is_written_later():
    store = Broken()
    keeper = Keeper(store)
    store.broken = True
    chat = keeper.create_chat({"preset": "p"})
    question = keeper.add(chat, None, "user", "what  is\nthis?")
    one = keeper.add(chat, question, "assistant", "one", state="streaming")
    keeper.update(chat, one, content="one!", state="complete", details={"seed": 1})
    two = keeper.add(chat, question, "assistant", "two")
    assert keeper.pending and keeper.trouble == FULL and min(chat, question, one, two) < 0
    assert said(keeper, chat)[-1] == ("assistant", "two", "complete", 2, 2)
    keeper.select(chat, one)
    assert said(keeper, chat)[-1] == ("assistant", "one!", "complete", 1, 2)
    assert keeper.sibling(chat, one, 1) == two and keeper.sibling(chat, one, -1) is None
    assert [each.title for each in keeper.chats(10)] == ["what is"] and keeper.chat(chat).messages == 3
    keeper.change_chat(chat, title="mine", draft="d")
    assert keeper.chat(chat).title == "mine"

    keeper.flush()
    assert keeper.pending and keeper.trouble == FULL, "it is still broken"
    store.broken = False
    keeper.flush()
    assert not keeper.pending and keeper.trouble is None
    assert keeper.stored(chat) > 0
    assert said(keeper, chat)[-1] == ("assistant", "one!", "complete", 1, 2), "under its old id, too"
    [stored] = store.chats()
    assert (stored.title, stored.settings, stored.messages, stored.draft) == ("mine", {"preset": "p"}, 3, "d")
    assert store.path(stored.id)[-1].details == {"seed": 1}


def test_a_stored_chat_goes_on_in_memory():
    store = Broken()
    keeper = Keeper(store)
    chat = keeper.create_chat({})
    question = keeper.add(chat, None, "user", "hi")
    reply = keeper.add(chat, question, "assistant", "he", state="streaming")
    store.broken = True
    keeper.update(chat, reply, content="hello", state="streaming")
    keeper.update(chat, reply, state="complete")
    keeper.heartbeat([reply])
    more = keeper.add(chat, reply, "user", "and?")
    assert [row[1:3] for row in said(keeper, chat)] == [("hi", "complete"), ("hello", "complete"), ("and?", "complete")]
    keeper.take_back(chat, more)
    assert len(said(keeper, chat)) == 2
    store.broken = False
    keeper.flush()
    assert [(m.content, m.state) for m in store.path(chat)] == [("hi", "complete"), ("hello", "complete")]


def test_what_belongs_to_a_stored_chat_waits_too_and_the_trouble_ends_with_the_first_write_that_succeeds():
    store = Broken()
    keeper = Keeper(store)
    chat = keeper.create_chat({})
    store.broken = True
    keeper.change_chat(chat, draft="precious", pinned=True)
    assert keeper.pending and keeper.trouble == FULL and store.chat(chat).draft == ""
    assert keeper.chat(chat).draft == "precious" and keeper.chats(10)[0].pinned
    store.broken = False
    keeper.add(chat, None, "user", "hi")
    assert not keeper.pending and keeper.trouble is None
    assert (store.chat(chat).draft, store.chat(chat).pinned) == ("precious", True)
    with pytest.raises(NotFoundError):
        keeper.change_chat(99, draft="x")


def test_a_sign_of_life_that_cannot_be_given_is_no_loss():
    store = Broken()
    keeper = Keeper(store)
    store.broken = True
    keeper.heartbeat([1])
    assert keeper.trouble is None


def test_other_chats_are_written_although_one_cannot_be():
    store = Broken()
    keeper = Keeper(store)
    lost, chat = keeper.create_chat({}), keeper.create_chat({})
    gone = keeper.add(lost, None, "user", "x")
    store.delete(lost)
    store.purge_deleted(before=float("inf"))  # another window
    keeper.update(lost, gone, content="y")
    assert keeper.pending
    keeper.add(chat, None, "user", "hi")
    assert [message.content for message in store.path(chat)] == ["hi"]


def test_a_read_only_store_keeps_its_trouble():
    store = Broken()
    store._store._database.read_only = True
    keeper = Keeper(store)
    store.broken = True
    keeper.create_chat({})
    keeper.flush()
    assert keeper.trouble == FULL


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "reply", "again", "update", "prev", "draft", "title", "pinned", "break", "mend"]),
        st.integers(0, 3),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_happens_it_says_what_a_store_that_never_breaks_would_say(steps):
    broken, good = Broken(), Store.open(None)
    keeper, mirror = Keeper(broken), Keeper(good)
    chats = [each.create_chat({}) for each in (keeper, mirror)]
    for step, number in steps:
        if step in ("break", "mend"):
            broken.broken = step == "break"
            broken.fails_after = number if step == "break" else None
            broken.broken = False if broken.fails_after else broken.broken
            continue
        for each, chat in zip((keeper, mirror), chats, strict=True):
            path = each.path(chat)
            last = path[-1] if path else None
            if step in ("draft", "title", "pinned"):
                value = {"draft": f"d{number}", "title": f"t{number}", "pinned": number > 1}[step]
                each.change_chat(chat, **{step: value})
            elif step == "ask":
                each.add(chat, last and last.id, "user", f"q{number}")
            elif step == "reply":
                each.add(chat, last and last.id, "assistant", f"a{number}", state="streaming")
            elif last is None:
                continue
            elif step == "again":
                each.add(chat, last.parent_id, last.role, f"again{number}")
            elif step == "update":
                each.update(chat, last.id, content=f"new{number}", state="partial")
            elif step == "prev":
                other = each.sibling(chat, last.id, -1)
                if other is not None:
                    each.select(chat, other)
        assert said(keeper, chats[0]) == said(mirror, chats[1])
        assert belongs(keeper, chats[0])[1:] == belongs(mirror, chats[1])[1:]
    broken.broken, broken.fails_after = False, None
    keeper.flush()
    assert not keeper.pending
    assert said(keeper, chats[0]) == said(mirror, chats[1])
    assert belongs(broken, keeper.stored(chats[0])) == belongs(mirror, chats[1])
    tree = [(m.role, m.content, m.state) for m in broken.tree(keeper.stored(chats[0]))]
    assert sorted(tree) == sorted((m.role, m.content, m.state) for m in good.tree(chats[1])), "and nothing twice"


def test_the_errors_of_reading_are_the_callers():
    with pytest.raises(StoreError):
        Keeper(Store.open(None)).path(99)
