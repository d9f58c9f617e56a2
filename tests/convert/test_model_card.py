"""The model card: what it says, what it leaves out, and that no name in it can draw anything of its own."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from convert.file_types import known_types
from convert.model_card import Card, CardFile, CardProof, advice, model_card

Q4 = CardFile(("koala-Q4_K_M.gguf",), "Q4_K_M", 4_920_000_000, 5_840_000_000, 0.0312, 0.934, 6.382, 11.93)
Q8 = CardFile(("koala-Q8_0.gguf",), "Q8_0", 8_540_000_000, 9_460_000_000, 0.0014, 0.985, 6.231, 7.12)
PROOF = CardProof(
    texts=49,
    positions=612,
    held_out_tokens=40960,
    held_out="conversations of koala_all",
    machine="2 cores",
    reports=("report.md", "report.json"),
)
FULL = Card(
    "koala",
    [Q8, Q4],
    source="koala/koala-8b",
    parameters=8_030_000_000,
    context=8192,
    base_models=["meta-llama/Llama-3.1-8B", "/home/me/base"],
    datasets=["Hello-SimpleAI/HC3", "my chats"],
    mixture="koala_all",
    mixture_digest="3f9c0a1d",
    languages=["en", "no", "not a code"],
    license="Apache-2.0",
    imatrix="200 conversations",
    proof=PROOF,
    modelfile="Modelfile",
    versions=["llama-cpp-python 0.3.36"],
)


def front_matter(text):
    block, body = re.match(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    return yaml.safe_load(block), body


def parsed(text):
    return MarkdownIt("commonmark").enable("table").parse(front_matter(text)[1])


def kinds(text):
    """What the Markdown consists of, without the text in it."""
    tokens = parsed(text)
    return [token.type for token in tokens], [
        [child.type for child in token.children if child.type != "text"] for token in tokens if token.children
    ]


def table(text):
    body = front_matter(text)[1]
    rows = [line for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if not row.startswith("| ---")]


def test_the_front_matter_is_what_the_hub_reads():
    facts, _ = front_matter(model_card(FULL))
    assert facts == {
        "license": "apache-2.0",
        "language": ["en", "no"],
        "base_model": "koala/koala-8b",
        "base_model_relation": "quantized",
        "datasets": ["Hello-SimpleAI/HC3"],
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "tags": ["gguf", "llama.cpp", "conversational", "imatrix"],
    }


def test_a_local_checkpoint_is_no_quantized_form_of_its_base():
    facts, body = front_matter(model_card(Card("x", [Q8], source="my run", base_models=["a/b"], license="My: own, #1")))
    assert (facts["base_model"], facts["base_model_relation"]) == (["a/b"], "finetune")
    assert (facts["license"], facts["license_name"]) == ("other", "My: own, #1")
    assert "converted from my run" in body


def test_the_table_has_the_figures_of_each_file():
    assert table(model_card(FULL)) == [
        ["file", "type", "size", "RAM at 4k", "mean KLD", "same first choice", "perplexity", "tokens/s"],
        ["`koala-Q8_0.gguf`", "Q8_0", "8.54 GB", "9.46 GB", "0.0014", "98.5%", "6.23", "7.1"],
        ["`koala-Q4_K_M.gguf`", "Q4_K_M", "4.92 GB", "5.84 GB", "0.031", "93.4%", "6.38", "11.9"],
    ]


def test_what_is_not_known_is_left_out():
    parts = CardFile(("x-BF16-00001-of-00002.gguf", "x-BF16-00002-of-00002.gguf"), "BF16", 2_200_000)
    text = model_card(Card("x", [parts], chat_template=False, no_modelfile="it has no template"))
    facts, body = front_matter(text)
    assert facts == {"library_name": "gguf", "pipeline_tag": "text-generation", "tags": ["gguf", "llama.cpp"]}
    assert table(text) == [["file", "type", "size"], ["`x-BF16-00001-of-00002.gguf` and 1 more", "BF16", "2.2 MB"]]
    assert "None" not in text
    for word in (
        "KLD",
        "perplexity",
        "imatrix",
        "importance",
        "ollama create",
        "koala-tui",
        "parameters",
        "context of",
    ):
        assert word not in body
    assert "have not been verified" in body
    assert "names no licence" in body
    assert "no Modelfile for Ollama: it has no template." in body
    assert "Download all 2 parts into one folder" in body


def test_the_commands_are_for_the_file_that_suits_most():
    code = [token.content for token in parsed(model_card(FULL)) if token.type == "fence"]
    assert code[0] == "koala-tui koala-Q4_K_M.gguf\n"
    assert code[1] == "llama-cli -m koala-Q4_K_M.gguf\nllama-server -m koala-Q4_K_M.gguf\n"
    assert code[2] == "ollama create koala -f Modelfile\nollama run koala\n"
    compile(code[3], "card", "exec")
    assert 'Llama("koala-Q4_K_M.gguf", n_ctx=4096)' in code[3]


def test_names_are_quoted_in_commands():
    file = CardFile(("-my 'own' $(touch x).gguf",), "Q8_0", 1)
    code = [token.content for token in parsed(model_card(Card("My Own!", [file], modelfile="Modelfile")))]
    assert "koala-tui './-my '\"'\"'own'\"'\"' $(touch x).gguf'\n" in code
    assert "ollama create my-own -f Modelfile\nollama run my-own\n" in code


def test_the_proof_says_what_was_compared():
    body = front_matter(model_card(FULL))[1]
    assert "from 49 texts" in body
    assert "at 612 positions" in body
    assert "on 40,960 tokens of conversations of koala_all." in body
    assert "`report.md`, `report.json`" in body


def hostile(text):
    """A card with `text` in every place that others can fill."""
    file = CardFile((f"{text}.gguf",), "Q8_0", 1, kld=0.1, tokens_per_second=1)
    proof = CardProof(1, 1, 1, held_out=text, machine=text, reports=(text,))
    return Card(
        text,
        [file],
        source=text,
        base_models=[text],
        datasets=[text, "owner/name"],
        mixture=text,
        mixture_digest=text,
        languages=[text],
        license=text,
        imatrix=text,
        proof=proof,
        modelfile=text,
        versions=[text],
    )


PLAIN = kinds(model_card(hostile("plain text")))
MARKS = (
    "|",
    "`",
    "```",
    "\n",
    "\n\n",
    "# ",
    "- ",
    "1. ",
    "<b>",
    "<!--",
    "](http://x)",
    "[",
    "![",
    "*",
    "__",
    "~~",
    ">",
)
OTHERS = (
    "&lt;",
    "---",
    "    ",
    "\\",
    "$",
    "\x1b[31m",
    "\u202e",
    "http://x.y",
    "a",
    "é",
    "\t",
    "{{",
    "'",
    '"',
    ":",
    "%",
)
pieces = st.sampled_from(MARKS + OTHERS)


@pytest.mark.parametrize(
    "text", ["a_b", "| x | y |", "<img src=x onerror=y>", "[a](http://b)", "a\n---\nb: c", "`a` ``b"]
)
def test_examples_of_names_that_would_be_something_else(text):
    assert kinds(model_card(hostile(text))) == PLAIN


@given(st.lists(pieces, min_size=1, max_size=8).map(lambda words: "x" + "".join(words) + "x"))
def test_no_name_draws_anything_of_its_own(text):
    card = model_card(hostile(text))
    assert kinds(card) == PLAIN
    facts, _ = front_matter(card)
    assert set(facts) <= {*front_matter(model_card(FULL))[0], "license_name"}
    assert all(character.isprintable() or character in "\n\t" for character in without_code(card))


def without_code(card):
    """The card without its commands, where a name must stay what it is."""
    return re.sub(r"^(`{3,})\w+\n.*?^\1$", "", card, flags=re.DOTALL | re.MULTILINE)


def test_every_type_has_advice():
    assert {name: advice(name) for name in known_types()}.keys() >= {"Q4_K_M", "F32", "IQ1_S", "TQ2_0", "MXFP4_MOE"}
    assert advice("BF16") == advice("F32") != advice("Q8_0") != advice("IQ4_XS")
    assert advice("IQ2_M") == advice("Q2_K") == advice("TQ2_0")
