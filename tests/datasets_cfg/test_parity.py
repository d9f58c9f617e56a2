"""Prompts and targets against the published description of Koala's pipeline, written out here once more, naively.

The differences that remain are those that docs/data.md lists, and each is counted.
"""

import re
from random import Random

import pytest

from datasets_cfg.mixture import FOLDER, load_mixture
from datasets_cfg.prompt import koala_template, render
from datasets_cfg.rows import read_rows, row_format
from datasets_cfg.sources import source

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
HELPFUL, UNHELPFUL = "GPT:", "An Unhelpful Answer:"


def published(turns, marker) -> list[tuple[str, str]]:
    """(prompt, target) of each answer, as the description has them: the prompt ends with the marker."""
    pairs = []
    for i in range(0, len(turns), 2):
        opening = "BEGINNING OF CONVERSATION: " if i == 0 else ""
        pairs.append((f"{opening}USER: {turns[i]} {marker}", f" {turns[i + 1]}</s>"))
    return pairs


def ours(name, fields) -> list[list[tuple[str, str]]]:
    """(prompt, target) of each answer of each conversation that the preset `koala` makes of a row."""
    (choice,) = (choice for choice in load_mixture("koala_all").sources if choice.name == name)
    found = []
    for item in source(name).conversations(fields, choice.options, Random(0)):
        if not hasattr(item, "turns"):
            continue
        assert item.loss == "all"
        messages = [{"role": role, "content": content} for role, content in item.turns]
        pieces = render(koala_template(), messages, TOKENS, control_tokens=TOKENS.values(), quality=item.quality)
        whole, trained, position = "", [], 0
        for piece in pieces:
            trained += [(position + start, position + end) for start, end in piece.trained]
            whole += piece.text
            position += len(piece.text)
        assert whole.startswith("<s>")
        pairs, end = [], len("<s>")
        for (start, _), (_, stop) in zip(trained[::2], trained[1::2], strict=True):  # an answer, and its end token
            pairs.append((whole[end:start], whole[start:stop]))
            end = stop
        found.append(pairs)
    return found


def rows(folder, name):
    return [row.fields for file in sorted((folder / name).glob("*")) if row_format(file) for row in read_rows(file)]


@pytest.fixture(params=["samples", "real"])
def folder(request):
    """The samples that come with Koala, and the real rows."""
    return FOLDER.with_name("samples") if request.param == "samples" else request.getfixturevalue("real_data")


@pytest.mark.slow
def test_alpaca(folder):
    for fields in rows(folder, "alpaca"):
        question = fields["instruction"] + (f" {fields['input']}" if fields["input"] else "")
        expected = (
            [published([question.strip(), fields["output"].strip()], HELPFUL)] if fields["output"].strip() else []
        )
        assert ours("alpaca", fields) == expected


@pytest.mark.slow
def test_hc3(folder):
    for fields in rows(folder, "hc3"):
        answers = [*fields["human_answers"], *fields["chatgpt_answers"]]
        expected = [published([fields["question"].strip(), a.strip()], HELPFUL) for a in answers if a.strip()]
        assert ours("hc3", fields) == expected


def test_oig(folder):
    for fields in rows(folder, "oig"):
        parts = re.split(r"<human>:|<bot>:", fields["text"].replace("<|endoftext|>", ""))
        naive = [part.strip() for part in parts[1:]]
        found = ours("oig", fields)
        if found:
            assert found == [published(naive, HELPFUL)]
        else:
            assert "Rosey:" in fields["text"] or fields["text"].startswith("<bot>:")


@pytest.mark.slow
def test_hh(folder):
    differing = total = 0
    for fields in rows(folder, "anthropic_hh"):
        expected = []
        for side, marker in (("chosen", HELPFUL), ("rejected", UNHELPFUL)):
            parts = re.split(r"(Human|Assistant):", fields[side])
            speakers, turns = parts[1::2], [part.strip() for part in parts[2::2]]
            alternate = speakers == ["Human", "Assistant"] * (len(speakers) // 2)
            if alternate and all(turns) and fields["chosen"] != fields["rejected"]:
                expected.append(published(turns, marker))
        total += 1
        if ours("anthropic_hh", fields) != expected:
            differing += 1
            # "Human:" or "Assistant:" inside a text, where the naive split cuts a turn in two.
            inside = re.sub(r"(?:^|\n\n)(?:Human|Assistant):", "", fields["chosen"] + "\n" + fields["rejected"])
            assert "Human:" in inside or "Assistant:" in inside, fields
    assert differing <= max(1, total // 50)


def test_webgpt():
    module = source("webgpt")
    for fields in rows(FOLDER.with_name("samples"), "webgpt"):
        if fields["score_0"] == fields["score_1"]:
            assert ours("webgpt", fields) == []
            continue
        sides = (0, 1) if fields["score_0"] > fields["score_1"] else (1, 0)
        for pairs, side, marker in zip(ours("webgpt", fields), sides, (HELPFUL, UNHELPFUL), strict=True):
            quotes = fields[f"quotes_{side}"]
            listed = [
                f"[{n}] title: {title.strip()} content: {extract.strip()}"
                for n, (title, extract) in enumerate(zip(quotes["title"], quotes["extract"], strict=True), 1)
            ]
            question = fields["question"]["full_text"]
            introductions = (
                ["\n".join((question, text, *listed)) for text in module.INTRODUCTIONS] if listed else [question]
            )
            answer = fields[f"answer_{side}"].strip()
            assert pairs in [published([text.strip(), answer], marker) for text in introductions]


def test_summaries(folder):
    module = source("summarize")
    for fields in rows(folder, "summarize"):
        post = fields["info"].get("post") or fields["info"].get("article")
        for pairs, side, marker in zip(
            ours("summarize", fields), (fields["choice"], 1 - fields["choice"]), (HELPFUL, UNHELPFUL), strict=True
        ):
            summary = fields["summaries"][side]["text"].strip()
            expected = [published([f"{text}\n\n{post}".strip(), summary], marker) for text in module.INSTRUCTIONS]
            assert pairs in expected
