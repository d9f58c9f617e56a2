import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import prompt as prompt_module
from inference.chat_template import ChatTemplate
from inference.prompt import PromptEncoder, Span
from tests.tiny_gguf import CHATML_TEMPLATE, KOALA_TEMPLATE

CONTROLS = {"<s>": 0, "</s>": 1, "<|im_start|>": 2, "<|im_end|>": 3}


class Letters:
    """A vocabulary with an id for each character, which counts how many it has tokenized."""

    add_bos, bos, control_ids = True, 0, CONTROLS

    def __init__(self):
        self.tokenized = 0

    def tokenize(self, text):
        self.tokenized += len(text)
        return [10 + ord(character) for character in text]


def encoder(template=KOALA_TEMPLATE):
    return PromptEncoder(ChatTemplate(template, CONTROLS, {"bos_token": "<s>", "eos_token": "</s>"}), Letters())


def chat(*contents, system=None):
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return ([{"role": "system", "content": system}] if system else []) + messages


def sampled(text):
    """Ids for the text that no tokenizer gives."""
    return [1000 + ord(character) for character in text]


@pytest.mark.parametrize("template", [KOALA_TEMPLATE, CHATML_TEMPLATE])
def test_the_next_turn_begins_with_the_ids_of_the_last_one(template):
    encode = encoder(template)
    messages, known = [], []
    for turn in range(5):
        messages += chat(f"question {turn}")
        prompt = encode.encode(messages)
        assert prompt.ids[: len(known)] == known
        assert len(prompt.replies) == turn
        ids = sampled(f" answer {turn}\n")
        encode.remember(prompt, f"answer {turn}\n", ids)
        known = prompt.ids + ids
        # An app may keep the reply with or without the space at its end.
        messages += [{"role": "assistant", "content": f"answer {turn}" + "\n" * (turn % 2)}]


def test_replies_of_several_branches_are_told_apart():
    encode = encoder()
    known = {}
    for question in ("a", "b"):
        for reply in ("x", "y"):
            prompt = encode.encode(chat(question))
            known[question, reply] = prompt.ids + sampled(question + reply)
            encode.remember(prompt, reply, sampled(question + reply))
    for (question, reply), ids in known.items():
        assert encode.encode(chat(question, reply, "more")).ids[: len(ids)] == ids
    # The same words later in a conversation are another reply.
    assert not encode.encode(chat("c", "z", "a", "x", "more")).replies


def test_a_reply_goes_on_with_the_ids_that_were_sampled():
    encode = encoder()
    prompt = encode.encode(chat("Hi"))
    encode.remember(prompt, "Hello wor", sampled(" Hello wor"))
    going_on = encode.encode(chat("Hi", "Hello wor"))
    assert going_on.ids == prompt.ids + sampled(" Hello wor")
    encode.remember(going_on, "ld.", sampled("ld."))
    whole = encode.encode(chat("Hi", "Hello world.", "And?"))
    assert whole.ids[: len(going_on.ids) + 3] == going_on.ids + sampled("ld.")
    assert encode.encode(chat("Hi", "Hello wor", "And?")).ids[: len(going_on.ids)] == going_on.ids


def test_a_reply_that_nobody_remembers_goes_on_as_training_wrote_it():
    encode = encoder()
    assert encode.encode(chat("Hi", "Hello")).ids == [
        0,
        *Letters().tokenize("BEGINNING OF CONVERSATION: USER: Hi GPT: Hello"),
    ]
    chatml = encoder(CHATML_TEMPLATE).encode(chat("Hi", "Hello"))
    assert chatml.ids[-len("assistant\nHello") :] == Letters().tokenize("assistant\nHello")


def test_a_reply_goes_on_only_from_exactly_what_the_model_wrote():
    encode = encoder()
    prompt = encode.encode(chat("Hi"))
    encode.remember(prompt, "Sure:\n\n", sampled(" Sure:\n\n"))
    # Without the lines at its end the text to come would not fit to what is on the screen.
    assert encode.encode(chat("Hi", "Sure:")).ids == [*prompt.ids, *Letters().tokenize(" Sure:")]
    assert encode.encode(chat("Hi", "Sure:\n\n")).ids == [*prompt.ids, *sampled(" Sure:\n\n")]


def test_what_is_folded_is_not_in_the_prompt_and_the_system_message_is():
    encode = encoder(CHATML_TEMPLATE)
    messages = chat("first", "one", "second", "two", "third", system="be kind")
    text = "".join(chr(token - 10) for token in encode.encode(messages, 2).ids if token >= 10)
    assert "first" not in text and "one" not in text
    assert "be kind" in text and "second" in text and "third" in text


def test_replies_survive_being_put_away():
    encode, later = encoder(), encoder()
    prompt = encode.encode(chat("Hi"))
    spans = encode.remember(prompt, "Hello ", sampled(" Hello "))
    ids = prompt.ids + sampled(" Hello ")
    later.restore(ids, [Span(*span) for span in spans])
    for content in ("Hello", "Hello "):
        assert later.encode(chat("Hi", content, "And?")).ids[: len(ids)] == ids
    assert later.encode(chat("Hi", "Hello ")).ids == ids


def test_old_replies_are_forgotten_one_by_one(monkeypatch):
    monkeypatch.setattr(prompt_module, "REMEMBERED_REPLIES", 6)  # each stands there as finished and as going on
    encode = encoder()
    for name in "abcde":
        encode.remember(encode.encode(chat(name)), "reply", sampled("reply"))
    remembered = [name for name in "abcde" if encode.encode(chat(name, "reply", "and?")).replies]
    assert remembered == ["c", "d", "e"]
    assert len(encode._replies) == 6 and list(encode._openings.values()) == [{39: 6}]


def test_a_turn_tokenizes_only_what_is_new():
    encode = encoder()
    messages = chat(*("some words" for _ in range(99)))
    encode.encode(messages)
    before = encode.vocabulary.tokenized
    encode.encode([*messages, *[{"role": "assistant", "content": "new"}, {"role": "user", "content": "new"}]])
    assert encode.vocabulary.tokenized - before < 60


words = st.text(alphabet="ab <>/s|\n", min_size=1, max_size=12)


@settings(max_examples=200)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=4), st.booleans())
def test_remembered_ids_never_change_the_text(turns, chatml):
    encode = encoder(CHATML_TEMPLATE if chatml else KOALA_TEMPLATE)
    fresh = encoder(CHATML_TEMPLATE if chatml else KOALA_TEMPLATE)
    messages = []
    for question, answer in turns:
        messages += chat(question)
        prompt = encode.encode(messages)
        ids = [1000 + ord(character) for character in " " + answer]
        encode.remember(prompt, answer, ids)
        messages.append({"role": "assistant", "content": answer})
    messages += chat("last")

    def text(ids):
        """Return what the ids stand for, without the space."""
        characters = (f"<{i}>" if i < 10 else chr(i - 1000 if i >= 1000 else i - 10) for i in ids)
        return "".join(characters).translate({32: None, 10: None})

    assert text(encode.encode(messages).ids) == text(fresh.encode(messages).ids)
