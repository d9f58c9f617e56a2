"""llama.cpp's quantizer: every type, with and without an importance matrix, and everything that can go wrong."""

import errno
from pathlib import Path

import gguf
import numpy as np
import pytest

from convert.__main__ import main
from convert.file_types import known_types
from convert.imatrix import compute_imatrix
from convert.imatrix_file import ImportanceMatrix, read_imatrix, write_imatrix
from convert.quantize import quantize, quantized_size
from datasets_cfg.errors import BadInput

pytestmark = pytest.mark.slow


def ignore(amount):
    """Progress that nobody looks at."""


@pytest.fixture(scope="module")
def uneven(make_checkpoint, tmp_path_factory):
    """A checkpoint with rows of 256 in which one input of a layer in 16 is 40 times as strong as the others."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = make_checkpoint(
        tmp_path_factory.mktemp("uneven") / "uneven", hidden_size=256, intermediate_size=256, initializer_range=0.05
    )
    tensors = load_file(folder / "model.safetensors")
    for name, weights in tensors.items():
        if "layernorm" in name:
            weights.fill_(0.05)
            weights[::16] = 2.0
    save_file({name: weights.to(torch.float32) for name, weights in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def model(uneven, tmp_path_factory):
    out = tmp_path_factory.mktemp("quantize")
    assert main([str(uneven), "--out", str(out), "--quantize", "F32", "--no-verify", "--quiet"]) == 0
    return out / "uneven-F32.gguf"


@pytest.fixture(scope="module")
def sequences():
    return np.random.default_rng(2).integers(3, 350, (12, 64)).tolist()


@pytest.fixture(scope="module")
def matrix(model, sequences):
    return compute_imatrix(model, sequences[:8], threads=1, advance=ignore, datasets=["talks", "more"])


def metadata(path):
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


@pytest.mark.slow
@pytest.mark.parametrize("file_type", sorted(known_types()))
def test_every_type_is_made_in_the_size_that_was_foretold(file_type, model, matrix, tmp_path):
    made, done = tmp_path / "made.gguf", []
    quantize(model, made, file_type, threads=1, advance=done.append, imatrix=matrix)
    assert abs(made.stat().st_size - quantized_size(model, file_type, imatrix=matrix)) <= 32
    assert done == [1] * len(gguf.GGUFReader(model).tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["made.gguf"]


def logits(folder: Path, weights: Path, sequences):
    """transformers' logits with the layers of a GGUF, quantized or not; no matrix covers embeddings and head."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, network.config.num_hidden_layers)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(weights).tensors}
    with torch.no_grad():
        for name, parameter in network.model.layers.named_parameters(prefix="model.layers"):
            tensor = stored[names.get_name(name, try_suffixes=(".weight", ".bias"))]
            values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(parameter.shape)
            heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
            if heads:
                values = values.reshape(heads, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
            parameter.copy_(torch.tensor(values))
        return network(torch.tensor(sequences)).logits.double().log_softmax(-1)


@pytest.mark.parametrize("file_type", ["Q2_K", "Q4_K_M"])
def test_a_matrix_brings_the_predictions_closer(file_type, uneven, model, matrix, sequences, tmp_path):
    """Kullback-Leibler divergence from the unquantized model, on sequences that the matrix was not made of."""
    expected = logits(uneven, model, sequences[8:])
    divergence = []
    for given in (None, matrix):
        made = tmp_path / f"{given is None}.gguf"
        quantize(model, made, file_type, threads=1, advance=ignore, imatrix=given)
        actual = logits(uneven, made, sequences[8:])
        divergence.append(float((expected.exp() * (expected - actual)).sum(-1).mean()))
    assert divergence[1] < divergence[0] / 2


def test_the_file_says_which_matrix_it_was_made_with(model, matrix, tmp_path):
    write_imatrix(tmp_path / "matrix.gguf", matrix)
    expected = {
        "quantize.imatrix.file": "matrix.gguf",
        "quantize.imatrix.dataset": "talks",
        "quantize.imatrix.entries_count": 14,
        "quantize.imatrix.chunks_count": 1,
    }
    quantize(model, tmp_path / "a.gguf", "Q4_0", threads=1, advance=ignore, imatrix=tmp_path / "matrix.gguf")
    assert metadata(tmp_path / "a.gguf").items() >= expected.items()
    # From memory, under a name that is longer than llama.cpp has room for.
    quantize(model, tmp_path / "b.gguf", "Q4_0", threads=1, advance=ignore, imatrix=matrix, imatrix_name="ü" * 100)
    assert metadata(tmp_path / "b.gguf")["quantize.imatrix.file"] == "ü" * 63
    tensors = [gguf.GGUFReader(tmp_path / name).tensors for name in ("a.gguf", "b.gguf")]
    for one, other in zip(*tensors, strict=True):
        np.testing.assert_array_equal(one.data, other.data)
    quantize(model, tmp_path / "c.gguf", "Q4_0", threads=1, advance=ignore)
    assert not any(name.startswith("quantize.") for name in metadata(tmp_path / "c.gguf"))


def test_the_size_is_foretold_without_a_matrix(model, tmp_path):
    quantize(model, tmp_path / "q.gguf", "Q4_K_M", threads=1, advance=ignore)
    assert quantized_size(model, "Q4_K_M") == (tmp_path / "q.gguf").stat().st_size


def renamed(matrix, change):
    return ImportanceMatrix(
        {change(name): values for name, values in matrix.sums.items()},
        {change(name): values for name, values in matrix.counts.items()},
        matrix.chunks,
        matrix.chunk_size,
        matrix.datasets,
    )


def test_what_does_not_fit_is_refused_and_leaves_nothing(model, matrix, tmp_path):
    target = tmp_path / "out.gguf"

    def refusal(file_type, imatrix=None):
        with pytest.raises(BadInput) as caught:
            quantize(model, target, file_type, threads=1, advance=ignore, imatrix=imatrix)
        assert not list(tmp_path.glob("out*"))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    needs = "IQ1_S needs an importance matrix; give one with --imatrix (a mixture, a text or a file of one), or choose"
    assert needs in refusal("IQ1_S")
    with pytest.raises(BadInput, match="IQ1_S needs an importance matrix"):
        quantized_size(model, "IQ1_S")

    none = renamed(matrix, lambda name: name.replace("blk.", "blk.9"))
    assert "is of another model: it knows none of this one's weights" in refusal("Q4_0", none)
    wide = {name: np.hstack([values, values]) for name, values in matrix.sums.items()}
    wider = ImportanceMatrix(wide, matrix.counts, 1, 512, ())
    assert "it has 512 columns for blk.0.attn_k.weight, this one 256" in refusal("Q4_0", wider)
    partial = renamed(matrix, lambda name: name.replace("blk.1.ffn_up", "other"))
    assert "the matrix lacks blk.1.ffn_up.weight" in refusal("IQ2_XXS", partial)

    (tmp_path / "broken.dat").write_bytes(b"no matrix")
    assert "broken.dat is damaged, or no importance matrix" in refusal("Q4_0", tmp_path / "broken.dat")
    with pytest.raises(BadInput, match=r"q\.gguf cannot be written: No such file or directory"):
        quantize(model, tmp_path / "none" / "q.gguf", "Q4_0", threads=1, advance=ignore)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_full_disk_is_named_as_such(model, tmp_path):
    target = tmp_path / "full.gguf"
    target.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        quantize(model, target, "Q8_0", threads=1, advance=ignore)
    assert caught.value.errno == errno.ENOSPC
    assert not target.is_symlink()
    assert Path("/dev/full").exists()


def test_an_interrupted_run_leaves_nothing(model, matrix, tmp_path):
    def interrupt(amount):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(model, tmp_path / "out.gguf", "Q4_K_M", threads=1, advance=interrupt, imatrix=matrix)
    assert list(tmp_path.iterdir()) == []


def test_a_matrix_in_the_older_format_does_the_same(model, matrix, tmp_path):
    """What llama.cpp writes in that format: mean squares times chunks."""
    import struct

    data = struct.pack("<i", len(matrix.sums))
    for name, sums in matrix.sums.items():
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, sums.size)
        data += (sums / matrix.counts[name][:, None]).astype("<f4").tobytes()
    (tmp_path / "m.dat").write_bytes(data)
    assert read_imatrix(tmp_path / "m.dat").chunks == 0
    for name, given in (("new", matrix), ("old", tmp_path / "m.dat")):
        quantize(model, tmp_path / f"{name}.gguf", "Q2_K", threads=1, advance=ignore, imatrix=given)
    new, old = (gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors for name in ("new", "old"))
    for one, other in zip(new, old, strict=True):
        np.testing.assert_array_equal(one.data, other.data)
