import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.checkpoint import open_checkpoint
from convert.weights_digest import checkpoint_digest, digest_line, tensor_digest, weights_digest
from datasets_cfg.errors import BadInput


def test_digest_is_what_its_description_says(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file(
        {"b": torch.tensor([1.0, -0.0], dtype=torch.bfloat16), "a": torch.tensor(2.5)}, tmp_path / "model.safetensors"
    )
    sha_a = hashlib.sha256(b"\x00\x00\x20\x40").hexdigest()
    sha_b = hashlib.sha256(b"\x80\x3f\x00\x80").hexdigest()
    expected = hashlib.sha256(f"a F32 [] {sha_a}\nb BF16 [2] {sha_b}\n".encode()).hexdigest()
    seen = []
    assert checkpoint_digest(open_checkpoint(tmp_path), seen.append) == expected
    assert sum(seen) == 8


def test_shards_and_order_do_not_matter_but_names_dtypes_shapes_and_values_do(make_checkpoint, tmp_path):
    whole = make_checkpoint(tmp_path / "whole")
    sharded = make_checkpoint(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    digest = checkpoint_digest(open_checkpoint(whole))
    assert digest == checkpoint_digest(open_checkpoint(sharded))

    weights = load_file(whole / "model.safetensors")
    first = next(name for name, tensor in weights.items() if tensor.ndim == 2)
    changed = weights[first].clone()
    changed.view(torch.int32)[0, 0] ^= 1
    for other in (
        {f"{name}x" if name == first else name: tensor for name, tensor in weights.items()},
        {**weights, first: weights[first].bfloat16()},
        {**weights, first: weights[first].reshape(-1)},
        {**weights, first: changed},
    ):
        save_file(other, whole / "model.safetensors")
        assert checkpoint_digest(open_checkpoint(whole)) != digest


def test_tensors_can_be_hashed_by_threads_in_any_order():
    tensors = {f"t{n}": torch.randn(7, n).to(torch.bfloat16) for n in range(5)}
    with ThreadPoolExecutor(2) as pool:
        digests = dict(zip(tensors, pool.map(tensor_digest, tensors.values()), strict=True))
    lines = [digest_line(name, "BF16", tensors[name].shape, digest) for name, digest in digests.items()]
    assert weights_digest(lines) == weights_digest(reversed(lines))
    # A view that is not contiguous is hashed in the order of its elements.
    assert tensor_digest(tensors["t4"].T) == tensor_digest(tensors["t4"].T.clone(memory_format=torch.contiguous_format))
    assert tensor_digest(tensors["t4"].T) != digests["t4"]


def test_nan_is_refused_as_everywhere(broken):
    weights = load_file(broken / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(BadInput, match="NaN"):
        checkpoint_digest(open_checkpoint(broken))
