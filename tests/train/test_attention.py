"""Packing changes nothing: the losses of packed conversations are theirs alone, whatever computes the attention."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, MistralConfig, Qwen3Config

from train import attention
from train.loss import give_losses
from train.packing import collate

LENGTHS = [[5, 17, 9], [30, 1, 2]]
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "mistral, window": MistralConfig(**SHAPE, sliding_window=6),
    "gemma": GemmaConfig(**SHAPE, head_dim=8),
}


@pytest.fixture(scope="module")
def rows():
    """Two rows of conversations of random tokens; a third of the tokens carries no loss."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for lengths in LENGTHS:
        ids = torch.randint(0, 97, (sum(lengths),), generator=generator)
        labels = torch.where(torch.rand(sum(lengths), generator=generator) < 1 / 3, -100, ids)
        made.append(
            {
                "input_ids": ids.numpy(),
                "labels": labels.numpy(),
                "lengths": torch.tensor(lengths).numpy(),
                "sources": torch.zeros(len(lengths), dtype=torch.int64).numpy(),
            }
        )
    return made


def alone(rows):
    """Each conversation of `rows` as a row of its own."""
    for row in rows:
        begin = 0
        for length in row["lengths"]:
            part = slice(begin, begin + length)
            yield {
                "input_ids": row["input_ids"][part],
                "labels": row["labels"][part].copy(),
                "lengths": torch.tensor([length]).numpy(),
                "sources": row["sources"][:1],
            }
            begin += length


def model(config, implementation: str):
    attention.register()
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
    give_losses(made)
    return made


def losses(model, batch) -> torch.Tensor:
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "sources", "rows")}
    return model(**inputs, use_cache=False)[0]


@pytest.mark.parametrize(
    "implementation", ["varlen", "sdpa", "eager", pytest.param("flex_attention", marks=pytest.mark.slow)]
)
def test_a_packed_batch_has_the_losses_of_its_conversations_alone(rows, implementation):
    packed = model(CONFIGS["llama"], implementation)
    by_itself = model(CONFIGS["llama"], "eager")
    with torch.no_grad():
        together = losses(packed, collate(rows))
        single = torch.cat([losses(by_itself, collate([row])) for row in alone(rows)])
    assert len(together) == len(single) > 20
    assert together.mean().item() == pytest.approx(single.mean().item(), abs=1e-5)
    torch.testing.assert_close(together, single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_varlen_attention_has_the_gradients_of_eager_attention(rows, name):
    gradients = {}
    for implementation in ("varlen", "eager"):
        trained = model(CONFIGS[name], implementation)
        losses(trained, collate(rows)).sum().backward()
        gradients[implementation] = {name: weight.grad for name, weight in trained.named_parameters()}
    for weight, gradient in gradients["eager"].items():
        torch.testing.assert_close(gradients["varlen"][weight], gradient, atol=2e-5, rtol=1e-4, msg=weight)


@pytest.mark.parametrize(
    "implementation", ["varlen", "sdpa", "eager", pytest.param("flex_attention", marks=pytest.mark.slow)]
)
def test_a_conversation_does_not_touch_the_logits_of_another_at_all(rows, implementation):
    made = model(CONFIGS["llama"], implementation)
    batch = collate(rows)
    kept = {name: batch[name] for name in ("position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q")}
    changed = batch["input_ids"].clone()
    changed[:, 5:22] = (changed[:, 5:22] + 1) % 97  # the second conversation
    with torch.no_grad():
        before, after = (made(input_ids=ids, **kept, use_cache=False).logits for ids in (batch["input_ids"], changed))
    assert torch.equal(before[:, :5], after[:, :5])
    assert torch.equal(before[:, 22:], after[:, 22:])
    assert not torch.equal(before[:, 5:22], after[:, 5:22])


def test_on_a_gpu_pytorchs_kernel_is_given_what_it_takes(rows, monkeypatch):
    """PyTorch's kernel needs a GPU; what stands in for it here computes from the same arguments."""
    import torch.nn.attention.varlen as pytorch

    called = []

    def reference(query, key, value, begins, begins_k, longest, longest_k, *, scale, window_size, enable_gqa):
        called.append((query.dtype, longest, window_size, enable_gqa))
        assert query.dtype == key.dtype == value.dtype
        assert begins is begins_k
        assert longest == longest_k == begins.diff().max()
        parts = []
        for begin, end in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
            q, k, v = (tensor[begin:end].transpose(0, 1) for tensor in (query, key, value))
            ones = torch.ones(end - begin, end - begin, dtype=torch.bool).tril()
            mask = ones.triu(-window_size[0]) if window_size[0] >= 0 else ones
            done = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
            )
            parts.append(done.transpose(0, 1))
        return torch.cat(parts)

    batch = collate(rows)
    for name, window in (("llama", (-1, 0)), ("mistral, window", (5, 0))):
        made = model(CONFIGS[name], "varlen")
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            expected = losses(made, batch)
            with monkeypatch.context() as patched:
                patched.setattr(attention, "_flash_kernel", lambda device, half, width: half)
                patched.setattr(pytorch, "varlen_attn", reference)
                found = losses(made, batch)
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)
        assert called.pop() == (torch.bfloat16, 30, window, True)


def test_varlen_attention_refuses_what_is_not_packed():
    made = model(CONFIGS["llama"], "varlen")
    with pytest.raises(ValueError, match="packed rows alone"):
        made(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)


def test_the_choice_says_why(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert attention.choose(CONFIGS["llama"], cpu, True)[0] == "varlen"
    capped = LlamaConfig(**SHAPE)
    capped.attn_logit_softcapping = 50.0
    assert attention.choose(capped, cpu, True)[0] == "eager"

    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert attention.choose(CONFIGS["llama"], cuda, True) == (
        "varlen",
        "PyTorch's own variable-length FlashAttention, as flash-attn is not installed",
    )
    assert "16 bits" in attention.choose(CONFIGS["llama"], cuda, False)[1]
    monkeypatch.setattr(attention, "find_spec", lambda name: True)
    assert attention.choose(CONFIGS["llama"], cuda, True)[0] == "flash_attention_2"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert attention.choose(CONFIGS["llama"], cuda, True)[0] == "flash_attention_3"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert attention.choose(CONFIGS["llama"], cuda, True)[0] == "varlen"
