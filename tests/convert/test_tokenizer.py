"""Tokenizers, above all the real ones, which decide whether a model reads what it was trained on."""

import json
import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert.__main__ import main
from convert.checkpoint import open_checkpoint
from convert.corpus import TEXTS
from convert.tokenizer import add_tokenizer, load_tokenizer, tokenizer_fields
from datasets_cfg.errors import BadInput
from datasets_cfg.prompt import encode, koala_template
from datasets_cfg.sentencepiece_model import Piece, SentencePieceModel, bpe_tokenizer

from ..conftest import command

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}

# The expressions as publishers write them, which is not always as llama.cpp lists them.
SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SHORT_SPELT_OUT = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
END = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
END_WITH_SLASH = END.replace("]*", "/]*", 1)
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
LOWER, UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*")
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
POSSESSIVE = END.replace("]+[", "]++[").replace(r"\r\n]+|\s+(", "\r\n]+|\\s+(")
# llama.cpp's name → the expressions, whether single digits are cut off after them, and whether merges can be skipped.
BYTE_LEVEL = {
    "gpt-2": ([GPT2], False, False),
    "smollm": ([r"\p{N}", GPT2], False, False),
    "llama-bpe": ([rf"{SHORT}|{LETTERS}|\p{{N}}{{1,3}}|{END}"], False, True),
    "dbrx": ([rf"{SHORT_SPELT_OUT}|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}+|\p{{N}}{{1,3}}|{POSSESSIVE}"], False, False),
    "qwen2": ([rf"'(?i:[sdmt]|ll|ve|re)|{LETTERS}|\p{{N}}|{END}"], False, False),
    "tekken": ([rf"{CASED[0]}|{CASED[1]}|\p{{N}}|{END_WITH_SLASH}"], False, True),
    "gpt-4o": ([rf"{CASED[0]}{SHORT}?|{CASED[1]}{SHORT}?|\p{{N}}{{1,3}}|{END_WITH_SLASH}"], False, False),
    "deepseek-coder": (["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"], True, False),
}
# What the expressions, merges and white space treat in different ways.
CHARACTERS = "aabcXYZ'stLl 0123456789\n\t\r.,!?-_/<>\u2581éЖ你好😀"


def split(*patterns):
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    return [Split(Regex(pattern), "isolated") for pattern in patterns]


def train(pre_tokenizer, texts=TEXTS, vocab_size=800, **options):
    """A byte-level tokenizer as transformers wraps it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(texts) * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def byte_level(name):
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    patterns, digits, ignore_merges = BYTE_LEVEL[name]
    steps = [*split(*patterns), *([Digits(individual_digits=True)] if digits else [])]
    return train(Sequence([*steps, ByteLevel(add_prefix_space=False, use_regex=False)]), ignore_merges=ignore_merges)


def pieces(*, words, symbols=()):
    """Pieces as SentencePiece numbers them: control tokens, symbols, bytes, words by falling score, characters."""
    named = [Piece("<unk>", 0, 2), Piece("<s>", 0, 3), Piece("</s>", 0, 3), *(Piece(text, 0, 4) for text in symbols)]
    named += [Piece(f"<0x{byte:02X}>", 0, 6) for byte in range(256)]
    named += [Piece(word, -float(rank), 1) for rank, word in enumerate(words)]
    characters = sorted({character for word in words for character in word} - {*words, *symbols})
    return tuple(named + [Piece(character, -1000.0 - rank, 1) for rank, character in enumerate(characters)])


WORDS = [
    "\u2581t",
    "he",
    "\u2581the",
    "in",
    "\u2581a",
    "er",
    "on",
    "\u2581\u2581",
    "re",
    "\u2581\u2581\u2581\u2581",
    "ou",
    "ing",
]


def sentencepiece(*, prefix, joins_spaces=False, symbols=()):
    from transformers import PreTrainedTokenizerFast

    model = SentencePieceModel(
        processor=None,
        pieces=pieces(words=WORDS, symbols=symbols),
        rule="identity",
        charsmap=b"",
        prefix=prefix,
        joins_spaces=joins_spaces,
        usual_spaces=True,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe_tokenizer(model), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def gemma(runs_of="\u2581\n"):
    """Gemma's kind: no prefix, a cut at spaces that does nothing, runs of spaces and new lines as added tokens."""
    from transformers import AddedToken, GemmaTokenizer

    runs = [character * length for character in runs_of for length in range(2, 8)]
    merges = [(run[:cut], run[cut:]) for run in runs for cut in range(1, len(run))]
    words = [word for word in WORDS if word not in runs]
    merges += [(word[:cut], word[cut:]) for word in words for cut in range(1, len(word))]
    letters = sorted({*"".join(words), "\n"})
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    others = ["<unused0>", "<unused1>", "<table>", *runs]
    known = [*special, *others, *(f"<0x{byte:02X}>" for byte in range(256)), *words, *letters]
    known = list(dict.fromkeys(known))
    merges = [(left, right) for left, right in merges if left in known and right in known]
    tokenizer = GemmaTokenizer(vocab={token: number for number, token in enumerate(known)}, merges=merges)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in others])
    return tokenizer


@pytest.fixture
def in_llama_cpp(tmp_path):
    """A function from a tokenizer to a function from a text to llama.cpp's ids; more rows than tokens, as is common."""
    import gguf
    from llama_cpp import Llama

    def load(tokenizer, stop_ids=()):
        path = tmp_path / "vocabulary.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for name in ("context_length", "embedding_length", "block_count", "feed_forward_length", "head_count"):
            getattr(writer, f"add_{name}")(512)
        add_tokenizer(writer, tokenizer_fields(tokenizer, len(tokenizer) + 3, list(stop_ids), tmp_path))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        model = Llama(str(path), vocab_only=True, verbose=False)
        return lambda text: model.tokenize(text.encode(), add_bos=False, special=False)

    return load


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def around(token):
    return [f"a{token}b {token} c\n{token}", token, f"{token}{token}", f"the  {token}  ing"]


@pytest.fixture
def change_tokenizer(broken):
    def change(**parts):
        path = broken / "tokenizer.json"
        content = json.loads(path.read_text())
        content["model"].update(parts.pop("model", {}))
        path.write_text(json.dumps({**content, **parts}))
        checkpoint = open_checkpoint(broken)
        return tokenizer_fields(load_tokenizer(checkpoint), checkpoint.config["vocab_size"], [], broken)

    return change


def real_texts() -> list[str]:
    """Turns of real conversations, the indented and the multilingual ones included."""
    folder = Path(os.environ["KOALA_REAL_DATA"]) / "sharegpt"
    texts = []
    for name in ("v3_multiturn.jsonl", "zh_multiturn.jsonl"):
        rows = (folder / name).read_text(encoding="utf-8").splitlines()[:80]
        texts += [turn["value"] for row in rows for turn in json.loads(row)["conversations"][:4]]
    return [text for text in texts if text][:400]


@pytest.mark.parametrize(
    ("name", "model", "pre"),
    [
        ("llama", "llama", "default"),
        ("gpt2", "gpt2", "gpt-2"),
        pytest.param("llama3", "gpt2", "llama-bpe", marks=pytest.mark.slow),
        pytest.param("qwen2", "gpt2", "qwen2", marks=pytest.mark.slow),
    ],
)
def test_real_tokenizers_give_the_same_ids_in_llama_cpp(real_tokenizers, in_llama_cpp, tmp_path, name, model, pre):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_tokenizers / name)
    fields = tokenizer_fields(tokenizer, len(tokenizer), [], tmp_path)
    assert (fields.model, fields.pre) == (model, pre)
    of_llama_cpp = in_llama_cpp(tokenizer)
    for text in (*TEXTS, *real_texts()):
        assert of_llama_cpp(text) == ids(tokenizer, text), text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "llama3"])
def test_real_tokenizers_go_the_whole_way(real_tokenizers, make_checkpoint, tmp_path, name):
    folder = make_checkpoint(tmp_path / name, tokenizer=real_tokenizers / name, dtype="bfloat16", **SMALL)
    assert main([str(folder), "--out", str(tmp_path / "out"), "--quiet"]) == 0


def test_the_wrong_sentencepiece_tokenizer_is_refused(real_tokenizers, make_checkpoint, tmp_path, capsys):
    folder = make_checkpoint(tmp_path / "v5", tokenizer=real_tokenizers / "llama_v5", **SMALL)
    assert main([str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "Metaspace pre-tokenizer (prepend_scheme 'first')" in capsys.readouterr().err


def test_a_tokenizer_that_transformers_loads_otherwise_is_refused(real_tokenizers, make_checkpoint, tmp_path):
    folder = make_checkpoint(tmp_path / "x", tokenizer=real_tokenizers / "llama", **SMALL)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(BadInput, match=r"transformers ignores its normalizer.*TokenizersBackend"):
        load_tokenizer(open_checkpoint(folder))


@pytest.mark.slow
def test_a_wrong_label_is_found_out_with_both_tokenizations(
    real_tokenizers, make_checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        "convert.model.tokenizer_fields", lambda *arguments: replace(tokenizer_fields(*arguments), pre="gpt-2")
    )
    folder = make_checkpoint(tmp_path / "x", tokenizer=real_tokenizers / "llama3", dtype="bfloat16", **SMALL)
    assert main([str(folder), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert "llama.cpp tokenizes otherwise than transformers" in printed
    assert "  transformers: " in printed and "  llama.cpp:    " in printed
    assert not (tmp_path / "out").exists()


def test_merges_that_llama_cpp_applies_otherwise_are_found_out(checkpoint, tmp_path, monkeypatch, capsys):
    def backwards(*arguments):
        fields = tokenizer_fields(*arguments)
        return replace(fields, merges=fields.merges[::-1])

    monkeypatch.setattr("convert.model.tokenizer_fields", backwards)
    assert main([str(checkpoint), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert "differs at token" in printed and "  llama.cpp:    " in printed


def test_added_tokens_are_part_of_the_proof(broken, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(broken)
    tokenizer.add_tokens(["<tool>", "Koala!"])
    tokenizer.save_pretrained(broken)
    model = AutoModelForCausalLM.from_pretrained(broken)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(broken)
    assert main([str(broken), "--out", str(tmp_path / "out"), "--quiet"]) == 0


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(broken):
    checkpoint = open_checkpoint(broken)
    with pytest.raises(BadInput, match=r"has ids up to 373 .* but the embedding only 300 rows"):
        tokenizer_fields(load_tokenizer(checkpoint), 300, [], broken)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "this pre-tokenizer cannot be converted"),
        ({"normalizer": {"type": "Lowercase"}}, "does not know this normalizer"),
        (
            {"model": {"byte_fallback": True}},
            "byte_fallback without the token <0x00>",
        ),
    ],
)
def test_another_structure_is_refused(change_tokenizer, parts, message):
    with pytest.raises(BadInput, match=message):
        change_tokenizer(**parts)


def test_no_tokenizer_is_refused(broken):
    (broken / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"has no tokenizer\.json"):
        load_tokenizer(open_checkpoint(broken))


def test_the_corpus_is_in_nfc():
    assert all(unicodedata.is_normalized("NFC", text) for text in TEXTS)


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level_tokenizers_are_recognised_however_they_are_written(in_llama_cpp, tmp_path, name):
    tokenizer = byte_level(name)
    assert tokenizer_fields(tokenizer, len(tokenizer), [], tmp_path).pre == name
    of_llama_cpp = in_llama_cpp(tokenizer)
    texts = TEXTS
    if name in ("tekken", "gpt-4o"):
        # llama.cpp cuts off combining marks here, which the conversion of such a model will find out.
        texts = [text for text in TEXTS if not any(unicodedata.category(letter)[0] == "M" for letter in text)]
        assert len(texts) < len(TEXTS)
    for text in texts:
        assert of_llama_cpp(text) == ids(tokenizer, text), text

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.text(CHARACTERS, max_size=40))
    def any_text(text):
        assert of_llama_cpp(text) == ids(tokenizer, text)

    any_text()


@pytest.mark.parametrize("make", [lambda: sentencepiece(prefix=True), lambda: sentencepiece(prefix=False), gemma])
def test_sentencepiece_tokenizers_give_the_same_ids(in_llama_cpp, make):
    tokenizer = make()
    of_llama_cpp = in_llama_cpp(tokenizer)
    for text in ["the  ring   on\n\n\n\n\n\n\n\n    re <unused0> <table>x<end_of_turn>", "<unk> ü 你 \u2581the"]:
        assert of_llama_cpp(text) == ids(tokenizer, text), text

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.text("the ring ou\na<>ü", max_size=40))
    def any_text(text):
        assert of_llama_cpp(text) == ids(tokenizer, text)

    any_text()


def test_gemma_3_goes_the_whole_way(tmp_path):
    from tests.convert.test_architecture import make_model

    tokenizer = gemma(runs_of="\n")
    folder = tmp_path / "gemma"
    make_model("gemma_3", len(tokenizer) + 5).save_pretrained(folder)
    tokenizer.chat_template = koala_template()
    tokenizer.save_pretrained(folder)
    assert main([str(folder), "--out", str(tmp_path / "out"), "--quantize", "F32", "--quiet"]) == 0


def test_gemma_shows_its_runs_of_spaces_as_spaces(tmp_path):
    from gguf import TokenType

    tokenizer = gemma()
    fields = tokenizer_fields(tokenizer, len(tokenizer), [], tmp_path)
    # llama.cpp turns the sign into a space in ordinary tokens only.
    assert fields.types[fields.tokens.index("\u2581\u2581")] == TokenType.NORMAL
    assert fields.types[fields.tokens.index("\n\n")] == TokenType.USER_DEFINED
    assert fields.types[fields.tokens.index("<unused0>")] == TokenType.USER_DEFINED
    assert fields.types[fields.tokens.index("<start_of_turn>")] == TokenType.CONTROL


ADDED = [
    "<tool call>",
    "\n\n### ",
    " two  spaces ",
    "\u2581sign\u2581",
    "<|fim_prefix|>",
    "<|file_sep|>",
    "Ġx",
    "Koala!",
]


@pytest.mark.parametrize("token", ADDED)
@pytest.mark.parametrize(
    ("make", "normalized"),
    [
        (lambda: byte_level("qwen2"), True),
        (lambda: sentencepiece(prefix=True), False),
        (lambda: sentencepiece(prefix=False), True),
        (lambda: sentencepiece(prefix=False), False),
    ],
    ids=["byte_level", "prefix", "no_prefix_normalized", "no_prefix"],
)
def test_added_tokens_are_found_where_transformers_finds_them(in_llama_cpp, make, normalized, token):
    from transformers import AddedToken

    tokenizer = make()
    tokenizer.add_tokens([AddedToken(token, normalized=normalized)])
    of_llama_cpp = in_llama_cpp(tokenizer)
    for text in around(token):
        # A sign in a text, where a normalized token stands for spaces, is the one thing that llama.cpp cannot know.
        text = text.replace("\u2581", " ") if normalized and tokenizer.vocab.get("<0x00>") else text
        expected = ids(tokenizer, text)
        assert of_llama_cpp(text) == expected, text
    assert tokenizer.convert_tokens_to_ids(token) in expected


@pytest.mark.parametrize(
    ("token", "prefix", "message"),
    [
        ({"normalized": True}, True, "'<tool>' is found only after a space"),
        ({"single_word": True, "normalized": False}, False, "'<tool>' counts only as a whole word"),
    ],
)
def test_added_tokens_that_llama_cpp_would_find_elsewhere_are_refused(in_llama_cpp, token, prefix, message):
    from transformers import AddedToken

    tokenizer = sentencepiece(prefix=prefix)
    tokenizer.add_tokens([AddedToken("<tool>", **token)])
    with pytest.raises(BadInput, match=message):
        in_llama_cpp(tokenizer)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(st.sampled_from(" \u2581\nouing\t\u00bd\ufb01"), max_size=20))
def test_what_llama_cpp_leaves_out_is_done_before(joining, text):
    tokenizer, fields, llama_cpp = joining
    assert llama_cpp(fields.before_llama_cpp(text)) == ids(tokenizer, text)


@pytest.fixture
def joining(in_llama_cpp, tmp_path):
    """A tokenizer that joins runs of spaces and uses NFKC, as OpenLLaMA's first models, and llama.cpp's side of it."""
    from tokenizers import normalizers

    tokenizer = sentencepiece(prefix=True, joins_spaces=True)
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), backend.normalizer])
    return tokenizer, tokenizer_fields(tokenizer, len(tokenizer), [], tmp_path), in_llama_cpp(tokenizer)


def test_a_model_that_joins_spaces_speaks_as_it_was_trained_in_koala_tui(make_checkpoint, tmp_path, capsys):
    tokenizer = sentencepiece(prefix=True, joins_spaces=True)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "chat_template.jinja").write_text(koala_template())
    folder = make_checkpoint(tmp_path / "open", tokenizer=tmp_path / "tokenizer", **SMALL)
    assert main([str(folder), "--out", str(tmp_path / "out"), "--quantize", "F32"]) == 0
    assert "note: The tokenizer would join runs of spaces" in capsys.readouterr().err
    tokenizer.chat_template = koala_template()
    messages = [{"role": "user", "content": "  using   the\n    outing  "}]
    expected = encode(tokenizer, messages, add_generation_prompt=True).input_ids
    code = (
        "import asyncio, json, sys\n"
        "from inference.local import LocalEngine\n"
        "async def ids():\n"
        "    engine = await LocalEngine.start(sys.argv[1])\n"
        "    print(json.dumps(await engine.prompt_ids(json.loads(sys.argv[2]))))\n"
        "    await engine.close()\n"
        "asyncio.run(ids())\n"
    )
    done = command("-c", code, tmp_path / "out" / "open-F32.gguf", json.dumps(messages))
    assert json.loads(done.stdout) == expected, done.stderr


def test_the_name_of_an_unused_row_is_no_token(tmp_path):
    tokenizer = byte_level("gpt-2")
    tokenizer.add_tokens([f"[PAD{len(tokenizer) + 2}]"])
    fields = tokenizer_fields(tokenizer, len(tokenizer) + 3, [], tmp_path)
    assert len(set(fields.tokens)) == len(tokenizer) + 3  # llama.cpp ends its process where two share a name


def test_stop_tokens_beyond_three_are_those_that_llama_cpp_knows(tmp_path):
    tokenizer = byte_level("gpt-2")
    tokenizer.add_tokens(["<|eot_id|>", "<|im_end|>", "<one>", "<two>", "<three>"], special_tokens=True)
    stops = tokenizer.convert_tokens_to_ids(["</s>", "<|eot_id|>", "<|im_end|>", "<one>", "<two>"])
    roles = tokenizer_fields(tokenizer, len(tokenizer), stops, tmp_path).special_ids
    assert {roles["eos"], roles["eot"], roles["eom"]} == {stops[0], stops[3], stops[4]}
    with pytest.raises(BadInput, match="holds three beside those"):
        tokenizer_fields(tokenizer, len(tokenizer), [*stops, stops[-1] + 1], tmp_path)


def test_a_model_that_never_ends_is_refused(tmp_path):
    tokenizer = byte_level("gpt-2")
    tokenizer.eos_token = None
    with pytest.raises(BadInput, match="no token ends an answer"):
        tokenizer_fields(tokenizer, len(tokenizer), [], tmp_path)
    assert tokenizer_fields(tokenizer, len(tokenizer), [1], tmp_path).special_ids["eos"] == 1


def test_qwen_loads_although_its_tokenizer_json_says_the_same_in_other_words(broken, edit_json):
    from tokenizers.pre_tokenizers import ByteLevel, Sequence

    edit_json(broken / "config.json", model_type="qwen2", architectures=["Qwen2ForCausalLM"])
    pattern = BYTE_LEVEL["qwen2"][0][0].replace("'(?i:[sdmt]|ll|ve|re)", SHORT)
    tokenizer = train(
        Sequence([*split(pattern), ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False)]),
        vocab_size=300,
    )
    tokenizer.save_pretrained(broken)
    edit_json(broken / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    checkpoint = open_checkpoint(broken)
    # transformers builds its own steps for this class: NFC before, and trimmed offsets.
    assert tokenizer_fields(load_tokenizer(checkpoint), 374, [], broken).pre == "qwen2"
