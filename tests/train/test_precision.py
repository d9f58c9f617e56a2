"""The dtype of the weights follows from what is trained and where."""

from types import SimpleNamespace

import pytest

from train.precision import weights_dtype


@pytest.mark.parametrize(
    ("dtype", "bf16", "peft", "launch", "expected"),
    [
        ("float16", True, False, None, "float16"),
        ("auto", False, True, None, "float32"),
        ("auto", True, True, None, "bfloat16"),
        ("auto", True, False, None, "float32"),
        ("auto", True, False, "FSDP", "float32"),
        ("auto", True, True, "FSDP", "bfloat16"),
        ("auto", True, False, "DEEPSPEED", "bfloat16"),
    ],
)
def test_the_dtype(monkeypatch, dtype, bf16, peft, launch, expected):
    if launch:
        monkeypatch.setenv(f"ACCELERATE_USE_{launch}", "true")
    chosen, why = weights_dtype(
        SimpleNamespace(mixed_precision="bf16" if bf16 else "no"), SimpleNamespace(dtype=dtype, use_peft=peft)
    )
    assert chosen == expected
    assert why


def test_training_in_16_bits_alone_is_said_to_lose_updates(monkeypatch):
    options = SimpleNamespace(dtype="bfloat16", use_peft=False)
    assert "lost" in weights_dtype(SimpleNamespace(mixed_precision="bf16"), options)[1]
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "lost" not in weights_dtype(SimpleNamespace(mixed_precision="bf16"), options)[1]
