"""The losses of trained tokens are cross entropies in float32, whatever the logits are in."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, LlamaConfig

from train.loss import give_losses, token_losses


@pytest.mark.parametrize("tokens", [0, 1, 1024, 2500])
def test_chunks_of_16_bit_logits_have_the_losses_and_gradients_of_all_at_once(tokens):
    torch.manual_seed(0)
    logits = torch.randn(tokens, 50, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, 50, (tokens,))
    losses = token_losses(logits, targets)
    assert losses.dtype == torch.float32
    losses.sum().backward()

    whole = logits.detach().float().requires_grad_()
    expected = F.cross_entropy(whole, targets, reduction="none")
    expected.sum().backward()
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(logits.grad, whole.grad.bfloat16())


def test_a_model_gives_losses_only_when_asked():
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=50, **shape))
    give_losses(model)
    ids = torch.randint(0, 50, (1, 9))
    logits = model(input_ids=ids).logits
    kept = torch.tensor([0, 3, 7])
    (losses,) = model(input_ids=ids, logits_to_keep=kept, targets=ids[0, kept + 1])
    torch.testing.assert_close(losses, F.cross_entropy(logits[0, kept], ids[0, kept + 1], reduction="none"))
    (none,) = model(input_ids=ids, logits_to_keep=kept[:0], targets=kept[:0])
    none.sum().backward()  # a micro-batch without a trained token has a gradient, of zero
    assert model.lm_head.weight.grad.abs().sum() == 0
