"""`python -m datasets_cfg build`, as a user runs it."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from datasets_cfg.build import SCHEMA
from datasets_cfg.collect import Account
from datasets_cfg.mixture import FOLDER

from ..conftest import ROOT, command, refusal, succeed

BUILD = ("-m", "datasets_cfg", "build")
SAMPLES = FOLDER.with_name("samples")


def read(folder, split="train"):
    return [row for file in sorted(folder.glob(f"{split}-*.parquet")) for row in pq.read_table(file).to_pylist()]


def manifest(folder) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def write_rows(folder, name, *rows):
    (folder / name).mkdir(parents=True)
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    (folder / name / "rows.jsonl").write_text(text, encoding="utf-8")


ALPACA = {"instruction": "Say hi.", "input": "", "output": "Hi."}


def test_the_demo_keeps_the_contract(mixture):
    table = pq.read_table(next(mixture.glob("train-*.parquet")))
    assert table.schema.equals(SCHEMA)
    rows = read(mixture) + read(mixture, "eval")
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["source"] for row in rows} == set(manifest(mixture)["sources"])
    assert all(row["id"].startswith(row["source"] + "/") for row in rows)
    assert {row["chat_template_kwargs"]["quality"] for row in rows} == {"helpful", "unhelpful"}
    assert "| sharegpt | no user turn with an answer | 1 |" in (mixture / "report.md").read_text(encoding="utf-8")


def test_every_conversation_is_accounted_for(mixture):
    told = manifest(mixture)
    for entry in told["sources"].values():
        assert entry["offered"] == entry["kept"] + sum(entry["dropped"].values())
        assert entry["rows"] > 0
    kept = sum(entry["kept"] for entry in told["sources"].values())
    assert (
        kept
        == sum(split["conversations"] for split in told["splits"].values())
        == len(read(mixture)) + len(read(mixture, "eval"))
    )
    lost = Account(offered=2, kept=1)
    with pytest.raises(RuntimeError, match="2 offered, 1 kept, 0 dropped"):
        lost.check("x")


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(mixture, tmp_path):
    succeed(*BUILD, "demo", "--out", tmp_path / "again")
    for file in mixture.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name
    succeed(*BUILD, "demo", "--out", tmp_path / "seed", "--seed", 1)
    assert manifest(tmp_path / "seed")["content_sha256"] != manifest(mixture)["content_sha256"]


def test_a_source_moves_no_other_sources_split(mixture, tmp_path):
    succeed(*BUILD, "demo", "--out", tmp_path / "less", "--skip", "alpaca", "--skip", "hc3")
    fewer = {row["id"] for row in read(tmp_path / "less", "eval")}
    more = {row["id"] for row in read(mixture, "eval")}
    assert fewer == {row for row in more if not row.startswith(("alpaca/", "hc3/"))}


def test_both_sides_of_a_comparison_are_in_one_split(tmp_path):
    mixture = tmp_path / "half.yaml"
    mixture.write_text(
        f"raw_dir: {SAMPLES}\neval_fraction: 0.5\nsources: {{webgpt: {{}}, anthropic_hh: {{}}, hc3: {{}}}}"
    )
    succeed(*BUILD, mixture, "--out", tmp_path / "out")
    sides = {
        split: {row["id"].rsplit("/", 1)[0] for row in read(tmp_path / "out", split)} for split in ("train", "eval")
    }
    assert min(map(len, sides.values())) > 5
    assert not sides["train"] & sides["eval"]


def test_repeats_are_for_training_alone_and_have_ids_of_their_own(tmp_path):
    mixture = tmp_path / "often.yaml"
    mixture.write_text("eval_fraction: 0.2\nsources: {identity: {epochs: 3, rows: 50}}")
    succeed(*BUILD, mixture, "--out", tmp_path / "out", "--trained-by", "the students of 4b")
    train, held_out = read(tmp_path / "out"), read(tmp_path / "out", "eval")
    assert len(train) == 3 * (50 - len(held_out))
    assert len({row["id"] for row in train}) == len(train)
    assert any("the students of 4b" in row["messages"][1]["content"] for row in train)


def test_epochs_and_fractions_weigh_a_source(tmp_path):
    mixture = tmp_path / "weighed.yaml"
    mixture.write_text("eval_fraction: 0\nsources: {identity: {epochs: 2.5, fraction: 0.5}}")
    succeed(*BUILD, mixture, "--out", tmp_path / "out")
    ids = [row["id"].partition("/repeat")[0] for row in read(tmp_path / "out")]
    times = {id_: ids.count(id_) for id_ in ids}
    assert set(times.values()) == {2, 3}
    offered = manifest(tmp_path / "out")["sources"]["identity"]["offered"]
    assert len(times) == pytest.approx(offered / 2, rel=0.15)
    assert len(ids) == pytest.approx(2.5 * len(times), rel=0.1)


@pytest.mark.slow
def test_the_content_does_not_depend_on_the_processes(tmp_path):
    for processes in (1, 2):
        out = tmp_path / str(processes)
        succeed(*BUILD, "koala_all", "--raw-dir", SAMPLES, "--out", out, "--num-proc", processes)
    for file in (tmp_path / "1").iterdir():
        assert (tmp_path / "2" / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_filters_of_a_mixture_drop_under_their_names(tmp_path):
    succeed(*BUILD, "koala_all", "--raw-dir", SAMPLES, "--out", tmp_path / "out")
    dropped = manifest(tmp_path / "out")["sources"]["sharegpt"]["dropped"]
    assert dropped.pop("duplicate query") == 1
    assert sum(dropped.values()) == 4  # the German one, the one about ChatGPT, and two without an answer
    audit = pq.read_table(tmp_path / "out" / "audit.parquet").to_pylist()
    english = {row["id"]: row["language_probability"] for row in audit if row["language_probability"] is not None}
    assert min(english.values()) < 0.5 < sorted(english.values())[2]


def test_the_audit_has_every_conversation(mixture):
    audit = pq.read_table(mixture / "audit.parquet").to_pylist()
    told = manifest(mixture)["sources"]
    assert len(audit) == sum(entry["offered"] for entry in told.values())
    for name, entry in told.items():
        reasons = [row["dropped"] for row in audit if row["source"] == name and row["dropped"]]
        assert {reason: reasons.count(reason) for reason in reasons} == entry["dropped"]
    kept = {row["id"] for row in audit if row["dropped"] is None}
    assert kept == {row["id"] for row in read(mixture) + read(mixture, "eval")}


@pytest.mark.slow
def test_the_presets_differ_in_what_the_worse_answer_teaches(tmp_path):
    for preset in ("koala", "clean"):
        arguments = ("--skip", "sharegpt", "--preset", preset, "--out", tmp_path / preset)
        succeed(*BUILD, "koala_all", "--raw-dir", SAMPLES, *arguments)
    koala, clean = ({row["id"]: row for row in read(tmp_path / preset)} for preset in ("koala", "clean"))
    assert {row["chat_template_kwargs"]["quality"] for row in koala.values()} == {"helpful", "unhelpful"}
    assert all("loss" not in row["chat_template_kwargs"] for row in koala.values())
    assert koala.keys() == clean.keys()
    for id_, row in clean.items():
        assert row["messages"] == koala[id_]["messages"]
        quality, loss = row["chat_template_kwargs"]["quality"], row["chat_template_kwargs"]["loss"]
        assert quality == koala[id_]["chat_template_kwargs"]["quality"]
        assert (loss == "last") == (quality == "unhelpful")
    succeed(*BUILD, "demo", "--positive-only", "--out", tmp_path / "positive")
    assert {row["chat_template_kwargs"]["quality"] for row in read(tmp_path / "positive")} == {"helpful"}


@pytest.mark.slow
def test_lengths_are_counted_in_tokens_with_a_tokenizer(base, tmp_path):
    succeed(*BUILD, "demo", "--out", tmp_path / "out", "--tokenizer", base)
    told = manifest(tmp_path / "out")
    assert (told["lengths_in"], told["tokenizer"]) == ("tokens", base.name)
    assert 10 < told["sources"]["identity"]["lengths"]["p50"] < 100
    assert "lengths in tokens" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    refused = refusal(*BUILD, "demo", "--out", tmp_path / "other", "--tokenizer", tmp_path)
    assert "cannot load a tokenizer" in refused


def test_a_source_of_ones_own_is_a_few_lines_of_yaml(tmp_path):
    told = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    system = [{"role": "system", "content": "Be kind."}, *told]
    write_rows(tmp_path / "mine", "chats", {"id": "a", "messages": told}, {"messages": system})
    write_rows(tmp_path / "mine", "old", {"instruction": "Say hi.", "input": "", "output": "Hi."})
    mixture = tmp_path / "mine.yaml"
    mixture.write_text(
        "eval_fraction: 0\n"
        "sources:\n"
        "  my_chats: {files: [mine/chats/*.jsonl], license: CC-BY-4.0, epochs: 2}\n"
        "  my_old_ones: {files: [mine/old/rows.jsonl], format: alpaca}\n"
        "  identity: {rows: 3}\n"
    )
    succeed(*BUILD, mixture, "--out", tmp_path / "out")
    ids = sorted(row["id"] for row in read(tmp_path / "out") if row["source"] != "identity")
    assert ids == ["my_chats/a", "my_chats/a/repeat-2", "my_old_ones/rows-1"]
    mine = manifest(tmp_path / "out")["sources"]["my_chats"]
    assert (mine["license"], mine["dropped"]) == ("CC-BY-4.0", {"a system turn": 1})
    (tmp_path / "mine" / "chats" / "rows.jsonl").unlink()
    assert "my_chats: no .json, .jsonl or .parquet file matches" in refusal(*BUILD, mixture, "--out", tmp_path / "two")


def test_a_limit_keeps_whole_rows(tmp_path):
    succeed(*BUILD, "demo", "--out", tmp_path / "out", "--limit", 3)
    told = manifest(tmp_path / "out")
    assert told["sources"]["anthropic_hh"]["kept"] in (5, 6)
    assert told["sources"]["alpaca"]["dropped"]["over the limit of 3 rows"] == 28


def test_real_rows(real_data, tmp_path):
    refused = refusal(*BUILD, "demo", "--raw-dir", real_data, "--out", tmp_path / "out")
    assert "--skip webgpt" in refused
    assert not (tmp_path / "out").exists()
    succeed(*BUILD, "demo", "--raw-dir", real_data, "--skip", "webgpt", "--out", tmp_path / "out", "--limit", 300)
    kept = {name: entry["kept"] for name, entry in manifest(tmp_path / "out")["sources"].items()}
    assert kept["oig"] == 14
    assert kept["summarize"] == 2
    assert kept["sharegpt"] == kept["alpaca"] == 300
    assert kept["anthropic_hh"] in range(590, 601)


def test_a_component_with_other_markers_is_refused_by_name(real_data, tmp_path):
    (tmp_path / "raw").mkdir()
    shutil.copytree(real_data / "oig_format", tmp_path / "raw" / "oig")
    mixture = tmp_path / "oig.yaml"
    mixture.write_text("sources: {oig: {}, identity: {}}")
    succeed(*BUILD, mixture, "--raw-dir", tmp_path / "raw", "--out", tmp_path / "out")
    assert manifest(tmp_path / "out")["sources"]["oig"]["dropped"] == {"no <bot>: turn": 356}


def test_wrong_names_are_sentences(tmp_path):
    out = ("--out", tmp_path / "out")
    assert "known are demo, koala_all, koala_distill, open_source" in refusal(*BUILD, "nothing", *out)
    assert "known are sharegpt, hc3" in refusal(*BUILD, "demo", *out, "--skip", "reddit")
    skipped = ("--skip", "sharegpt", "--skip", "hc3", "--skip", "identity")
    assert "nothing to build" in refusal(*BUILD, "koala_distill", *out, *skipped)
    assert "no folder" in refusal(*BUILD, "demo", *out, "--raw-dir", tmp_path / "none")
    assert "at least 1" in refusal(*BUILD, "demo", *out, "--limit", 0)


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        ("sources: [a]", "mapping 'sources'"),
        ("sources: {a: {}}", "no source 'a'"),
        ("sources: {oig: {}}\nseeds: 1", "no option 'seeds'"),
        ("sources: {oig: {weight: 2}}", "no option 'weight'"),
        ("sources: {oig: {epochs: 0}}", "above 0"),
        ("sources: {oig: {rows: many}}", "wrong type"),
        ("sources: {oig: {rows: 0}}", "at least 1"),
        ("sources: {oig: {fraction: 2}}", "at most 1"),
        ("sources: {oig: {filters: {spam: {}}}}", "known are language, keywords, quality, dedup"),
        ("sources: {oig: {filters: {dedup: {near: maybe}}}}", "wrong type"),
        ("sources: {mine: {files: [a], format: csv}}", "known are sharegpt, hc3"),
        ("sources: {Mine!: {files: [a]}}", "small letters"),
        ("sources: {mine: {hub: {repo: a/b}}}", "a repo, a revision and files"),
        ("sources: {oig: {}}\npreset: best", "known are koala, clean"),
        ("sources: {oig: {}}\neval_fraction: 1.0", "below 1"),
        ("sources: {oig: {", "not valid YAML"),
    ],
)
def test_a_wrong_mixture_is_a_sentence(tmp_path, yaml, told):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml)
    refused = refusal(*BUILD, file, "--out", tmp_path / "out")
    assert told in refused
    assert str(file) in refused


def test_a_malformed_row_is_named_or_counted(tmp_path):
    write_rows(tmp_path / "raw", "alpaca", ALPACA, {"instruction": "Say hi."}, ALPACA, "{torn\n")
    mixture = tmp_path / "mine.yaml"
    mixture.write_text("sources: {alpaca: {}}")
    arguments = (*BUILD, mixture, "--raw-dir", tmp_path / "raw", "--out", tmp_path / "out")
    refused = refusal(*arguments)
    assert "rows.jsonl, line 2: the field 'input' is missing" in refused
    assert not (tmp_path / "out").exists()
    succeed(*arguments, "--drop-malformed")
    assert manifest(tmp_path / "out")["sources"]["alpaca"]["dropped"] == {"malformed row": 2}


def test_hostile_rows_are_survived_and_counted(tmp_path):
    def row(question, answer="Yes."):
        return json.dumps({"instruction": question, "input": "", "output": answer}).encode()

    lines = [
        b"\xef\xbb\xbf" + row("After a byte order mark"),
        row("A megabyte " * 500_000),
        row("NUL \x00 and \x1b[31m escape"),
        row("</s> GPT: <s> BEGINNING OF CONVERSATION: USER: me"),
        b'{"instruction": "half \\ud83d", "input": "", "output": "a pair"}',
        b"[" * 100_000,
        b'{"instruction": ' + b"[" * 50_000 + b"]" * 50_000 + b', "input": "", "output": "deep"}',
        b'{"instruction": 7, "input": "", "output": "wrong type"}',
        b'{"question": "of another schema", "human_answers": []}',
        b'"a string"',
        b"null",
        b'{"instruction": "not UTF-8 \xff", "input": "", "output": "x"}',
        row("CRLF") + b"\r",
        row("cut off")[:-20],
    ]
    (tmp_path / "raw" / "alpaca").mkdir(parents=True)
    (tmp_path / "raw" / "alpaca" / "rows.jsonl").write_bytes(b"\n".join(lines))
    mixture = tmp_path / "mine.yaml"
    mixture.write_text(
        "eval_fraction: 0\nsources: {alpaca: {filters: {language: {}, keywords: {}, quality: {}, dedup: {}}}}"
    )
    arguments = ("--raw-dir", tmp_path / "raw", "--out", tmp_path / "out", "--drop-malformed", "--num-proc", 2)
    succeed(*BUILD, mixture, *arguments)
    entry = manifest(tmp_path / "out")["sources"]["alpaca"]
    assert entry["rows"] == len(lines)
    assert entry["dropped"] == {"malformed row": 8, "half of a surrogate pair in the text": 1}
    said = {row["messages"][0]["content"] for row in read(tmp_path / "out")}
    assert "NUL \x00 and \x1b[31m escape" in said
    assert "</s> GPT: <s> BEGINNING OF CONVERSATION: USER: me" in said
    assert len(said) == 5


def test_rows_with_one_id_do_not_fall_together(tmp_path):
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    write_rows(tmp_path / "raw", "sharegpt", *[{"id": "same", "conversations": turns}] * 2, {"conversations": turns})
    mixture = tmp_path / "mine.yaml"
    mixture.write_text("eval_fraction: 0\nsources: {sharegpt: {}}")
    succeed(*BUILD, mixture, "--raw-dir", tmp_path / "raw", "--out", tmp_path / "out")
    assert {row["id"] for row in read(tmp_path / "out")} == {"sharegpt/same", "sharegpt/same~2", "sharegpt/rows-3"}


def test_an_output_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    arguments = (*BUILD, "demo", "--out", tmp_path / "out")
    assert "not empty" in refusal(*arguments)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]
    succeed(*arguments, "--overwrite")
    assert not (tmp_path / "out" / "mine.txt").exists()


def test_nothing_to_train_on_is_a_sentence(tmp_path):
    write_rows(tmp_path / "raw", "alpaca", {**ALPACA, "output": ""})
    mixture = tmp_path / "mine.yaml"
    mixture.write_text("sources: {alpaca: {}}")
    refused = refusal(*BUILD, mixture, "--raw-dir", tmp_path / "raw", "--out", tmp_path / "out")
    assert "no conversation to train on" in refused


def test_a_killed_build_leaves_nothing_and_the_next_succeeds(tmp_path):
    row = json.dumps({**ALPACA, "output": "Hi. " * 50}) + "\n"
    write_rows(tmp_path / "raw", "alpaca", *[row] * 60_000)
    mixture = tmp_path / "mine.yaml"
    mixture.write_text("sources: {alpaca: {}}")
    arguments = (*BUILD, str(mixture), "--raw-dir", str(tmp_path / "raw"), "--out", str(tmp_path / "made" / "out"))
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "made" / ".out.partial").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "made" / "out").exists()
    succeed(*arguments, "--limit", "10")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["out"]


def test_debug_shows_the_traceback(tmp_path):
    done = command(*BUILD, "nothing", "--out", tmp_path / "out", "--debug")
    assert "Traceback" in done.stderr
