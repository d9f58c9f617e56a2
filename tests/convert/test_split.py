"""Split files: the same tensors, the same logits, no part too large, and nothing left of a split that failed."""

import subprocess
import sys

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.split import parse_size, split_gguf
from datasets_cfg.errors import BadInput

from ..tiny_gguf import write_tiny_gguf

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KB": 10**3, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

# llama.cpp in a process of its own: it ends the process where a file is not as it should be.
LOGITS = """
import sys
import llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=32, logits_all=True, n_threads=1, n_threads_batch=1, verbose=False)
model.eval(list(range(4, 24)))
model.scores[:20].tofile(sys.argv[2])
"""


@pytest.fixture
def whole(tmp_path):
    return write_tiny_gguf(tmp_path / "tiny Q8_0.gguf")


def logits(path):
    out = path.with_suffix(".logits")
    done = subprocess.run([sys.executable, "-c", LOGITS, path, out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.fromfile(out, dtype=np.float32)


def contents(path):
    reader = gguf.GGUFReader(path)
    tensors = [(tensor.name, tensor.tensor_type, bytes(tensor.data)) for tensor in reader.tensors]
    return {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}, tensors


def test_the_parts_hold_the_whole(whole):
    copied = []
    parts = split_gguf(whole, 1_000_000, copied.append)
    assert [part.name for part in parts] == [
        f"tiny Q8_0-0000{n + 1}-of-0000{len(parts)}.gguf" for n in range(len(parts))
    ]
    assert len(parts) > 2 and all(part.stat().st_size <= 1_000_000 for part in parts)
    metadata, tensors = contents(whole)
    found = [contents(part) for part in parts]
    assert [tensor for _, some in found for tensor in some] == tensors
    assert sum(copied) == sum(len(content) for *_, content in tensors)
    for number, (own, _) in enumerate(found):
        assert (
            own.items()
            >= {
                "split.no": number,
                "split.count": len(parts),
                "split.tensors.count": len(tensors),
            }.items()
        )
        assert len(own) == 3 + (len(metadata) if number == 0 else 0)
    assert found[0][0].items() >= metadata.items()
    types = {key: field.types[0].name for key, field in gguf.GGUFReader(parts[1]).fields.items() if "split" in key}
    assert types == {"split.no": "UINT16", "split.count": "UINT16", "split.tensors.count": "INT32"}


def test_llama_cpp_computes_the_same_from_the_parts(whole):
    expected = logits(whole)
    assert np.isfinite(expected).all() and expected.std() > 0.1
    parts = split_gguf(whole, 1_000_000, lambda amount: None)
    whole.unlink()
    np.testing.assert_array_equal(logits(parts[0]), expected)


def test_a_first_part_with_the_metadata_alone_is_loaded(tmp_path):
    # Metadata larger than any tensor, as a large vocabulary makes it.
    template = "{# " + "x" * 1_000_000 + " #}{{ messages[0].content }}"
    whole = write_tiny_gguf(tmp_path / "wordy.gguf", template=template)
    parts = split_gguf(whole, 1_100_000, lambda amount: None)
    assert contents(parts[0])[1] == []
    np.testing.assert_array_equal(logits(parts[0]), logits(whole))


def test_another_alignment_is_kept_where_it_is_written(tmp_path):
    path = tmp_path / "aligned.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(512)
    for number in range(6):
        writer.add_tensor(f"t{number}", np.arange(33 + number, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = split_gguf(path, 1600, lambda amount: None)
    assert len(parts) > 1
    assert [tensor for part in parts for tensor in contents(part)[1]] == contents(path)[1]


def test_a_small_file_is_left_as_it_is(whole):
    before = sorted(whole.parent.iterdir())
    assert split_gguf(whole, whole.stat().st_size, lambda amount: None) == [whole]
    assert sorted(whole.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("size", "message"),
    [(400_000, "the tensor [a-z0-9_.]+ needs a part of [0-9,]+ bytes"), (1000, "the metadata alone takes")],
)
def test_a_part_too_small_is_a_sentence(whole, size, message):
    with pytest.raises(BadInput, match=message + ".* choose a larger --split-max-size"):
        split_gguf(whole, size, lambda amount: None)
    assert list(whole.parent.iterdir()) == [whole]


def test_a_part_is_not_split_again(whole):
    parts = split_gguf(whole, 2_000_000, lambda amount: None)
    with pytest.raises(BadInput, match="is one part of a split file"):
        split_gguf(parts[0], 1_000_000, lambda amount: None)


def test_nothing_is_left_of_a_split_that_failed(whole):
    def full_disk(amount):
        if len(list(whole.parent.iterdir())) > 2:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        split_gguf(whole, 1_000_000, full_disk)
    assert list(whole.parent.iterdir()) == [whole]


@given(number=st.integers(1, 9999), unit=st.sampled_from(sorted(UNITS)), space=st.sampled_from(["", " "]))
def test_sizes_are_read_as_they_are_written(number, unit, space):
    for text in (f"{number}{space}{unit}", f" {number}{space}{unit.lower()} "):
        assert parse_size(text) == number * UNITS[unit]


@given(st.text(max_size=12))
def test_any_other_text_is_a_sentence(text):
    try:
        assert parse_size(text, option="--ram") >= 1
    except BadInput as error:
        assert str(error).startswith(f"--ram {text}: not a size")


@pytest.mark.parametrize(("text", "size"), [("1.5G", 1_500_000_000), ("2g", 2 * 10**9), ("700", 700), ("8 GiB", 2**33)])
def test_examples_of_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "0", "0G", "-1G", "1X", "1e9", "1,5G", "0.0000001K", "٣G", "2G 3G", "inf"])
def test_examples_of_what_is_no_size(text):
    with pytest.raises(BadInput, match=r"write it as 500M, 2G or 1\.5G"):
        parse_size(text)
