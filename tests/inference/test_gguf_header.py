import struct
import time
from contextlib import suppress

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    assert time.perf_counter() - started < 2


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
