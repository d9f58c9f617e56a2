import dataclasses
import filecmp
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from convert.diff.bit_difference import bit_type, cast, pack, unpack
from convert.diff.command import main
from convert.diff.record import Shard, read_record, write_record
from convert.weights_digest import weights_digest

from ...conftest import ROOT

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def make(base, tuned, out, *flags):
    return main(["make", "--base", str(base), "--tuned", str(tuned), "--out", str(out), *flags])


def apply(base, diff, out, *flags):
    return main(["apply", "--base", str(base), "--diff", str(diff), "--out", str(out), *flags])


def refused(capsys, code: int) -> str:
    """The one line of an error that ended with exit code 2."""
    assert code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def model(folder: Path, *files: dict[str, torch.Tensor], config: str = "{}") -> Path:
    """A checkpoint of one weight file or several."""
    folder.mkdir()
    (folder / "config.json").write_text(config)
    if len(files) == 1:
        save_file(files[0], folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    index = {}
    for number, tensors in enumerate(files, 1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        save_file(tensors, folder / name)
        index |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def same_files(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    same, _, _ = filecmp.cmpfiles(one, other, names, shallow=False)
    return names == sorted(path.name for path in other.iterdir()) and sorted(same) == names


@st.composite
def weights(draw, dtypes=tuple(DTYPES)):
    """Tensors of any bit patterns: NaN with payloads, infinities, -0.0, subnormal numbers."""
    tensors = {}
    for name in draw(st.lists(st.sampled_from("abcd"), unique=True, min_size=1)):
        dtype = draw(st.sampled_from(dtypes))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        count = int(np.prod(shape))
        bits = draw(st.binary(min_size=count * bit_type(dtype).itemsize, max_size=count * bit_type(dtype).itemsize))
        words = torch.from_numpy(np.frombuffer(bits, bit_type(dtype)).copy())
        tensors[name] = words.view(DTYPES[dtype]).reshape(shape)
    return tensors


@settings(max_examples=60, deadline=None)
@given(data=st.data(), compress=st.booleans(), sharded=st.booleans())
def test_every_bit_comes_back(tmp_path_factory, data, compress, sharded):
    tuned = data.draw(weights())
    base = {}
    for name, tensor in tuned.items():
        # Same shape, fewer rows or no such tensor; the same dtype or another.
        rows = data.draw(st.integers(0, len(tensor))) if tensor.ndim else None
        kind = data.draw(st.sampled_from(("same", "rows", "missing")))
        if kind != "missing":
            words = data.draw(st.binary(min_size=4 * max(1, tensor.numel()), max_size=4 * max(1, tensor.numel())))
            dtype = data.draw(st.sampled_from(tuple(DTYPES)))
            bits = torch.from_numpy(np.frombuffer(words, bit_type(dtype))[: tensor.numel()].copy())
            values = bits.view(DTYPES[dtype]).reshape(tensor.shape)
            base[name] = values[:rows].contiguous() if kind == "rows" and tensor.ndim else values
    shared = torch.ones(2)
    tuned["shared"], base["shared"], base["dropped"] = shared, shared.bfloat16(), torch.ones(1)

    folder = tmp_path_factory.mktemp("bits")
    first, *rest = tuned
    files = [{first: tuned[first]}, {name: tuned[name] for name in rest}] if sharded else [tuned]
    source = model(folder / "base", base)
    target = model(folder / "tuned", *files)
    assert make(source, target, folder / "diff", "--quiet", *(["--compress"] if compress else [])) == 0
    assert apply(source, folder / "diff", folder / "out", "--quiet") == 0
    assert same_files(target, folder / "out")
    record = json.loads((folder / "diff" / "diff.json").read_text())
    assert "dropped" in record["only_in_base"] and str(folder) not in json.dumps(record)


@settings(max_examples=100, deadline=None)
@given(bits=st.binary(max_size=400), dtype=st.sampled_from(tuple(DTYPES)), noise=st.binary(max_size=60))
def test_packing_gives_back_what_it_was_given_and_refuses_anything_else(bits, dtype, noise):
    width = bit_type(dtype).itemsize
    diff = np.frombuffer(bits[: len(bits) // width * width], bit_type(dtype))
    assert np.array_equal(unpack(pack(diff), len(diff), dtype), diff)
    for damaged, count in ((pack(diff), len(diff) + 1), (pack(diff)[:-1], len(diff)), (noise, 10**6)):
        with pytest.raises(ValueError, match="decompress"):
            unpack(damaged, count, dtype)


def test_the_difference_is_the_plain_one_of_the_bit_patterns(tmp_path):
    base = model(tmp_path / "base", {"a": torch.tensor([1.0, -0.0, 3.0]).bfloat16()})
    tuned = model(tmp_path / "tuned", {"a": torch.tensor([1.0, 0.0, 3.015625]).bfloat16()})
    assert make(base, tuned, tmp_path / "diff", "--quiet") == 0
    difference = load_file(tmp_path / "diff" / "diff.safetensors")["a"].view(torch.uint16)
    assert difference.tolist() == [0, 0x8000, 1]


def test_a_cast_rounds_to_even_and_knows_one_nan():
    words = np.array([0x3F808000, 0x3F818000, 0x7F800001, 0xFFC12345, 0x7F7FFFFF], "<u4")
    assert cast(words, "F32", "BF16").tolist() == [0x3F80, 0x3F82, 0x7FC0, 0x7FC0, 0x7F80]


def test_a_grown_and_untied_model_comes_back_with_its_files(make_checkpoint, tmp_path, capsys):
    base = make_checkpoint(tmp_path / "base", dtype="float16", tie_word_embeddings=True)
    tuned = make_checkpoint(
        tmp_path / "tuned", dtype="bfloat16", vocab_size=432, max_shard_size="60KB", tie_word_embeddings=False
    )
    for name in ("koala.json", "README.md", "LICENSE", "training_args.bin", "modeling_koala.py", ".hidden.json"):
        (tuned / name).write_text("{}")
    save_file({"a": torch.ones(1)}, tuned / "optimizer.safetensors")
    (tuned / "run.md").symlink_to(tuned / "README.md")
    (tuned / "README.md").chmod(0o755)
    assert make(base, tuned, tmp_path / "diff") == 0
    said = capsys.readouterr().out
    assert "not in the base, so they are in the diff as they are: lm_head.weight" in said
    left_out = "modeling_koala.py, optimizer.safetensors, training_args.bin"
    assert f"left out, since they do not belong to a published model: {left_out}\n" in said
    assert apply(base, tmp_path / "diff", tmp_path / "out") == 0

    for name in ("training_args.bin", "modeling_koala.py", "optimizer.safetensors", ".hidden.json"):
        (tuned / name).unlink()
    assert same_files(tuned, tmp_path / "out")
    assert not (tmp_path / "out" / "README.md").stat().st_mode & 0o111
    assert not (tmp_path / "out" / "run.md").is_symlink()

    # Both print the result's checksum, which is that of the weights in whatever files.
    from convert.checkpoint import open_checkpoint
    from convert.weights_digest import checkpoint_digest

    digest = checkpoint_digest(open_checkpoint(tuned))
    assert f"result {digest}" in said and f"result {digest}" in capsys.readouterr().out


def test_names_from_the_files_command_no_terminal(pair, tmp_path, capsys):
    base, tuned, _ = pair
    (tuned / "\x1b[2J.bin").write_text("")
    assert make(base, tuned, tmp_path / "out") == 0
    assert "published model: \\x1b[2J.bin\n" in capsys.readouterr().out


def test_no_loader_takes_a_diff_for_a_model(checkpoint, tmp_path):
    from transformers import AutoModelForCausalLM

    assert make(checkpoint, checkpoint, tmp_path / "diff", "--quiet") == 0
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "diff")


def test_a_fine_tuned_difference_gets_smaller(tmp_path):
    torch.manual_seed(0)
    old = torch.randn(512, 512) * 0.02
    base = model(tmp_path / "base", {"a": old.bfloat16()})
    tuned = model(tmp_path / "tuned", {"a": (old + torch.randn(512, 512) * 2e-4).bfloat16()})
    assert make(base, tuned, tmp_path / "diff", "--quiet", "--compress") == 0
    size = (tmp_path / "diff" / "diff.safetensors").stat().st_size
    assert size < 0.4 * (tuned / "model.safetensors").stat().st_size


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path, Path]:
    """A base, its tuned model and their diff, in two files."""
    base = model(tmp_path / "base", {"a": torch.zeros(4, 3), "b": torch.ones(5), "old": torch.ones(1)})
    tuned = model(tmp_path / "tuned", {"a": torch.ones(4, 3)}, {"b": torch.zeros(5), "new": torch.ones(2)})
    assert make(base, tuned, tmp_path / "diff", "--quiet") == 0
    return base, tuned, tmp_path / "diff"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.full((4, 3), 0.1), "b": torch.ones(5)}, "its tensor a has other values; the base is base, whose"),
        ({"a": torch.zeros(4, 3), "b": torch.tensor([1.0, 1, 1, 1, 2])}, "its tensor b has other values"),
        ({"a": torch.zeros(4, 3)}, "its tensor b is missing"),
        ({"a": torch.zeros(4, 3), "b": torch.ones(6)}, r"its tensor b is F32 \(6,\) and not F32 \(5,\)"),
        ({"a": torch.zeros(4, 3).half(), "b": torch.ones(5)}, "its tensor a is F16"),
    ],
)
def test_another_base_is_refused_by_the_name_of_a_tensor(pair, tmp_path, capsys, tensors, message):
    _, _, diff = pair
    line = refused(capsys, apply(model(tmp_path / "other", tensors), diff, tmp_path / "out", "--quiet"))
    assert re.search(message, line), line
    assert json.loads((diff / "diff.json").read_text())["checksums"]["base"] in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "diff", "other", "tuned"]


def test_tensors_that_the_result_does_not_have_may_differ(pair, tmp_path):
    _, tuned, diff = pair
    other = model(tmp_path / "other", {"a": torch.zeros(4, 3), "b": torch.ones(5), "new": torch.full((9,), 7.0)})
    assert apply(other, diff, tmp_path / "out", "--quiet") == 0
    assert same_files(tuned, tmp_path / "out")


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda diff: flip(diff / "diff-00002-of-00002.safetensors", -1), "the tensor b is damaged|new is damaged"),
        (lambda diff: (diff / "diff-00001-of-00002.safetensors").write_bytes(b"123"), "cut short"),
        (lambda diff: os.truncate(diff / "diff-00001-of-00002.safetensors", 100), "cut short"),
        (lambda diff: (diff / "diff-00001-of-00002.safetensors").unlink(), "diff-00001.*missing"),
        (
            lambda diff: shutil.copy(
                diff / "diff-00002-of-00002.safetensors", diff / "diff-00001-of-00002.safetensors"
            ),
            "does not belong to the diff.json",
        ),
        (lambda diff: (diff / "config.json").write_text('{"a": 1}'), "config.json is missing or damaged"),
        (lambda diff: (diff / "model.safetensors.index.json").unlink(), "index.json is missing or damaged"),
        (lambda diff: (diff / "diff.json").unlink(), "it has no diff.json; name the folder"),
        (lambda diff: (diff / "diff.json").write_text("[[" * 10**5), "diff.json is damaged"),
    ],
)
def test_a_damaged_diff_is_a_sentence_and_leaves_nothing(pair, tmp_path, capsys, damage, message):
    base, _, diff = pair
    damage(diff)
    line = refused(capsys, apply(base, diff, tmp_path / "out", "--quiet"))
    assert re.search(message, line), line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "diff", "tuned"]


def test_a_compressed_diff_notices_damage_too(pair, tmp_path, capsys):
    base, tuned, _ = pair
    assert make(base, tuned, tmp_path / "packed", "--quiet", "--compress") == 0
    file = tmp_path / "packed" / "diff-00001-of-00002.safetensors"
    flip(file, -1)
    assert "the tensor a is damaged" in refused(capsys, apply(base, tmp_path / "packed", tmp_path / "out", "--quiet"))


@pytest.mark.parametrize(("rows", "pieces"), [(2**62, 1), (2**45, 1), (2**45, 0), (2**24, 64)])
def test_a_compressed_diff_takes_no_more_room_than_it_has_content_for(
    pair, tmp_path, capsys, monkeypatch, rows, pieces
):
    base, tuned, _ = pair
    diff = tmp_path / "packed"
    assert make(base, tuned, diff, "--quiet", "--compress") == 0
    record = read_record(diff)
    # A tensor that the base does not have, whose pieces are missing, or all there and empty.
    entry = {"dtype": "BF16", "shape": [rows], "data_offsets": [0, 2 * rows]}
    empty = {f"huge#{number}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for number in range(pieces)}
    header = json.dumps(empty).encode()
    (diff / "huge.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    digest = hashlib.sha256().hexdigest()
    forged = dataclasses.replace(
        record,
        shards=(*record.shards, Shard("huge.safetensors", "huge.safetensors", json.dumps({"huge": entry}))),
        diff={**record.diff, "huge": digest},
        result={**record.result, "huge": digest},
    )
    write_record(diff, forged)
    monkeypatch.setattr("convert.diff.make_apply.create_file", lambda *_: pytest.fail("a file was made"))
    line = refused(capsys, apply(base, diff, tmp_path / "out", "--quiet"))
    assert "huge.safetensors lacks a part of the tensor huge; get the diff again" in line


def paths(value, prefix=()):
    """The ways to all values in a JSON document."""
    yield prefix
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(item, (*prefix, key))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_diff_json_the_answer_is_the_model_or_a_sentence(tmp_path_factory, tampered, data):
    base, tuned, diff, content = tampered
    changed = json.loads(json.dumps(content))
    *way, last = data.draw(st.sampled_from([path for path in paths(content) if path]))
    holder = changed
    for key in way:
        holder = holder[key]
    value = data.draw(
        st.sampled_from(
            [None, 0, -1, 1e9, True, "", "../x", "/etc/passwd", "a.py", "\x1b[2J", "\ud800", [], {}, [[]], {"a": 1}]
        )
    )
    if data.draw(st.booleans()) and isinstance(holder, dict) and isinstance(value, str):
        holder[value] = holder.pop(last)
    else:
        holder[last] = value
    (diff / "diff.json").write_text(json.dumps(changed))
    out = tmp_path_factory.mktemp("tampered") / "out"
    code = apply(base, diff, out, "--quiet")
    assert (code == 0 and same_files(tuned, out)) or (code == 2 and list(out.parent.iterdir()) == [])


@pytest.fixture(scope="module")
def tampered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tamper")
    base = model(folder / "base", {"a": torch.zeros(2, 3)})
    tuned = model(folder / "tuned", {"a": torch.ones(2, 3), "b": torch.ones(2)})
    assert make(base, tuned, folder / "diff", "--quiet") == 0
    return base, tuned, folder / "diff", json.loads((folder / "diff" / "diff.json").read_text())


def test_a_forged_file_name_is_refused_even_with_a_checksum(pair, tmp_path, capsys):
    base, _, diff = pair
    record = json.loads((diff / "diff.json").read_text())
    (tmp_path / "escape.json").write_text("{}")
    record["files"]["../escape.json"] = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    (diff / "diff.json").write_text(json.dumps(record))
    assert "'../escape.json' is not a file that belongs to a model" in refused(
        capsys, apply(base, diff, tmp_path / "out", "--quiet")
    )


@pytest.mark.parametrize(
    ("base", "tuned", "message"),
    [
        ({"a": torch.ones(2)}, {"b": torch.ones(2)}, "no tensor in common"),
        ({"a": torch.ones(3, 2)}, {"a": torch.ones(2, 2)}, r"a is \(2, 2\) in .* and \(3, 2\) in"),
        ({"a": torch.ones(3, 2)}, {"a": torch.ones(3, 4)}, "may only have more rows"),
        ({"a": torch.ones(3)}, {"a": torch.ones(3, 1)}, "may only have more rows"),
    ],
)
def test_models_that_do_not_fit_are_refused(tmp_path, capsys, base, tuned, message):
    code = make(model(tmp_path / "base", base), model(tmp_path / "tuned", tuned), tmp_path / "diff")
    line = refused(capsys, code)
    assert re.search(message, line), line
    assert not (tmp_path / "diff").exists()


def test_adapters_and_outputs_among_the_inputs_are_refused(pair, tmp_path, capsys):
    base, tuned, diff = pair
    for out in (base, tmp_path):
        assert "choose another folder" in refused(capsys, make(base, tuned, out, "--overwrite"))
    assert (base / "model.safetensors").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "pass --overwrite" in refused(capsys, apply(base, diff, tmp_path / "full"))
    assert apply(base, diff, tmp_path / "full", "--overwrite", "--quiet") == 0
    assert same_files(tuned, tmp_path / "full")
    (tuned / "adapter_config.json").write_text("{}")
    assert "PEFT adapter, which is a small difference already" in refused(capsys, make(base, tuned, tmp_path / "d"))
    assert "is not there" in refused(capsys, make(tmp_path / "nowhere", base, tmp_path / "d"))


@pytest.mark.parametrize("when", ["make", "make packed", "apply"])
def test_a_file_that_the_system_does_not_take_is_a_sentence(pair, tmp_path, when):
    base, tuned, diff = pair
    resource = pytest.importorskip("resource")
    what = ["apply", "--diff", diff] if when == "apply" else ["make", "--tuned", tuned]
    how = ["--compress"] if when == "make packed" else []
    done = subprocess.run(
        [sys.executable, "-m", "convert", "diff", *what, *how, "--base", base, "--out", tmp_path / "out", "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {tmp_path / 'out'} cannot be used: File too large; choose another place")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "diff", "tuned"]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "calls"), [("convert.diff.make_apply.write_bits", 2), ("datasets_cfg.files.sync", 1)])
def test_a_killed_run_leaves_no_model_and_the_next_one_succeeds(pair, tmp_path, what, calls):
    base, tuned, diff = pair
    out = tmp_path / "out"
    arguments = ["apply", "--base", str(base), "--diff", str(diff), "--out", str(out), "--quiet"]
    module, _, name = what.rpartition(".")
    script = f"""
import os, signal, {module} as module
from convert.diff.command import main
real, calls = module.{name}, []
def killed(*arguments):
    calls.append(1)
    if len(calls) == {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
module.{name} = killed
main({arguments!r})
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists() and (tmp_path / ".out.partial").exists()
    assert main(arguments) == 0
    assert same_files(tuned, out)
    assert not (tmp_path / ".out.partial").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of the memory")
@pytest.mark.parametrize("flags", [[], ["--compress"]])
def test_memory_does_not_grow_with_the_tensors(tmp_path, flags):
    torch.manual_seed(0)
    bits = torch.randint(0, 2**15, (3, 2**24), dtype=torch.int16)  # 101 MB
    base = model(tmp_path / "base", {"a": bits.view(torch.bfloat16)})
    tuned = model(tmp_path / "tuned", {"a": (bits ^ 1).view(torch.bfloat16)})
    commands = (
        ["make", "--base", str(base), "--tuned", str(tuned), "--out", str(tmp_path / "diff"), "--quiet", *flags],
        ["apply", "--base", str(base), "--diff", str(tmp_path / "diff"), "--out", str(tmp_path / "out"), "--quiet"],
    )
    script = f"""
import convert.diff.make_apply, torch, numpy, safetensors.torch
from pathlib import Path
from convert.diff.command import main
def most():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
before = most()
for command in {commands!r}:
    assert main(command) == 0
print(most() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 70e6


def test_the_record_can_be_checked_by_hand(pair):
    _, _, diff = pair
    record = json.loads((diff / "diff.json").read_text())
    lines = (
        f"{name} {tensor['dtype']} [{','.join(map(str, tensor['shape']))}] {tensor['sha256']}"
        for name, tensor in record["base"].items()
    )
    assert weights_digest(lines) == record["checksums"]["base"]
    assert record["only_in_base"] == ["old"] and record["only_in_result"] == ["new"]
