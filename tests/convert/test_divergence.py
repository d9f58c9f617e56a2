import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.divergence import measure


def naive(p, q, following):
    """The same figures by PyTorch's own functions, position by position."""
    p, q = torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)
    log_p, log_q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
    kld = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    told = torch.tensor(following) >= 0
    targets = torch.tensor(following)[told]
    return {
        "kld": kld.mean().item(),
        "kld_p99": torch.quantile(kld, 0.99).item(),
        "top1": (p.argmax(-1) == q.argmax(-1)).double().mean().item(),
        "largest": ((p - q).abs().max() / p.abs().max()).item(),
        "mean": ((p - q).abs().mean() / p.abs().max()).item(),
        "perplexity": torch.nn.functional.cross_entropy(q[told], targets).exp().item(),
        "reference_perplexity": torch.nn.functional.cross_entropy(p[told], targets).exp().item(),
    }


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), positions=st.integers(1, 40), vocabulary=st.integers(2, 50), cut=st.integers(1, 40))
def test_the_figures_are_those_of_pytorch(seed, positions, vocabulary, cut):
    random = np.random.default_rng(seed)
    p = random.normal(0, 3, (positions, vocabulary)).astype(np.float32)
    q = p + random.normal(0, 0.3, p.shape).astype(np.float32)
    following = random.integers(-1, vocabulary, positions)
    following[0] = 0
    parts = [(p[part], q[part], following[part]) for part in (slice(0, cut), slice(cut, None)) if len(p[part])]
    found = measure(parts)
    assert found.positions == positions
    for name, value in naive(p, q, following).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_what_is_lost_is_the_reference_s_preference():
    p = np.array([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]], dtype=np.float32)
    q = np.array([[0.0, 5.0, 3.0], [2.0, 0.0, 0.0]], dtype=np.float32)
    found = measure([(p, q, np.array([-1, -1]))])
    assert found.lost == pytest.approx((3 - 1) / p[0].std())
    assert found.top1 == 0.5
    assert found.perplexity is None


def test_the_same_logits_do_not_diverge():
    p = np.zeros((3, 4), dtype=np.float32)
    p[1] = [1, 2, 3, 4]
    found = measure([(p, p, np.array([-1, -1, 2]))])
    assert (found.kld, found.kld_p99, found.top1, found.lost, found.largest) == (0, 0, 1, 0, 0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_logit_that_is_no_number_is_infinitely_far(wrong):
    p = np.ones((2, 3), dtype=np.float32)
    q = p.copy()
    q[1, 1] = wrong
    found = measure([(p, q, np.array([-1, -1]))])
    assert found.kld == math.inf
    assert found.as_json()["kld"] is None
