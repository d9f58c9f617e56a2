"""Tokenizing a mixture: the quick way gives what `encode` gives, and what is kept is found again."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from datasets_cfg.__main__ import main
from datasets_cfg.batch_encoder import BatchEncoder, Format
from datasets_cfg.build import SCHEMA
from datasets_cfg.errors import BadInput
from datasets_cfg.prompt import IGNORED, encode, koala_template
from datasets_cfg.tokenization import COUNTS, FOLDER, kept_tokens, load_manifest, split_files, tokenized

from ..conftest import ROOT, refusal, succeed
from .test_prompt import REAL_TOKENIZERS, messages, real_conversations

END = 1

contents = st.one_of(
    st.text(min_size=1),
    # Words, spaces and line ends in every order: what decides where a text may be cut.
    st.lists(
        st.sampled_from(
            [" ", " ", "  ", "\n", "\t", "a", "word", "it's", "1984", ".", "GPT:", "é", "漢字", "🐨", "▁", "\x00"]
        ),
        min_size=1,
        max_size=12,
    ).map("".join),
    st.sampled_from(
        ["</s>", "<s> a", "<|im_end|> b", "\x00content 0\x00", "\x00<\x00", "{{ x }}", "a \ufdd0 b", "\ufdd27 \ufdd1"]
    ),
).map(str.strip)
conversations = st.builds(
    lambda texts, variables: {"messages": messages(*texts), "chat_template_kwargs": variables},
    st.lists(contents.filter(bool), min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0),
    st.sampled_from([{"quality": "helpful"}, {"quality": "unhelpful"}, {"quality": "unhelpful", "loss": "last"}]),
)


def mixture_of(folder: Path, rows: list[dict]) -> Path:
    """A mixture with these training conversations (`messages`, `chat_template_kwargs`)."""
    folder.mkdir()
    table = pa.Table.from_pylist([{"id": f"t/{n}", "source": "t", **row} for n, row in enumerate(rows)], SCHEMA)
    pq.write_table(table, folder / "train-00000.parquet")
    digest = hashlib.sha256((folder / "train-00000.parquet").read_bytes()).hexdigest()
    manifest = {
        "mixture": "t",
        "content_sha256": digest,
        "sources": {"t": {}},
        "splits": {
            "train": {"files": {"train-00000.parquet": digest}, "conversations": len(rows)},
            "eval": {"files": {}, "conversations": 0},
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def with_template(path: Path, template: str | None = None):
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = template or koala_template()
    return tokenizer


@pytest.fixture(scope="session")
def demo_tokenizer(base):
    return with_template(base)


@pytest.fixture(scope="session", params=REAL_TOKENIZERS)
def real_tokenizer(request, real_data):
    return with_template(real_data / "tokenizers" / "hf" / request.param)


def check(tokenizer, rows: list[dict], encoder: BatchEncoder | None = None) -> BatchEncoder:
    """Hold the batch encoder against `encode`."""
    encoder = encoder or BatchEncoder(Format.of(tokenizer))
    ids, labels, ends = encoder.encode(rows)
    assert (ids.dtype, labels.dtype, len(ids), len(ends)) == ("int32", "int32", len(labels), len(rows))
    for row, (begin, end) in zip(rows, pairwise([0, *ends]), strict=True):
        expected = encode(tokenizer, row["messages"], **row["chat_template_kwargs"])
        assert ids[begin:end].tolist() == expected.input_ids
        assert labels[begin:end].tolist() == expected.labels
    return encoder


# --- The batch encoder ------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.lists(conversations, max_size=4))
def test_a_batch_is_what_encode_gives(demo_tokenizer, rows):
    assert check(demo_tokenizer, rows).cuts


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(st.lists(conversations, max_size=4), min_size=1, max_size=3))
def test_batches_are_what_encode_gives_with_real_tokenizers(real_tokenizer, batches):
    if not hasattr(real_tokenizer, "encoder"):  # loading llama3 takes half a second
        real_tokenizer.encoder = BatchEncoder(Format.of(real_tokenizer))
    for rows in batches:  # the words of one are remembered in the next
        check(real_tokenizer, rows, real_tokenizer.encoder)
    assert real_tokenizer.encoder.cuts


def proven(tokenizer, conversation: list[dict], ids: list[int], labels: list[int]) -> None:
    """What carries loss is, one after the other, each answer and an end token."""
    answers, run = [], []
    for token, label in zip(ids, labels, strict=True):
        if label == IGNORED:
            assert not run  # an answer's last token is its end token
            continue
        assert label == token
        run.append(token)
        if token == tokenizer.eos_token_id:
            text = tokenizer.decode(run[:-1], clean_up_tokenization_spaces=False)
            answers.append(text.removeprefix(" "))
            run = []
    assert not run
    assert answers == [message["content"] for message in conversation[1::2]]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*REAL_TOKENIZERS, "demo"])
def test_masks_of_a_thousand_real_conversations(name, base, real_data):
    tokenizer = with_template(base if name == "demo" else real_data / "tokenizers" / "hf" / name)
    rows = [
        {"messages": conversation, "chat_template_kwargs": {"quality": quality}}
        for conversation, quality in zip(
            real_conversations(real_data, 1000), ["helpful", "unhelpful"] * 500, strict=True
        )
    ]
    encoder = check(tokenizer, rows)
    ids, labels, ends = encoder.encode(rows)
    for row, (begin, end) in zip(rows, pairwise([0, *ends]), strict=True):
        proven(tokenizer, row["messages"], ids[begin:end].tolist(), labels[begin:end].tolist())


def test_tokenizers_whose_texts_must_not_be_cut(base, tmp_path):
    rows = [
        {"messages": messages("a b. it's  </s>\n c é", "1 x y\n\n z"), "chat_template_kwargs": {"quality": "helpful"}}
    ]

    def changed(change) -> BatchEncoder:
        shutil.copytree(base, tmp_path / "t", dirs_exist_ok=True)
        parts = json.loads((base / "tokenizer.json").read_text())
        change(parts)
        (tmp_path / "t" / "tokenizer.json").write_text(json.dumps(parts))
        return check(with_template(tmp_path / "t"), rows)

    assert changed(lambda parts: None).cuts
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    assert not changed(lambda parts: parts["added_tokens"].append({"id": 512, "content": "a b", **token})).cuts
    assert not changed(lambda parts: parts.update(normalizer={"type": "Lowercase"})).cuts
    splitter = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    assert not changed(lambda parts: parts.update(pre_tokenizer=splitter)).cuts
    cutting = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    assert changed(lambda parts: parts.update(truncation=cutting)).cuts  # and all tokens are there


@pytest.mark.parametrize(
    "template",
    [
        # An answer that begins its piece; one that follows a word without a space; one that ends inside a piece.
        "{% for m in messages %}{{ eos_token }}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{% for m in messages %}Q:{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{% for m in messages %}Q: {% generation %}{{ m.content }}{% endgeneration %} |{% endfor %}",
        "{% for m in messages %}Q{% generation %} {{ m.content }}{% endgeneration %} |{% endfor %}{{ eos_token }}",
        "{% generation %}{% for m in messages %}{{ m.content }}{{ eos_token }} {% endfor %}{% endgeneration %}",
    ],
)
def test_other_templates(base, template):
    rows = [{"messages": messages("a b c", " d\ne 漢", "1 2", "x"), "chat_template_kwargs": {"quality": "helpful"}}]
    check(with_template(base, template), rows)


def test_memory_is_bounded(demo_tokenizer, monkeypatch):
    from datasets_cfg import batch_encoder

    monkeypatch.setattr(batch_encoder, "_WORDS_REMEMBERED", 50)
    encoder = BatchEncoder(Format.of(demo_tokenizer))
    for number in range(20):
        words = " ".join(f"w{number}x{n}" for n in range(30))
        row = {"messages": messages(words, words[::-1]), "chat_template_kwargs": {"quality": "helpful"}}
        check(demo_tokenizer, [row], encoder)
        assert len(encoder._words._numbers) < 150


# --- Length -----------------------------------------------------------------------------------------------------------

turns = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5)


@given(turns, st.integers(1, 60))
def test_a_cut_conversation_is_its_longest_whole_beginning(turns, max_length):
    labels, ends = [], [0]
    for asked, answered in turns:
        labels += [IGNORED] * asked + [8] * answered + [END]
        ends.append(len(labels))
    assert kept_tokens(labels, END, max_length) == max(end for end in ends if end <= max_length)


def test_a_conversation_without_loss_where_it_would_be_cut_is_left_out():
    assert kept_tokens([IGNORED] * 8 + [8, END], END, 9) == 0


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(mixture, tmp_path) -> Path:
    """The demo mixture without ids."""
    return shutil.copytree(mixture, tmp_path / "mixture", ignore=shutil.ignore_patterns(FOLDER))


def read(folder: Path, split: str) -> list[dict]:
    return [row for file in sorted(folder.glob(f"{split}-*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.mark.slow
def test_the_ids_of_a_mixture(fresh, base, demo_tokenizer):
    done = succeed("-m", "datasets_cfg", "tokenize", fresh, "--tokenizer", base, "--max-length", 64)
    (folder,) = (path for path in (fresh / FOLDER).iterdir() if path.is_dir())
    assert f"wrote {folder}" in done.stdout
    record = json.loads((folder / "tokenized.json").read_text())
    schema = pq.read_schema(folder / "train-00000.parquet")
    assert [schema.field(name).type for name in schema.names] == [pa.list_(pa.int32())] * 2 + [pa.string()] * 2
    for split in ("train", "eval"):
        rows = iter(read(folder, split))
        expected: dict[str, dict[str, int]] = {}
        for conversation in read(fresh, split):
            encoded = encode(demo_tokenizer, conversation["messages"], **conversation["chat_template_kwargs"])
            kept = kept_tokens(encoded.labels, demo_tokenizer.eos_token_id, 64)
            counts = expected.setdefault(conversation["source"], dict.fromkeys(COUNTS, 0))
            counts["left_out"] += not kept
            if kept:
                labels = encoded.labels[:kept]
                counts["conversations"] += 1
                counts["tokens"] += kept
                counts["trained_tokens"] += len(labels) - labels.count(IGNORED)
                counts["cut"] += kept < len(encoded.labels)
                assert next(rows) == {
                    "input_ids": encoded.input_ids[:kept],
                    "labels": labels,
                    "source": conversation["source"],
                    "id": conversation["id"],
                }
        assert next(rows, None) is None
        assert record["splits"][split]["sources"] == expected
    train = record["splits"]["train"]
    assert train["cut"]
    assert train["left_out"]
    assert {name: train[name] for name in COUNTS} == {
        name: sum(counts[name] for counts in train["sources"].values()) for name in COUNTS
    }


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
def test_the_files_do_not_depend_on_the_number_of_processes(real_data, base, tmp_path):
    """On more rows than go into a batch."""
    rows = [
        {"messages": conversation, "chat_template_kwargs": {"quality": "helpful"}}
        for conversation in real_conversations(real_data, 1500) * 2
    ]
    folder = mixture_of(tmp_path / "mixture", rows)
    made = []
    for processes in (1, 2):
        made.append(tmp_path / str(processes))
        tokenize = ("-m", "datasets_cfg", "tokenize", folder, "--tokenizer", base, "--max-length", 512)
        succeed(*tokenize, "--num-proc", processes, "--out", made[-1], "--quiet")
    assert set(contents_of(made[0])) == {"train-00000.parquet", "tokenized.json"}
    assert contents_of(made[0]) == contents_of(made[1])
    assert not (folder / FOLDER).exists()


def test_ids_are_found_again_if_all_that_they_depend_on_is_the_same(fresh, base):
    def ids(max_length=256, template=None, **options):
        return tokenized(fresh, with_template(base, template), max_length, quiet=True, **options)

    first = ids()
    assert first.made
    assert not ids().made
    assert ids().record == first.record
    assert contents_of(first.folder) == contents_of(ids(overwrite=True).folder)
    folders = {first.folder}
    for other in ({"max_length": 255}, {"template": koala_template() + " "}):
        assert ids(**other).made
        folders.add(ids(**other).folder)
    manifest = load_manifest(fresh)
    (fresh / "manifest.json").write_text(json.dumps({**manifest, "content_sha256": "other"}))
    assert ids().made
    assert len(folders | {ids().folder}) == 4
    (ids().folder / "train-00000.parquet").unlink()
    with pytest.raises(BadInput, match="not empty"):
        ids()
    assert ids(overwrite=True).made


@pytest.mark.slow
def test_tokenizing_twice_does_the_work_once(fresh, base):
    tokenize = ("-m", "datasets_cfg", "tokenize", fresh, "--tokenizer", base, "--max-length", 256)
    arguments = [sys.executable, *map(str, tokenize)]
    both = [subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("already there" in text for text in said) == [False, True]


@pytest.mark.slow
def test_a_killed_run_leaves_no_ids_and_no_processes(fresh, base):
    tokenize = ("-m", "datasets_cfg", "tokenize", fresh, "--tokenizer", base, "--num-proc", 2, "--quiet")
    arguments = [sys.executable, *map(str, tokenize)]
    workers: list[psutil.Process] = []
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            workers = psutil.Process(process.pid).children(recursive=True)
            if len(workers) >= 2 and list((fresh / FOLDER).glob(".*.partial/train-*")):
                break
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in (fresh / FOLDER).iterdir() if not path.name.startswith(".")] == []
    assert psutil.wait_procs(workers, timeout=20)[1] == []
    succeed(*tokenize)
    assert len([path for path in (fresh / FOLDER).iterdir() if path.is_dir()]) == 1


@pytest.mark.slow
def test_bad_input_is_a_sentence(fresh, base, tmp_path, capsys):
    def told(mixture, *flags) -> str:
        assert main(["tokenize", str(mixture), "--tokenizer", str(base), *map(str, flags)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "no manifest.json" in refusal("-m", "datasets_cfg", "tokenize", tmp_path, "--tokenizer", base)
    assert "cannot load a tokenizer" in told(fresh, "--tokenizer", tmp_path)
    assert "max_length must be at least 1" in told(fresh, "--max-length", 0)
    assert "processes must be at least 1" in told(fresh, "--num-proc", 0)
    assert "fits into 8 tokens" in told(fresh, "--max-length", 8)
    assert "not empty" in told(fresh, "--out", fresh)
    with (fresh / "train-00000.parquet").open("ab") as file:
        file.write(b"x")
    changed = "train-00000.parquet is not the file that the manifest describes"
    assert changed in refusal("-m", "datasets_cfg", "tokenize", fresh, "--tokenizer", base, "--num-proc", 2)
    assert not [path for path in (fresh / FOLDER).iterdir() if path.is_dir()]
    shutil.rmtree(fresh / FOLDER)
    (fresh / FOLDER).write_text("")
    assert "cannot be kept" in told(fresh)


def test_a_folder_that_is_no_mixture_is_a_sentence(tmp_path, mixture):
    with pytest.raises(BadInput, match=r"no manifest\.json"):
        load_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BadInput, match="not valid JSON"):
        load_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(load_manifest(mixture)))
    with pytest.raises(BadInput, match="is missing, although"):
        split_files(tmp_path, "train")
