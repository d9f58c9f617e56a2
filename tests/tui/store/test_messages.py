import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tui.store import Store, StoreError

from .conftest import talk

anything = st.text(st.characters(exclude_categories=()) | st.sampled_from("\x00\ud800\udc00\udfff\x1b\u202e"))


def contents(store: Store, chat: int) -> list[str]:
    return [message.content for message in store.path(chat)]


def test_a_conversation(store):
    chat, messages = talk(store, "Hello", "Hi!", "How are you?", "Fine.")
    path = store.path(chat)
    assert [(m.id, m.parent_id, m.role, m.content, m.state) for m in path] == [
        (messages[0], None, "user", "Hello", "complete"),
        (messages[1], messages[0], "assistant", "Hi!", "complete"),
        (messages[2], messages[1], "user", "How are you?", "complete"),
        (messages[3], messages[2], "assistant", "Fine.", "complete"),
    ]
    assert {(m.position, m.siblings) for m in path} == {(1, 1)}
    assert path == store.tree(chat)
    assert store.chat(chat).messages == 4


def test_siblings_of_an_answer(store):
    chat, (question, first) = talk(store, "Hello", "one")
    second = store.add_message(chat, question, "assistant", "two")
    third = store.add_message(chat, question, "assistant", "three")
    assert contents(store, chat) == ["Hello", "three"]
    last = store.path(chat)[-1]
    assert (last.position, last.siblings) == (3, 3)
    assert [store.sibling(second, step) for step in (-2, -1, 0, 1, 2)] == [None, first, second, third, None]
    store.select(first)
    assert contents(store, chat) == ["Hello", "one"]
    assert store.path(chat)[-1].position == 1


def test_an_edited_question_is_a_sibling_of_the_first(store):
    chat, (first, _) = talk(store, "Helo", "?")
    edited = store.add_message(chat, None, "user", "Hello")
    assert contents(store, chat) == ["Hello"]
    assert store.sibling(first, 1) == edited
    assert [(m.content, m.position, m.siblings) for m in store.tree(chat)] == [
        ("Helo", 1, 2),
        ("?", 1, 1),
        ("Hello", 2, 2),
    ]
    store.select(first)
    assert contents(store, chat) == ["Helo", "?"]


def test_selecting_goes_to_the_newest_leaf(store):
    chat, (question, answer, more, _) = talk(store, "q", "a", "q2", "a2")
    store.add_message(chat, more, "assistant", "a2 again")
    store.add_message(chat, question, "assistant", "other")
    store.select(answer)
    assert contents(store, chat) == ["q", "a", "q2", "a2 again"]
    store.select(more)
    assert contents(store, chat) == ["q", "a", "q2", "a2 again"]


def test_the_head_can_be_set(store):
    chat, messages = talk(store, "q", "a", "q2")
    store.set_head(chat, messages[1])
    assert contents(store, chat) == ["q", "a"]
    store.set_head(chat, None)
    assert store.path(chat) == []
    assert len(store.tree(chat)) == 3


def test_a_message_belongs_to_the_chat_of_its_parent(store):
    chat, _ = talk(store, "here")
    _, (elsewhere,) = talk(store, "there")
    with pytest.raises(StoreError, match="another chat"):
        store.add_message(chat, elsewhere, "assistant", "x")
    with pytest.raises(StoreError, match="another chat"):
        store.set_head(chat, elsewhere)
    with pytest.raises(StoreError, match="no message 99 any more"):
        store.add_message(chat, 99, "assistant", "x")
    assert contents(store, chat) == ["here"]


def test_taking_back(store):
    chat, (question, answer, follow_up) = talk(store, "q", "a", "q2")
    with pytest.raises(StoreError, match="others follow it"):
        store.take_back(answer)
    store.take_back(follow_up)
    assert contents(store, chat) == ["q", "a"]
    other = store.add_message(chat, question, "assistant", "b")
    store.select(answer)
    store.take_back(other)
    assert contents(store, chat) == ["q", "a"]
    assert store.chat(chat).messages == 2
    store.take_back(answer)
    store.take_back(question)
    assert store.path(chat) == store.tree(chat) == []
    assert store.add_message(chat, None, "user", "again") > other


@pytest.mark.parametrize("method", ["select", "take_back", "update_message"])
def test_a_message_that_is_not_there_is_a_sentence(store, method):
    with pytest.raises(StoreError, match="no message 99 any more"):
        getattr(store, method)(99)
    with pytest.raises(StoreError, match="no message 99 any more"):
        store.sibling(99, 1)


def test_an_unknown_state_is_a_mistake_of_the_caller(store):
    chat, (question,) = talk(store, "q")
    with pytest.raises(ValueError, match="no state: 'done'"):
        store.add_message(chat, question, "assistant", "", state="done")
    with pytest.raises(ValueError, match="no state: 'done'"):
        store.update_message(question, state="done")
    assert len(store.tree(chat)) == 1


def test_a_reply_in_the_making(store):
    chat, (question,) = talk(store, "q")
    reply = store.add_message(chat, question, "assistant", "", state="streaming", details={"seed": 1})
    store.update_message(reply, content="So", state="streaming")
    assert store.path(chat)[-1].content == "So"
    assert store.path(chat)[-1].details == {"seed": 1}
    store.update_message(reply, state="complete", details={"seed": 1, "tokens_per_second": 12.5})
    message = store.path(chat)[-1]
    assert (message.content, message.state) == ("So", "complete")
    assert message.details == {"seed": 1, "tokens_per_second": 12.5}


def test_only_the_silent_are_interrupted(store, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    chat, (question,) = talk(store, "q")
    replies = [store.add_message(chat, question, "assistant", f"{n}", state="streaming") for n in range(4)]
    now += 4
    store.update_message(replies[0], content="0 more", state="streaming")
    store.heartbeat([replies[1]])
    store.update_message(replies[2], state="complete")
    assert store.interrupted() == []
    now += 2
    assert store.interrupted() == [replies[3]]
    assert [m.state for m in store.tree(chat)] == ["complete", "streaming", "streaming", "complete", "partial"]
    assert store.tree(chat)[-1].content == "3"
    now += 10
    assert store.interrupted() == replies[:2]
    store.heartbeat([replies[0]])  # its writer was only suspended
    assert store.tree(chat)[1].state == "streaming"
    store.heartbeat([])


def test_history_has_each_question_once_newest_first(store, monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr("time.time", lambda: float(next(now)))
    talk(store, "one", "answer", "two")
    talk(store, "three", "answer", "one")
    assert store.history() == ["one", "three", "two"]
    assert store.history(2) == ["one", "three"]


@given(anything, anything, anything)
@settings(deadline=None)
def test_any_text_comes_back_as_it_was(text, title, draft):
    store = Store.open(None)
    chat = store.create_chat(title)
    store.set_draft(chat, draft)
    message = store.add_message(chat, None, "user", text, details={"text": text, title: 1})
    other = store.add_message(chat, message, "assistant", "")
    store.update_message(other, content=title)

    def whole(value: str) -> str:  # halves that belong together are one character
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

    assert [m.content for m in store.path(chat)] == [whole(text), whole(title)]
    assert store.chat(chat).draft == whole(draft)
    assert store.chat(chat).title == whole(title) or not title
    assert store.path(chat)[0].details["text"] == whole(text)
    assert store.history() == [whole(text)]
    store.search(text)
    store.close()


def test_a_long_chat_and_a_deep_tree(store):
    chat = store.create_chat()
    parent = None
    for number in range(1_500):
        parent = store.add_message(chat, parent, ("user", "assistant")[number % 2], f"message {number}")
    path = store.path(chat)
    assert [m.content for m in path] == [f"message {number}" for number in range(1_500)]
    store.select(path[0].id)
    assert store.path(chat) == path


def test_several_threads(store):
    chat = store.create_chat()
    problems: list[Exception] = []

    def work(name: int) -> None:
        try:
            for number in range(30):
                message = store.add_message(chat, None, "user", f"{name} {number}")
                store.update_message(message, content=f"{name} {number}!")
                store.search("1")
                store.chats()
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert store.chat(chat).messages == 120
    assert all(m.content.endswith("!") for m in store.tree(chat))


class Tree(RuleBasedStateMachine):
    """The store beside a tree in memory that does the same in the simplest way."""

    messages = Bundle("messages")

    def __init__(self):
        super().__init__()
        self.store = Store.open(None)
        self.chat = self.store.create_chat("tree")
        self.parents: dict[int, int | None] = {}
        self.head: int | None = None

    @rule(target=messages)
    def begin(self):
        return self.added(None)

    @rule(target=messages, parent=messages)
    def follow(self, parent):
        return self.added(parent if parent in self.parents else None)

    @rule(message=messages)
    def select(self, message):
        if message in self.parents:
            self.store.select(message)
            self.head = max(m for m in self.parents if message in self.line(m))

    @rule(message=messages)
    def set_head(self, message):
        if message in self.parents:
            self.store.set_head(self.chat, message)
            self.head = message

    @rule(message=consumes(messages))
    def take_back(self, message):
        if message in self.parents and message not in self.parents.values():
            self.store.take_back(message)
            parent = self.parents.pop(message)
            if self.head == message:
                self.head = max(self.parents, default=None) if parent is None else parent

    @invariant()
    def the_same(self):
        path = [m.id for m in self.store.path(self.chat)]
        assert path == self.line(self.head)[::-1]
        tree = self.store.tree(self.chat)
        assert {m.id: m.parent_id for m in tree} == self.parents
        assert self.store.chat(self.chat).messages == len(self.parents)
        for message in tree:
            siblings = [number for number, parent in self.parents.items() if parent == message.parent_id]
            assert (message.position, message.siblings) == (siblings.index(message.id) + 1, len(siblings))

    def added(self, parent):
        self.head = self.store.add_message(self.chat, parent, "user", "text")
        self.parents[self.head] = parent
        return self.head

    def line(self, message):
        line = []
        while message is not None:
            line.append(message)
            message = self.parents[message]
        return line

    def teardown(self):
        self.store.close()


TestTree = Tree.TestCase
TestTree.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
