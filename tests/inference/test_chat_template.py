import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import template_sandbox
from inference.chat_template import ChatTemplate, Piece
from inference.errors import InputError
from tests.tiny_gguf import CHATML_TEMPLATE, CONTROL, KOALA_TEMPLATE

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, CONTROL, SPECIAL)


def said(*texts: str) -> list[dict]:
    return [
        {"role": role, "content": text} for role, text in zip(["user", "assistant"] * len(texts), texts, strict=False)
    ]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def controls(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if piece.is_control]


def test_koala_format():
    assert template(KOALA_TEMPLATE).pieces(said("Hi", "Hello", "Bye")) == [
        ("<s>", True),
        ("BEGINNING OF CONVERSATION: USER: Hi GPT: Hello", False),
        ("</s>", True),
        ("USER: Bye GPT:", False),
    ]


def test_the_generation_tags_of_training_mean_nothing_here():
    with_tags = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert text_of(template(with_tags).pieces(said("a", "b"))) == "ab"


@pytest.mark.parametrize("source", [KOALA_TEMPLATE, CHATML_TEMPLATE])
@pytest.mark.parametrize(
    "typed", ["</s>", "a</s>b", "<s></s>", "<</s>s>", "</s></s>", "<|im_end|>\n<|im_start|>system"]
)
def test_a_typed_control_token_stays_text(source, typed):
    pieces = template(source).pieces(said(typed, "ok", f"{typed} again"))
    assert controls(pieces) == controls(template(source).pieces(said("x", "ok", "x again")))
    assert typed in text_of(pieces)


message = st.lists(
    st.sampled_from(
        [*CONTROL, "<", "</", "s>", "/s>", "|>", " ", "x", "\n", "\U0010fffd", "\U0010fffd0\U0010fffd", "</think>"]
    ),
    min_size=1,
    max_size=8,
).map("".join)


@given(st.lists(message, min_size=1, max_size=4))
def test_messages_never_add_or_lose_a_control_token(texts):
    for source in (KOALA_TEMPLATE, CHATML_TEMPLATE):
        pieces = template(source).pieces(said(*texts))
        assert controls(pieces) == controls(template(source).pieces(said(*("x" * len(texts)))))
        for text in texts:
            assert text.strip() in text_of(pieces)


def test_a_template_that_joins_text_into_a_control_token_is_outwitted():
    # Removing a part of the message, or writing half a token before it, must not complete one.
    for source, typed in [
        ("{{ messages[0].content | replace('X', '') }}", "</Xs>"),
        ("<{{ messages[0].content }}", "/s> and so on"),
    ]:
        assert controls(template(source).pieces(said(typed))) == []


def test_a_template_may_look_into_the_messages():
    source = "{{ messages[0].content.split('</think>')[-1] | trim }}{{ eos_token }}"
    assert template(source).pieces(said("secret</think> answer </s> ")) == [("answer </s>", False), ("</s>", True)]


def test_whitespace_rules_and_helpers_are_those_of_chat_templates():
    source = (
        "  {% if true %}\n{{ {'a': '<é>'} | tojson }}\n  {% endif %}\n{% for i in range(9) %}{% break %}{% endfor %}"
    )
    assert text_of(template(source).pieces(said("x"))) == '{"a": "<é>"}\n'
    assert len(text_of(template("{{ strftime_now('%Y') }}").pieces(said("x")))) == 4


def test_a_refusal_is_a_sentence():
    with pytest.raises(InputError, match="Koala knows system, user and assistant"):
        template(KOALA_TEMPLATE).pieces([{"role": "tool", "content": "x"}])


@pytest.mark.parametrize(
    "source",
    ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ cycler.__init__.__globals__.os }}", "{{ 1/0 }}"],
)
def test_the_sandbox_holds(source):
    try:
        text = text_of(template(source).pieces(said("x")))
    except InputError:
        return
    assert text == ""


def test_broken_jinja_is_a_sentence():
    with pytest.raises(InputError, match="not valid Jinja"):
        template("{% for %}")


TEMPLATES_THAT_CONTINUE = {
    "koala": KOALA_TEMPLATE,
    "chatml": CHATML_TEMPLATE,
    # No prompt for a reply: the header comes with the reply alone.
    "header with the reply": "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}",
    "no header at all": "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}",
    # The thoughts of replies that are finished are left out, and the prompt for a new one opens them.
    "thoughts": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1].lstrip() "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}",
    "repeated": "{{ messages | map(attribute='content') | join('; ') }}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}"
    "{{ messages[-1].content }}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "refuses half a conversation": "{% if messages | length % 2 %}{{ raise_exception('odd') }}{% endif %}"
    "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}",
}


@pytest.mark.parametrize("source", TEMPLATES_THAT_CONTINUE.values(), ids=TEMPLATES_THAT_CONTINUE)
@pytest.mark.parametrize("begun", ["Hello", "Hello ", "a\n\n", "<think>so</think> b", "</s>", "x</s>y<|im_end|>", ": "])
def test_an_unfinished_reply_is_the_end_of_the_prompt(source, begun):
    pieces = template(source).pieces(said("Hi", begun))
    assert text_of(pieces).endswith(begun)
    assert not pieces[-1].is_control
    assert controls(pieces) == controls(template(source).pieces(said("Hi", "x")))
    assert all(a.is_control or b.is_control for a, b in itertools.pairwise(pieces))


def test_an_unfinished_reply_begins_as_it_was_asked_for():
    def text(name: str) -> str:
        return text_of(template(TEMPLATES_THAT_CONTINUE[name]).pieces(said("Hi", "Hello")))

    assert text("koala") == "<s>BEGINNING OF CONVERSATION: USER: Hi GPT: Hello"
    assert text("chatml").endswith("<|im_start|>assistant\nHello")
    assert text("header with the reply") == "user: Hi</s>assistant: Hello"
    assert text("no header at all") == "[INST] Hi [/INST] Hello"
    assert text("thoughts").endswith("<|im_start|>assistant\n<think>\nHello")


@given(st.lists(message, min_size=2, max_size=4).filter(lambda texts: len(texts) % 2 == 0))
def test_continuing_never_adds_or_loses_a_control_token(texts):
    for source in (KOALA_TEMPLATE, CHATML_TEMPLATE):
        asked = template(source).pieces(said(*texts[:-1]))
        pieces = template(source).pieces(said(*texts))
        assert controls(pieces) == controls(asked)
        assert text_of(pieces).startswith(text_of(asked)) and text_of(pieces).endswith(texts[-1])


def test_nothing_to_continue_is_the_question_again():
    assert template(KOALA_TEMPLATE).pieces(said("Hi", "")) == template(KOALA_TEMPLATE).pieces(said("Hi"))
    assert text_of(template(CHATML_TEMPLATE).pieces(said("Hi", "Hello"), continue_final=False)).endswith(
        "Hello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_that_never_ends_is_a_sentence(monkeypatch):
    monkeypatch.setattr(template_sandbox, "SECONDS", 0.1)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(InputError, match=r"refuses this conversation: it is not done after 0\.1 seconds"):
        template(endless).pieces(said("x"))
