import os
import struct
import time
from contextlib import suppress

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference import gguf_source
from inference.errors import InputError
from inference.gguf_header import FILE_TYPES, TENSOR_TYPES, check_chat_model, read_header
from tests.tiny_gguf import KOALA_TEMPLATE, write_tiny_gguf


def test_reads_what_a_list_of_models_shows(models):
    header = read_header(models["koala"])
    assert (header.architecture, header.name, header.quantization) == ("llama", "Tiny Koala", "F32")
    assert header.context_length == 2048
    assert header.chat_template == KOALA_TEMPLATE
    assert header.size_bytes == models["koala"].stat().st_size
    assert header.metadata["tokenizer.ggml.tokens.length"] > 256
    assert 500_000 < header.parameters < 1_000_000


def test_agrees_with_the_gguf_package_about_types():
    for number, (name, block, block_bytes) in TENSOR_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (block, block_bytes))
    for number, name in FILE_TYPES.items():
        assert gguf.LlamaFileType(number).name in (f"MOSTLY_{name}", f"ALL_{name}", f"MOSTLY_{name}_MOE")


def test_a_large_vocabulary_is_stepped_over(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama")
    writer.add_token_list([f"token{number}" for number in range(150_000)])
    writer.add_token_merges([f"left{number} right{number}" for number in range(150_000)])
    writer.add_context_length(4096)
    writer.add_tensor("token_embd.weight", np.zeros((64, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    started = time.perf_counter()
    assert read_header(tmp_path / "big.gguf").context_length == 4096
    assert time.perf_counter() - started < 1


def written(path, architecture="llama", **metadata):
    """Write a GGUF with one tensor and this metadata, `__` in a key standing for a dot."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        key = key.replace("__", ".")
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)
    writer.add_tensor("output.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_short_lists_of_numbers_are_kept(tmp_path):
    path = written(
        tmp_path / "x.gguf",
        llama__attention__head_count_kv=[8, 4, 0],
        scores=[0.5] * 1024,
        many=[1] * 1025,
        words=["a", "b"],
        after=7,
    )
    metadata = read_header(path).metadata
    assert metadata["llama.attention.head_count_kv"] == [8, 4, 0]
    assert metadata["scores"] == [0.5] * 1024 and "many" not in metadata and "words" not in metadata
    assert (metadata["many.length"], metadata["words.length"], metadata["after"]) == (1025, 2, 7)


def test_a_list_across_the_end_of_what_was_read_ahead(tmp_path, monkeypatch):
    path = written(tmp_path / "x.gguf", words=["abc", "", "de" * 50] * 99, deep=[1, 2, 3], name="x" * 300, last=5)
    whole = read_header(path)
    for ahead in range(1, 40):
        monkeypatch.setattr(gguf_source, "READ_AHEAD", ahead)
        assert read_header(path) == whole


def test_values_of_a_wrong_kind_are_survived(tmp_path):
    header = read_header(
        written(
            tmp_path / "x.gguf",
            general__file_type=[1, 2],
            general__name=[1],
            general__alignment="x",
            llama__context_length="many",
            llama__block_count="x",
            tokenizer__chat_template=[1],
        )
    )
    assert (header.quantization, header.context_length, header.chat_template) == ("F32", 0, None)
    assert (header.of_model("block_count"), header.of_model("block_count", 3), header.number("none")) == (0, 3, 0)
    check_chat_model(header)


@pytest.mark.parametrize(
    ("architecture", "metadata", "said"),
    [
        ("nomic-bert", {}, "embedding model .*give a chat model"),
        ("qwen3", {"qwen3__pooling_type": 3}, "embedding model"),
        ("clip", {}, "part of a model that sees or hears"),
        ("clip", {"general__type": "mmproj"}, "part of a model that sees or hears"),
        ("llama", {"general__type": "adapter"}, "is an adapter"),
        ("llama", {"general__type": "imatrix"}, "importance matrix"),
        ("llama", {"general__type": "something"}, "not a model but a part of one"),
    ],
)
def test_what_is_no_chat_model_is_a_sentence(tmp_path, architecture, metadata, said):
    with pytest.raises(InputError, match=said):
        check_chat_model(read_header(written(tmp_path / "x.gguf", architecture, **metadata)))
    check_chat_model(read_header(written(tmp_path / "qwen3.gguf", "qwen3", qwen3__pooling_type=0)))


@pytest.fixture
def parts(tmp_path):
    """A model in three files."""
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", split_max_tensors=1)
    writer.add_context_length(99)
    for number in range(3):
        writer.add_tensor(f"blk.{number}.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(tmp_path.glob("big-*-of-00003.gguf"))


def test_the_first_part_stands_for_the_whole(parts):
    header = read_header(parts[0])
    assert header.size_bytes == sum(path.stat().st_size for path in parts)
    assert (header.parameters, header.context_length) == (3 * 128, 99)


def test_parts_that_cannot_be_used_are_a_sentence(parts):
    with pytest.raises(InputError, match=r"part 2 of 3 of a model; give big-00001-of-00003\.gguf"):
        read_header(parts[1])
    parts[0].rename(parts[0].with_name("first.gguf"))
    with pytest.raises(InputError, match=r"part 1 of 3 .* by their names alone"):
        read_header(parts[0].with_name("first.gguf"))
    parts[0].with_name("first.gguf").rename(parts[0])
    content = parts[2].read_bytes()
    parts[2].write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"big-00003-of-00003\.gguf is incomplete"):
        read_header(parts[0])
    parts[1].unlink()
    with pytest.raises(InputError, match=r"big-00002-of-00003\.gguf should lie beside it"):
        read_header(parts[0])
    parts[2].unlink()
    with pytest.raises(InputError, match=r"big-00002-of-00003\.gguf and 1 more should lie beside it"):
        read_header(parts[0])


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(InputError, match="is not a file"):
        read_header(tmp_path / "pipe.gguf")
    with pytest.raises(InputError, match="cannot be read"):
        read_header("a\0b.gguf")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(InputError, match="is a folder"):
        read_header(tmp_path)


@pytest.mark.parametrize("content", [b"", b"GG", b"hello, I am a text file", b"PK\x03\x04" * 100])
def test_not_a_gguf(tmp_path, content):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(InputError, match="is not a GGUF file"):
        read_header(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("version", "said"), [(struct.pack("<I", 1), "version 1"), (struct.pack(">I", 3), "big-endian")]
)
def test_unsupported_version(tmp_path, version, said):
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + version + bytes(64))
    with pytest.raises(InputError, match=said):
        read_header(tmp_path / "x.gguf")


@pytest.mark.parametrize("share", [0.0005, 0.003, 0.5, 0.999])
def test_truncated_anywhere(tmp_path, models, share):
    content = models["koala"].read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: max(24, int(len(content) * share))])
    with pytest.raises(InputError, match="incomplete"):
        read_header(tmp_path / "cut.gguf")


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<QQ", 2**60, 1),
        struct.pack("<QQ", 0, 2**60),
        struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**62) + b"key",
        struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**61),
        struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 0, 2**61),
        struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99),
        struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 9, 1) * 200,
    ],
)
def test_hostile_lengths_are_not_believed(tmp_path, body):
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + struct.pack("<I", 3) + body + bytes(100))
    with pytest.raises(InputError, match="damaged"):
        read_header(tmp_path / "x.gguf")


@settings(max_examples=200, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(4, 9_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_corrupted_header_is_a_sentence_or_a_header(tmp_path, models, changes):
    content = bytearray(models["koala"].read_bytes()[:60_000])
    for position, value in changes:
        content[position] = value
    (tmp_path / "x.gguf").write_bytes(content)
    with suppress(InputError):
        check_chat_model(read_header(tmp_path / "x.gguf"))


def test_things_that_are_no_chat_model(tmp_path, models):
    check_chat_model(read_header(models["koala"]))
    check_chat_model(read_header(write_tiny_gguf(tmp_path / "base.gguf", template=None)))
    writer = gguf.GGUFWriter(tmp_path / "vocabulary.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="no weights"):
        check_chat_model(read_header(tmp_path / "vocabulary.gguf"))
