"""Importance matrices: what is computed, and the files of both formats."""

import struct

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert import ggml_tensor
from convert.__main__ import main
from convert.imatrix import compute_imatrix, text_sequences
from convert.imatrix_file import ImportanceMatrix, mean_squares, read_imatrix, write_imatrix
from datasets_cfg.errors import BadInput

pytestmark = pytest.mark.slow


PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory):
    """The small float32 checkpoint as a GGUF of the same type."""
    out = tmp_path_factory.mktemp("imatrix")
    assert main([str(checkpoint), "--out", str(out), "--quantize", "F32", "--no-verify", "--quiet"]) == 0
    alone = tmp_path_factory.mktemp("alone")
    return (out / "tiny-F32.gguf").rename(alone / "tiny.gguf")


def compute(model, sequences, **options):
    return compute_imatrix(model, sequences, threads=1, **{"advance": lambda amount: None, **options})


def test_the_sums_are_those_of_transformers(checkpoint, model):
    """Sequences of one token, several in a batch, and one longer than a batch: each as if it were alone."""
    import torch
    from transformers import AutoModelForCausalLM

    generator = np.random.default_rng(5)
    lengths = (40, 1, 7, 300, 200, 700, 12)
    sequences = [generator.integers(3, 350, length).tolist() for length in lengths]
    done = []
    matrix = compute(model, sequences, advance=done.append, datasets=["one", "two"])

    network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    expected = {}

    def watch(name):
        def hook(_, inputs):
            squares = inputs[0].double().square().sum(dim=(0, 1)).numpy()
            expected[name] = expected.get(name, 0) + squares

        return hook

    for layer in range(2):
        for target, source in PARTS.items():
            module = network.get_submodule(f"model.layers.{layer}.{source}")
            module.register_forward_pre_hook(watch(f"blk.{layer}.{target}.weight"))
    with torch.no_grad():
        for ids in sequences:
            network(torch.tensor([ids]))

    assert matrix.sums.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(matrix.sums[name][0], values, rtol=2e-5, err_msg=name)
        assert matrix.counts[name].tolist() == [sum(lengths)]
    assert done == [1] * len(lengths)
    assert (matrix.chunks, matrix.chunk_size, matrix.datasets) == (sum(lengths) // 512, 512, ("one", "two"))
    assert [path.name for path in model.parent.iterdir()] == [model.name]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "there are no tokens to compute the importance matrix on; give more text"),
        ([[]], "there are no tokens"),
        ([[5, 10**6]], "llama.cpp cannot compute its importance matrix: .*invalid token"),
    ],
)
def test_token_ids_that_cannot_be_evaluated_are_refused(model, sequences, message):
    with pytest.raises(BadInput, match=message):
        compute(model, sequences)
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_a_file_that_llama_cpp_cannot_load_is_refused(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(BadInput, match=r"broken\.gguf: llama\.cpp cannot compute its importance matrix: "):
        compute(tmp_path / "broken.gguf", [[1, 2]])


def test_another_layout_of_tensors_is_noticed(monkeypatch):
    import ctypes

    ggml_tensor.check_layout()
    # Without this one everything behind it is read from the wrong place.
    fields = tuple(field for field in ggml_tensor.Tensor._fields_ if field[0] != "view_offs")
    other = type("Other", (ctypes.Structure,), {"_fields_": fields})
    monkeypatch.setattr(ggml_tensor, "Tensor", other)
    with pytest.raises(RuntimeError, match=r"lays its tensors out otherwise than 0\.3\.36; install that version"):
        ggml_tensor.check_layout()


def test_a_text_is_cut_into_chunks_that_each_begin_with_bos():
    assert text_sequences([1, 10, 11, 12, 13, 14, 15, 16], chunk=3, bos=1) == [[1, 10, 11], [1, 13, 14]]
    assert text_sequences([10, 11, 12, 13], chunk=2) == [[10, 11], [12, 13]]
    assert text_sequences([1, 10], chunk=3, bos=1) == [[1, 10]]
    assert text_sequences([], bos=1) == []


numbers = st.floats(0, 2.0**100, width=32)


@st.composite
def matrices(draw):
    sums, counts = {}, {}
    for name in draw(st.lists(st.text("abk.019_", min_size=1, max_size=20), min_size=1, max_size=4, unique=True)):
        experts, columns = draw(st.integers(1, 3)), draw(st.integers(1, 5))
        values = draw(st.lists(numbers, min_size=experts * columns, max_size=experts * columns))
        sums[name] = np.array(values, np.float32).reshape(experts, columns)
        counts[name] = np.array(draw(st.lists(st.integers(0, 2**24), min_size=experts, max_size=experts)))
    datasets = draw(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=9), max_size=3))
    return ImportanceMatrix(sums, counts, draw(st.integers(0, 10**6)), draw(st.integers(1, 10**6)), tuple(datasets))


def check_same(found, matrix):
    assert found.sums.keys() == matrix.sums.keys()
    for name in matrix.sums:
        np.testing.assert_array_equal(found.sums[name], matrix.sums[name], strict=True)
        np.testing.assert_array_equal(found.counts[name], matrix.counts[name], strict=True)
    assert (found.chunks, found.chunk_size) == (matrix.chunks, matrix.chunk_size)
    assert found.datasets == matrix.datasets


@given(matrix=matrices())
@settings(max_examples=30, deadline=None)
def test_a_file_is_read_back_as_it_was_written(matrix, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "same.gguf"
    write_imatrix(path, matrix)
    check_same(read_imatrix(path), matrix)


@pytest.fixture
def matrix():
    """One weight, and a mixture of experts whose second was never chosen."""
    return ImportanceMatrix(
        {
            "blk.0.ffn_up.weight": np.array([[8, 2, 0]], np.float32),
            "blk.0.ffn_up_exps.weight": np.array([[3, 6], [0, 0]], np.float32),
        },
        {"blk.0.ffn_up.weight": np.array([4]), "blk.0.ffn_up_exps.weight": np.array([3, 0])},
        chunks=2,
        chunk_size=256,
        datasets=("talks",),
    )


def test_the_file_is_laid_out_as_llama_cpps(matrix, tmp_path):
    write_imatrix(tmp_path / "m.gguf", matrix)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == {
        "general.type": "imatrix",
        "imatrix.datasets": ["talks"],
        "imatrix.chunk_count": 2,
        "imatrix.chunk_size": 256,
    }
    assert [(tensor.name, tensor.shape.tolist()) for tensor in reader.tensors] == [
        ("blk.0.ffn_up.weight.in_sum2", [3]),
        ("blk.0.ffn_up.weight.counts", [1]),
        ("blk.0.ffn_up_exps.weight.in_sum2", [2, 2]),
        ("blk.0.ffn_up_exps.weight.counts", [1, 2]),
    ]
    assert (tmp_path / "m.gguf").stat().st_size % 32 == 0


def test_the_mean_squares_are_those_that_the_quantizer_wants(matrix):
    means = mean_squares(matrix)
    assert means["blk.0.ffn_up.weight"].tolist() == [2, 0.5, 0]
    assert means["blk.0.ffn_up_exps.weight"].tolist() == [1, 2, 1, 1]
    assert {values.dtype for values in means.values()} == {np.dtype(np.float32)}


def old_format(entries, *, end=b""):
    """A `.dat` file: count; per entry name, calls, values; then perhaps chunks and the name of the data."""
    data = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        data += struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(values))
        data += np.array(values, "<f4").tobytes()
    return data + end


def test_the_older_format_is_read(tmp_path):
    path = tmp_path / "m.dat"
    entries = [(b"blk.0.ffn_up.weight", 4, [8, 2, 0]), (b"old", 0, [5])]
    path.write_bytes(old_format(entries, end=struct.pack("<ii", 4, 5) + b"talks"))
    found = read_imatrix(path)
    means = mean_squares(found)
    assert means["blk.0.ffn_up.weight"].tolist() == [2, 0.5, 0]
    assert means["old"].tolist() == [5]
    assert found.counts["blk.0.ffn_up.weight"].tolist() == [4 * 512]
    assert (found.chunks, found.chunk_size, found.datasets) == (4, 512, ("talks",))
    path.write_bytes(old_format(entries))
    assert (read_imatrix(path).chunks, read_imatrix(path).datasets) == (0, ())


@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_a_file_that_is_cut_off_anywhere_is_refused(form, matrix, tmp_path):
    path = tmp_path / "m"
    if form == "gguf":
        write_imatrix(path, matrix)
    else:
        path.write_bytes(old_format([(b"blk.0.ffn_up.weight", 4, [8, 2, 0])]))
    whole = path.read_bytes()
    padding = 24 if form == "gguf" else 0  # what follows the last number only fills up
    for length in range(0, len(whole) - padding, 3):
        path.write_bytes(whole[:length])
        with pytest.raises(BadInput):
            read_imatrix(path)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_refused_or_still_a_matrix(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged"
    if data.draw(st.booleans()):
        write_imatrix(path, ImportanceMatrix({"a": np.ones((1, 3), "f")}, {"a": np.array([2])}, 1, 2, ("x",)))
    else:
        path.write_bytes(old_format([(b"a", 4, [8, 2, 0])], end=struct.pack("<ii", 4, 1) + b"x"))
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = read_imatrix(path)
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert all(np.isfinite(values).all() for values in mean_squares(found).values())


def test_files_that_are_something_else_are_refused(model, tmp_path):
    with pytest.raises(BadInput, match="is a GGUF, but not of an importance matrix; give the file of the matrix"):
        read_imatrix(model)
    with pytest.raises(BadInput, match=r"no\.gguf cannot be read: No such file or directory"):
        read_imatrix(tmp_path / "no.gguf")
    with pytest.raises(BadInput, match="cannot be read: Is a directory"):
        read_imatrix(tmp_path)
    (tmp_path / "text.dat").write_text("The koala sleeps in the tree. " * 20)
    with pytest.raises(BadInput, match=r"text\.dat is damaged, or no importance matrix of llama\.cpp"):
        read_imatrix(tmp_path / "text.dat")
    (tmp_path / "nan.dat").write_bytes(old_format([(b"a", 4, [1, float("nan")])]))
    with pytest.raises(BadInput, match="the sums of a are not all numbers of 0 or more"):
        read_imatrix(tmp_path / "nan.dat")
