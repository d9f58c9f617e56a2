"""Test-set leakage: our BLEU is sacrebleu's, every pair is scored, and what leaked is left out."""

import json
import random
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_cfg import bleu as bleu_module
from datasets_cfg import leakage as leakage_module
from datasets_cfg.bleu import Hypotheses, best_matches, tokenize
from datasets_cfg.build import SCHEMA
from datasets_cfg.errors import BadInput
from datasets_cfg.leakage import leakage, read_queries

from ..conftest import refusal, succeed


def scored(queries, turns):
    """Our scores of all pairs, and those of the same pairs in sacrebleu's own arithmetic; both (queries, turns)."""
    hypotheses, references = Hypotheses(tokenize(queries)), tokenize(turns)
    matches, lengths = hypotheses.matches(references), [len(reference) for reference in references]
    exact = [
        [hypotheses.exact(i, matches[:, i, j], length) for j, length in enumerate(lengths)] for i in range(len(queries))
    ]
    return hypotheses.scores(matches, np.array(lengths)), exact


def theirs(query, turn):
    return sacrebleu.sentence_bleu(query, [turn]).score


def rows_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def make_mixture(folder, splits):
    """A mixture of `splits`, {"train": [[user text, …] of each file's conversations, …], "eval": …}."""
    folder.mkdir()
    manifest = {"mixture": "made", "content_sha256": "0" * 64, "sources": {}, "splits": {}}
    for split, files in splits.items():
        names = []
        for conversations in files:
            rows = [
                {
                    "id": f"s/{split}-{len(names)}-{number}",
                    "source": "s",
                    "messages": [
                        {"role": role, "content": text}
                        for user in turns
                        for role, text in (("user", user), ("assistant", "This is an answer, not a question."))
                    ],
                    "chat_template_kwargs": {"quality": "helpful"},
                }
                for number, turns in enumerate(conversations)
            ]
            names.append(f"{split}-{len(names):05}.parquet")
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / names[-1])
        count = sum(map(len, files))
        manifest["splits"][split] = {"conversations": count, "files": dict.fromkeys(names, "")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def real_queries(real_data):
    return [query.text for query in read_queries(real_data / "testsets" / "koala_test_set.jsonl")]


@pytest.fixture(scope="module")
def real_turns(real_data):
    """Every user turn of the real ShareGPT rows (English, Chinese, and long ones), and HC3's questions."""
    turns = []
    for name in ("v3_multiturn", "zh_multiturn", "v3_longprompt"):
        for row in rows_of(real_data / "sharegpt" / f"{name}.jsonl"):
            turns += [turn["value"] for turn in row["conversations"] if turn["from"] == "human"]
    first_turns = json.loads((real_data / "sharegpt" / "sg90k_first_turn.json").read_text(encoding="utf-8"))
    turns += [turn["value"] for row in first_turns for turn in row["conversations"] if turn["from"] == "human"]
    return turns + [row["question"] for row in rows_of(real_data / "hc3" / "medicine.jsonl")]


# Few words, so that n-grams match and repeat; and what the tokenizer and sacrebleu's stripping treat in a special way.
words = "a b the A 1 2.5 3,000 5-6 . , ! ' - <skipped> &quot; &amp;lt; & 中文 é e\u0301 🐨 </s>"
pieces = st.sampled_from([*words.split(), "-\n", "\n", " ", "\t", "\u00a0", "\u2028", "\ud800", "\x00", "\x1f"])
texts = st.lists(pieces, max_size=30).map(" ".join) | st.lists(pieces | st.characters(), max_size=30).map("".join)


@settings(max_examples=300, deadline=None)
@given(queries=st.lists(texts, min_size=1, max_size=3), turns=st.lists(texts, min_size=1, max_size=4))
def test_any_pair_has_the_bleu_of_sacrebleu(queries, turns):
    ours, exact = scored(queries, turns)
    for (i, query), (j, turn) in product(enumerate(queries), enumerate(turns)):
        assert exact[i][j] == theirs(query, turn)
        assert ours[i, j] == pytest.approx(exact[i][j], abs=1e-9)


@pytest.mark.parametrize(
    ("query", "turn"),
    [
        ("", ""),
        ("", "a"),
        ("a", ""),
        ("  \n", "a"),
        ("a", "a"),
        ("a", "b"),
        ("a b", "a b"),
        ("a b c", "c b a"),
        ("a b c d", "a x c d"),
        ("a a a a a", "a a"),
        ("a", "a b c d e f g h i j"),
        ("word-\nbreak", "wordbreak"),
        ("1,000.5 at 3-4 p.m.", "1,000.5 at 3-4 p.m. \n\n"),
        ("a b", "x " * 5000 + "a b"),
    ],
)
def test_edges(query, turn):
    ours, exact = scored([query], [turn])
    assert exact[0][0] == theirs(query, turn)
    assert ours[0, 0] == pytest.approx(exact[0][0], abs=1e-9)


def compare_random_pairs(queries, turns, number):
    draw = random.Random(number)
    hypotheses = Hypotheses(tokenize(queries))
    for _ in range(number // 1000):
        chosen = draw.choices(turns, k=100)
        references = tokenize(chosen)
        ours = hypotheses.scores(hypotheses.matches(references), np.array([len(tokens) for tokens in references]))
        for j, turn in enumerate(chosen):
            for i in draw.sample(range(len(queries)), 10):
                assert ours[i, j] == pytest.approx(theirs(queries[i], turn), abs=1e-6)


def test_real_pairs_have_the_bleu_of_sacrebleu(real_queries, real_turns):
    compare_random_pairs(real_queries, real_turns, 5_000)


@pytest.mark.slow
def test_100_000_real_pairs_have_the_bleu_of_sacrebleu(real_queries, real_turns):
    compare_random_pairs(real_queries, real_turns, 100_000)


def leaks_of(query):
    """What a leaked query looks like: verbatim, trimmed, re-cased, with one word changed."""
    words = query.split()
    middle = len(words) // 2
    return {
        "verbatim": query,
        "trimmed": f"\n {query.strip()[: max(1, 4 * len(query) // 5)]}",
        "re-cased": query.upper() if len(words) < 4 else query.lower(),
        "changed": " ".join([*words[:middle], "platypus", *words[middle + 1 :]]),
    }


def test_real_planted_leaks_are_found_with_sacrebleus_score(real_queries, real_turns, tmp_path):
    planted = random.Random(7).sample(real_queries, 24)
    leaks = [list(leaks_of(query).values())[number % 4] for number, query in enumerate(planted)]
    background = real_turns[:1500]
    conversations = [[turn] for turn in background if turn.strip()]
    for number, leak in enumerate(leaks):
        conversations[50 * number].append(leak)  # a later turn of a conversation
    mixture = make_mixture(tmp_path / "mixture", {"train": [conversations], "eval": []})
    queries = write_rows(tmp_path / "q.jsonl", [{"id": n, "prompt": text} for n, text in enumerate(real_queries)])
    leakage(queries, mixture, tmp_path / "out", num_proc=1, quiet=True)
    scores = rows_of(tmp_path / "out" / "scores.jsonl")
    for query, leak in zip(planted, leaks, strict=True):
        score = scores[real_queries.index(query)]
        assert score["bleu"] == theirs(query, score["train_text"])
        assert score["bleu"] >= theirs(query, leak)
    # And for a few queries against everything, without our index.
    turns = list({turn for turns in conversations for turn in turns})
    for number in (0, 90):
        best = max(theirs(real_queries[number], turn) for turn in turns)
        assert scores[number]["bleu"] == best


@pytest.mark.slow
def test_nothing_depends_on_the_blocks_the_groups_or_the_workers(monkeypatch, tmp_path):
    draw = random.Random(3)
    texts = [" ".join(draw.choices("abcdefg", k=draw.randrange(1, 12))) for _ in range(300)]
    files = [[texts[i : i + 2] for i in range(0, 120, 2)], [[text] for text in texts[120:240]]]
    mixture = make_mixture(tmp_path / "mixture", {"train": files, "eval": [[[text] for text in texts[240:]]]})
    rows = [{"id": f"q{n}", "prompt": " ".join(draw.choices("abcdx", k=6))} for n in range(40)]
    queries = write_rows(tmp_path / "q.jsonl", rows)

    def run(name, num_proc):
        leakage(queries, mixture, tmp_path / name, threshold=50, drop="train", num_proc=num_proc, quiet=True)
        files = sorted(path for path in (tmp_path / name).iterdir())
        return {path.name: path.read_bytes() for path in files}

    whole = run("whole", 1)
    monkeypatch.setattr(leakage_module, "_TURNS_PER_BLOCK", 7)
    monkeypatch.setattr(leakage_module, "_CHARACTERS_PER_BLOCK", 60)
    monkeypatch.setattr(leakage_module, "_CONVERSATIONS_PER_BATCH", 11)
    monkeypatch.setattr(bleu_module, "_HYPOTHESES_PER_GROUP", 9)
    assert run("blocks", 1) == whole
    assert run("workers", 2) == whole

    # Nor is any pair left out: the same by sacrebleu alone.
    for row, score in zip(rows, rows_of(tmp_path / "whole" / "scores.jsonl"), strict=True):
        bleus = [theirs(row["prompt"], text) for text in texts]
        assert score["bleu"] == pytest.approx(max(bleus), abs=1e-9)
        assert theirs(row["prompt"], score["train_text"]) == score["bleu"]
    every = [max(theirs(row["prompt"], text) for row in rows) for text in texts]
    conversations = [max(pair) for pair in zip(every[:120:2], every[1:120:2], strict=True)] + every[120:]
    found = {name: rows_of(tmp_path / "whole" / f"{name}.jsonl") for name in ("kept", "dropped")}
    assert len(found["dropped"]) == sum(bleu > 50 for bleu in conversations) > 0
    assert all(row["bleu"] <= 50 for row in found["kept"])
    assert sorted(row["bleu"] for rows in found.values() for row in rows) == pytest.approx(sorted(conversations))


def test_of_equal_matches_the_first_is_named(tmp_path):
    mixture = make_mixture(
        tmp_path / "mixture", {"train": [[["x y"], ["a b c"], ["c", "a b c"]]], "eval": [[["a b c"]]]}
    )
    queries = write_rows(tmp_path / "q.jsonl", [{"id": 1, "prompt": "a b c"}, {"id": 2, "prompt": "none of it"}])
    leakage(queries, mixture, tmp_path / "out", num_proc=1, quiet=True)
    first, nothing = rows_of(tmp_path / "out" / "scores.jsonl")
    assert (first["train_id"], first["train_text"]) == ("s/train-0-1", "a b c")
    assert nothing == {"id": 2, "bleu": 0.0, "train_id": None, "train_text": None}


def test_a_worker_that_is_killed_is_a_sentence(monkeypatch):
    blocks = ([("id", "text")] for _ in range(3))
    monkeypatch.setattr(bleu_module, "_begin", _die)
    with pytest.raises(BadInput, match="worker process was killed"):
        list(best_matches(["a"], blocks, num_proc=2))


def _die(*_):
    import os

    os._exit(9)


@pytest.fixture(scope="module")
def planted(mixture, tmp_path_factory):
    """Queries, half of which stand in the demo mixture in one form or another."""
    turns = sorted(
        {
            message["content"]
            for file in mixture.glob("*-*.parquet")
            for messages in pq.read_table(file)["messages"].to_pylist()
            for message in messages
            if message["role"] == "user" and len(message["content"].split()) > 7
        }
    )
    chosen = random.Random(1).sample(turns, 12)
    rows = [
        {"id": f"{kind}-{number}", "prompt": text, "note": "kept as given ✓"}
        for number, query in enumerate(chosen)
        for kind, text in leaks_of(query).items()
        if kind != "re-cased"
    ]
    rows += [{"id": f"new-{n}", "prompt": f"Zyx wvu tsr qpo {n} nml kji?"} for n in range(36)]
    return write_rows(tmp_path_factory.mktemp("planted") / "queries.jsonl", rows)


def test_leaked_queries_are_dropped(mixture, planted, tmp_path):
    out = tmp_path / "out"
    done = succeed(
        *("-m", "datasets_cfg", "leakage", "--queries", planted, "--mixture", mixture, "--out", out, "--num-proc", 2),
        *("--threshold", 20),
    )
    assert "36 of 72 queries" in done.stdout
    given, scores = rows_of(planted), rows_of(out / "scores.jsonl")
    kept, dropped = rows_of(out / "kept.jsonl"), rows_of(out / "dropped.jsonl")
    assert [row["id"] for row in scores] == [row["id"] for row in given]
    assert kept == [row for row in given if row["id"].startswith("new")]
    assert dropped == [row for row in given if not row["id"].startswith("new")]
    for row, score in zip(given, scores, strict=True):
        assert (score["bleu"] > 20) == (row in dropped)
        if score["bleu"]:
            assert theirs(row["prompt"], score["train_text"]) == score["bleu"]
    assert "not empty" in refusal(
        *("-m", "datasets_cfg", "leakage", "--queries", planted, "--mixture", mixture, "--out", out)
    )


def test_leaked_conversations_are_dropped_and_the_rest_can_be_trained_on(mixture, planted, tmp_path):
    from datasets_cfg.tokenization import load_manifest
    from train.mixture import load_split

    out = tmp_path / "out"
    done = succeed(
        *("-m", "datasets_cfg", "leakage", "--queries", planted, "--mixture", mixture, "--out", out),
        *("--drop", "train", "--num-proc", 1, "--quiet"),
    )
    assert not done.stdout
    before, after = load_manifest(mixture), load_manifest(out)
    dropped = {row["id"] for row in rows_of(out / "dropped.jsonl")}
    counts = after["leakage"]["counts"]
    assert len(dropped) == counts["dropped"] == sum(counts["dropped_by_source"].values()) > 0
    assert after["content_sha256"] != before["content_sha256"]
    prompts = [row["prompt"] for row in rows_of(planted)]
    for split in ("train", "eval"):
        old, new = load_split(mixture, split), load_split(out, split)
        assert new.column_names == old.column_names
        assert new.to_list() == [row for row in old.to_list() if row["id"] not in dropped]
        assert after["splits"][split]["conversations"] == len(new)
        for row in new:
            users = [message["content"] for message in row["messages"] if message["role"] == "user"]
            assert not set(users) & set(prompts)
    assert f"{len(dropped)} of" in (out / "report.md").read_text()

    # Without leaks the content is what it was.
    harmless = write_rows(tmp_path / "q.jsonl", [{"id": 1, "prompt": "Zyx wvu tsr"}])
    leakage(harmless, mixture, tmp_path / "same", drop="train", num_proc=1, quiet=True)
    assert load_manifest(tmp_path / "same")["content_sha256"] == before["content_sha256"]


def test_fields_are_found_by_their_paths(tmp_path):
    rows = [{"question_id": 7, "instruction": "Say it.", "instances": [{"input": "Now", "a.b": "x"}, {"input": ""}]}]
    file = write_rows(tmp_path / "q.jsonl", rows)
    query = read_queries(file, ["instruction", "instances.0.input", "instances.1.input"], "question_id")[0]
    assert (query.id, query.text, query.row) == (7, "Say it. Now", rows[0])


def test_real_test_sets_are_read(real_data):
    folder = real_data / "testsets"
    assert len(read_queries(folder / "koala_test_set.jsonl")) == 180
    queries = read_queries(folder / "user_oriented_instructions.jsonl", ["instruction", "instances.0.input"])
    assert len(queries) == 252
    assert queries[0].text.endswith("please let me know.")


def test_half_a_surrogate_pair_comes_back_as_given(tmp_path):
    mixture = make_mixture(tmp_path / "mixture", {"train": [[["a b"]]], "eval": []})
    rows = [{"id": "\ud83d", "prompt": "a \ud83d"}, {"id": "b", "prompt": "é"}]
    leakage(write_rows(tmp_path / "q.jsonl", rows), mixture, tmp_path / "out", num_proc=1, quiet=True)
    assert rows_of(tmp_path / "out" / "dropped.jsonl") + rows_of(tmp_path / "out" / "kept.jsonl") == rows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 2, "prompt": "b"', "line 3: not valid JSON"),
        ("[1]", "line 3: a row must be an object"),
        ('{"id": 2, "text": "b"}', "line 3: there is no 'prompt'; it has 'id', 'text'; see --field"),
        ('{"id": 2, "prompt": 5}', "line 3: 'prompt' must be a string"),
        ('{"prompt": "b"}', "line 3: there is no 'id'"),
        ('{"id": 1.5, "prompt": "b"}', "line 3: 'id' must be a string or a whole number"),
        ('{"id": true, "prompt": "b"}', "line 3: 'id' must be a string or a whole number"),
        ('{"id": 1, "prompt": "b"}', "line 3: the id 1 stands in"),
    ],
)
def test_a_bad_query_is_named_by_its_line(tmp_path, line, message):
    file = tmp_path / "q.jsonl"
    file.write_text('{"id": 1, "prompt": "a"}\n\n' + line + "\n")
    with pytest.raises(BadInput) as refused:
        read_queries(file)
    assert message in str(refused.value)
    assert str(file) in str(refused.value)


def test_what_cannot_be_used_is_a_sentence(tmp_path):
    mixture = make_mixture(tmp_path / "mixture", {"train": [[["a b c"]]], "eval": []})
    queries = write_rows(tmp_path / "q.jsonl", [{"id": 1, "prompt": "a b c"}])
    out = tmp_path / "out"
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "q.txt").write_text("")
    for changed, message in [
        ({"queries_file": tmp_path / "none.jsonl"}, "there is no file"),
        ({"queries_file": tmp_path / "q.txt"}, "must be JSON Lines"),
        ({"queries_file": tmp_path / "empty.jsonl"}, "holds no queries"),
        ({"mixture": tmp_path}, "is not a mixture"),
        ({"threshold": float("nan")}, "between 0 and 100"),
        ({"threshold": 101}, "between 0 and 100"),
        ({"num_proc": 0}, "at least 1"),
        ({"out": mixture}, "would replace it"),
        ({"out": tmp_path, "overwrite": True}, "would replace it"),
        ({"drop": "train"}, "nothing would be left"),
    ]:
        options = {"queries_file": queries, "mixture": mixture, "out": out, "num_proc": 1, "quiet": True, **changed}
        with pytest.raises(BadInput, match=message):
            leakage(**options)
        assert not out.exists()

    file = mixture / "train-00000.parquet"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadInput, match="not readable Parquet"):
        leakage(queries, mixture, out, num_proc=1, quiet=True)
    pq.write_table(pa.table({"id": ["1"], "source": ["s"], "text": ["a"]}), file)
    with pytest.raises(BadInput, match="no column 'messages'"):
        leakage(queries, mixture, out, num_proc=1, quiet=True)
    file.unlink()
    with pytest.raises(BadInput, match="is missing"):
        leakage(queries, mixture, out, num_proc=1, quiet=True)
    (mixture / "manifest.json").write_text('{"splits": ')
    assert "not valid JSON" in refusal(
        *("-m", "datasets_cfg", "leakage", "--queries", queries, "--mixture", mixture, "--out", out)
    )
