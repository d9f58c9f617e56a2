"""Looking at a mixture: what is trained is visible, and nobody's text reaches the terminal as anything but text."""

import os
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets_cfg.base_tokenizer import load_tokenizer
from datasets_cfg.prompt import IGNORED, encode, render
from datasets_cfg.show import harmless, token_texts
from datasets_cfg.tokenization import load_manifest

from ..conftest import refusal, succeed
from .test_prompt import REAL_TOKENIZERS, messages
from .test_tokenization import mixture_of

SHOW = ("-m", "datasets_cfg", "show")
PLAIN = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
HOSTILE = (
    "[bold red]x[/] :smile: \x1b[31mred\x1b]52;c;eA==\x07 \x9b1m \x7f \u202eback\u2066 \x08\r\x00 </s> ]\nnext\tline"
)


@pytest.fixture
def hostile(tmp_path):
    """A mixture of three conversations, of which the second spells what terminals obey."""
    rows = [
        {"messages": messages(*texts), "chat_template_kwargs": {"quality": quality}}
        for texts, quality in (
            (("Hi", "Hello", "Bye", "See you"), "helpful"),
            ((HOSTILE, f"no {HOSTILE}"), "unhelpful"),
            (("a", "b"), "helpful"),
        )
    ]
    return mixture_of(tmp_path / "mixture", rows)


def shown(*arguments, **environment) -> str:
    return succeed(*SHOW, *arguments, env={**PLAIN, **environment}).stdout


def test_conversations_as_text(hostile):
    assert shown(hostile, "--limit", 1) == (
        "t/0  t  quality=helpful\nuser: Hi\nassistant: Hello\nuser: Bye\nassistant: See you\n"
    )
    assert shown(hostile, "--id", "t/2") == "t/2  t  quality=helpful\nuser: a\nassistant: b\n"
    assert re.findall(r"^t/\d", shown(hostile, "--source", "t"), re.MULTILINE) == ["t/0", "t/1", "t/2"]


@pytest.mark.slow
@pytest.mark.parametrize("colour", [{"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}])
@pytest.mark.parametrize("tokens", [False, True])
def test_text_is_not_obeyed(hostile, base, colour, tokens):
    text = shown(hostile, "--id", "t/1", *(("--tokenizer", base) if tokens else ()), **colour)
    if "FORCE_COLOR" in colour:
        text = re.sub("\x1b\\[[0-9;]*m", "", text)  # our own; those of the message have no ESC any more
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    for spelled in ("[bold red]x[/] :smile:", "␛[31mred␛]52;c;eA==␇", "⟨RLO⟩back⟨LRI⟩", "␈␍␀"):
        assert spelled in (text.replace("¦", "") if tokens else text)


@pytest.mark.slow
def test_tokens_with_marks(hostile, base):
    header, text, counts = shown(hostile, "--limit", 1, "--tokenizer", base).splitlines()
    assert header == "t/0  t  quality=helpful"
    assert text.replace("¦", "") == (
        "<s>BEGINNING OF CONVERSATION: USER: Hi GPT:⟦ Hello</s>⟧USER: Bye GPT:⟦ See you</s>⟧"
    )
    tokenizer = load_tokenizer(base)
    encoded = encode(tokenizer, messages("Hi", "Hello", "Bye", "See you"), quality="helpful")
    trained = len(encoded.labels) - encoded.labels.count(IGNORED)
    assert counts == f"{len(encoded.labels)} tokens, {trained} of them trained"
    assert len(re.split("[¦⟦⟧]+", text.rstrip("⟧"))) == len(encoded.labels)


@pytest.mark.slow
def test_tokens_in_colour(hostile, base):
    text = shown(hostile, "--limit", 1, "--tokenizer", base, FORCE_COLOR="1", TERM="xterm-256color")
    pieces = re.findall("\x1b\\[([0-9;]*)m([^\x1b]*)\x1b\\[0m", text.splitlines()[1])
    green = "".join(spelled for style, spelled in pieces if "32" in style.split(";"))
    assert green == " Hello</s> See you</s>"
    underlined = ["4" in style.split(";") for style, _ in pieces]
    assert underlined == [bool(number % 2) for number in range(len(pieces))]  # the borders of tokens


def check_texts(tokenizer, texts) -> None:
    encoded = encode(tokenizer, messages(*texts))
    found = token_texts(tokenizer, encoded.input_ids)
    assert sum(count for count, _ in found) == len(encoded.input_ids)
    whole = tokenizer.decode(encoded.input_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert "".join(text for _, text in found) == whole


contents = st.text("aZ 1.\n漢é🐨👩\u200d�", min_size=1).map(str.strip).filter(bool)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.tuples(contents, contents))
def test_the_texts_of_tokens_are_the_text(base_tokenizer, texts):
    check_texts(base_tokenizer, texts)


@pytest.fixture(scope="session")
def base_tokenizer(base):
    return load_tokenizer(base)


@pytest.mark.parametrize("name", REAL_TOKENIZERS)
def test_the_texts_of_real_tokens_are_the_text(real_data, name):
    tokenizer = load_tokenizer(real_data / "tokenizers" / "hf" / name)
    texts = ("日本語 🐨👩‍👩‍👧 é\n\n    if x:\n\treturn  1", "�漢字 </s> don't 🐨")
    check_texts(tokenizer, texts)
    spelled = [text for _, text in token_texts(tokenizer, encode(tokenizer, messages(*texts)).input_ids)]
    pieces = render(
        tokenizer.chat_template,
        messages(*texts),
        {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token},
        control_tokens={tokenizer.eos_token, tokenizer.bos_token or tokenizer.eos_token},
    )
    plain = "".join(piece.text for piece in pieces).replace("</s>B", "</s> B")
    assert "".join(spelled).replace("<s> B", "<s>B") == plain.replace("<s> B", "<s>B")


@given(st.text())
def test_harmless_text_stays_what_it_is(text):
    clean = harmless(text)
    assert harmless(clean) == clean
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", clean)
    if text.isprintable():
        assert clean == text


def test_bad_input_is_a_sentence(mixture, hostile, tmp_path):
    assert "no manifest.json" in refusal(*SHOW, tmp_path)
    assert "no source nope; it has t" in refusal(*SHOW, hostile, "--source", "nope")
    assert "no train or eval conversation with the id x" in refusal(*SHOW, hostile, "--id", "x")
    assert "no eval conversation" in refusal(*SHOW, hostile, "--split", "eval")
    assert "--limit must be at least 1" in refusal(*SHOW, hostile, "--limit", 0)
    assert "cannot load a tokenizer" in refusal(*SHOW, hostile, "--tokenizer", tmp_path)


def test_an_eval_conversation_is_found_by_its_id(mixture):
    held_out = re.match(r"\S+", shown(mixture, "--split", "eval", "--limit", 1)).group()
    assert shown(mixture, "--id", held_out).startswith(f"{held_out}  ")
    assert load_manifest(mixture)["splits"]["eval"]["conversations"]
    assert held_out in refusal(*SHOW, mixture, "--id", held_out, "--split", "train")
