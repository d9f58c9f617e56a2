"""Dropout is there while training, and nowhere else."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from train.dropout import add_dropout

SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def test_dropout_acts_while_training_only():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=50, **SHAPE)).eval()
    ids = torch.randint(0, 50, (1, 9))
    names, before = list(model.state_dict()), model(input_ids=ids).logits
    add_dropout(model, 0.5)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert list(model.state_dict()) == names
    model.train()
    once, twice = model(input_ids=ids).logits, model(input_ids=ids).logits
    assert not torch.equal(once, twice)
    dropped = model.get_input_embeddings()(ids)
    assert 0.3 < (dropped == 0).float().mean() < 0.7
    kept = dropped[dropped != 0]
    whole = model.get_input_embeddings().weight[ids][dropped != 0]
    torch.testing.assert_close(kept, whole / 0.5)


def test_a_model_without_such_layers_is_refused():
    model = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=50))
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no decoder layers"):
        add_dropout(model, 0.1)
