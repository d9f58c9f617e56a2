"""The structure of a GGUF, held to what the gguf package reads, and damaged in every place."""

import struct
import time

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.gguf_layout import read_layout
from datasets_cfg.errors import BadInput


def write(path, *, alignment=None, words=8, types=("F32", "BF16", "Q8_0")):
    """A GGUF with every kind of metadata and a few tensors of odd sizes."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_name("Tiny, größer")
    writer.add_context_length(512)
    writer.add_layer_norm_rms_eps(0.25)
    writer.add_add_bos_token(False)
    writer.add_token_list([f"word {number}" for number in range(words)])
    writer.add_token_scores([float(-number) for number in range(words)])
    for number, name in enumerate(types):
        kind = gguf.GGMLQuantizationType[name]
        shape = (3, 32 * (number + 1))
        block, size = gguf.GGML_QUANT_SIZES[kind]
        content = np.arange(shape[0] * shape[1] // block * size, dtype=np.uint64).astype(np.uint8).reshape(3, -1)
        writer.add_tensor(f"blk.{number}.weight", content, raw_shape=content.shape, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("alignment", [None, 256])
def test_the_structure_is_the_one_that_the_gguf_package_reads(tmp_path, alignment):
    path = write(tmp_path / "a.gguf", alignment=alignment)
    layout, reader = read_layout(path), gguf.GGUFReader(path)
    assert layout.alignment == (alignment or 32)
    assert layout.data_start == reader.data_offset
    assert layout.pairs == len([key for key in reader.fields if not key.startswith("GGUF.")])
    assert layout.pairs_start == 24
    assert [(t.name, t.type, t.shape, layout.data_start + t.offset, t.size) for t in layout.tensors] == [
        (t.name, t.tensor_type, tuple(t.shape.tolist()), t.data_offset, t.n_bytes) for t in reader.tensors
    ]
    # The table of tensors begins where the pairs end: with the length of the first name.
    (length,) = struct.unpack_from("<Q", path.read_bytes(), layout.pairs_end)
    assert length == len("blk.0.weight")
    assert layout.scalars["llama.context_length"] == 512
    assert layout.scalars["llama.attention.layer_norm_rms_epsilon"] == 0.25
    assert layout.scalars["tokenizer.ggml.add_bos_token"] is False
    assert "general.name" not in layout.scalars


def test_a_large_vocabulary_costs_next_to_nothing(tmp_path):
    path = write(tmp_path / "large.gguf", words=150_000)
    begin = time.process_time()
    read_layout(path)
    assert time.process_time() - begin < 0.5  # 0.03 s on an idle machine


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("layout") / "intact.gguf")
    return path.read_bytes(), read_layout(path)


@given(st.data())
def test_a_file_cut_short_is_a_sentence(intact, tmp_path_factory, data):
    content, layout = intact
    last = layout.tensors[-1]
    # Padding behind the last tensor may be missing.
    length = data.draw(st.integers(0, layout.data_start + last.offset + last.size - 1))
    path = tmp_path_factory.getbasetemp() / "cut.gguf"
    path.write_bytes(content[:length])
    with pytest.raises(BadInput, match=r"is damaged: .*make or fetch it again|is not a GGUF file"):
        read_layout(path)


@given(st.data())
def test_a_damaged_header_is_a_sentence_or_at_least_inside_the_file(intact, tmp_path_factory, data):
    content, layout = intact
    at = data.draw(st.integers(0, layout.data_start - 1))
    damage = data.draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8)]))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes((content[:at] + damage + content[at + len(damage) :])[: len(content)])
    try:
        found = read_layout(path)
    except BadInput as error:
        assert "\n" not in str(error)  # one sentence
        return
    assert found.pairs_start <= found.pairs_end <= found.data_start
    for tensor in found.tensors:
        assert found.data_start + tensor.offset + tensor.size <= len(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a GGUF file"),
        (b"PK\x03\x04" + bytes(40), "is not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 2, 0, 0), "version 2 and only 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "claims 1152921504606846976 entries"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63) + bytes(40), "ends inside its header"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**40) + bytes(40), "claims 1099511627776 str"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 99) + bytes(40), "'k' has the unknown type 99"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 32, 99, 0), "the unknown type 99"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 31, 8, 0), "not a multiple of 32"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 32, 8, 0) + bytes(40), "bytes past its end"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_layout(path)
