"""How small `diff make --compress` makes the diff of a model that was really fine-tuned, by dtype and training.

    python benchmarks/diff_compression.py

A Llama of 1.7M parameters learns the bytes of Python's standard library (250 steps, AdamW at 1e-3), then is fine-tuned
with all its weights on the project's documentation (AdamW at 2e-5, batches of 8 rows of 128 bytes). Two cores, a few
minutes.
"""

import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

STEPS = (30, 120)


def main() -> None:
    """Train, fine-tune, print the table."""
    from transformers import LlamaConfig, LlamaForCausalLM

    code = b"".join(file.read_bytes() for file in sorted(Path(os.__file__).parent.glob("*.py")))
    prose = b"".join(file.read_bytes() for file in sorted((ROOT / "docs").glob("*.md")))
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
        )
    )
    train(model, code, steps=250, learning_rate=1e-3)
    base = {name: weights.clone() for name, weights in model.state_dict().items()}
    print(f"{sum(weights.numel() for weights in base.values()):,} parameters\n")
    print(f"{'share of the size':18} {'BF16':>6} {'F16':>6} {'F32':>6}")
    for steps in STEPS:
        model.load_state_dict(base)
        train(model, prose, steps=steps, learning_rate=2e-5)
        shares = [diff_share(base, model.state_dict(), dtype) for dtype in ("BF16", "F16", "F32")]
        print(f"{f'{steps} steps':18} " + " ".join(f"{share:6.2f}" for share in shares))
    shares = [weights_share(base, dtype) for dtype in ("BF16", "F16", "F32")]
    print(f"{'weights (zlib)':18} " + " ".join(f"{share:6.2f}" for share in shares))


def train(model: torch.nn.Module, text: bytes, *, steps: int, learning_rate: float) -> None:
    """Train all weights on rows from random places of a text."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0)
    for rows in batches(text, steps):
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def batches(text: bytes, count: int) -> Iterator[torch.Tensor]:
    """Rows of 128 bytes, eight at a time."""
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.stack([tokens[at : at + 128] for at in torch.randint(len(tokens) - 128, (8,), generator=generator)])


def diff_share(base: dict[str, torch.Tensor], tuned: dict[str, torch.Tensor], dtype: str) -> float:
    """Bytes of the compressed difference for each byte of the tuned weights."""
    from convert.diff.bit_difference import difference, pack

    pairs = [(bits(tuned[name], dtype), bits(base[name], dtype)) for name in base]
    return sum(len(pack(difference(new, old))) for new, old in pairs) / sum(new.nbytes for new, _ in pairs)


def weights_share(weights: dict[str, torch.Tensor], dtype: str) -> float:
    """Bytes of the weights, compressed without a base, for each of their bytes."""
    contents = [bits(tensor, dtype).tobytes() for tensor in weights.values()]
    return sum(len(zlib.compress(content)) for content in contents) / sum(map(len, contents))


def bits(tensor: torch.Tensor, dtype: str):
    """The bit patterns of a tensor in a dtype, as whole numbers."""
    from convert.diff.bit_difference import bit_type, cast

    return cast(tensor.flatten().numpy().view(bit_type("F32")), "F32", dtype)


if __name__ == "__main__":
    main()
