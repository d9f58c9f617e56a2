"""How far apart two models' predictions are, from their logits at the same positions."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

CHUNK = 2_000_000
"""Logits that are compared at once, in float64 and several times over."""


@dataclass(frozen=True)
class Divergence:
    """A candidate against a reference, over all positions.

    Attributes:
        positions: how many predictions were compared.
        top1: share of the positions at which both have the same first choice.
        lost: largest preference that the reference has for its own first choice over the candidate's, in standard
            deviations of the logits at that position; 0 where all first choices agree.
        kld: mean Kullback-Leibler divergence of the candidate's distribution from the reference's, in nats.
        kld_p99: 99th percentile of the divergence.
        largest: largest absolute difference of two logits, relative to the reference's largest logit.
        mean: mean absolute difference of two logits, relative to the same.
        perplexity: the candidate's, over the held-out tokens; None without any.
        reference_perplexity: the reference's, over the same tokens.
    """

    positions: int
    top1: float
    lost: float
    kld: float
    kld_p99: float
    largest: float
    mean: float
    perplexity: float | None
    reference_perplexity: float | None

    def as_json(self) -> dict[str, Any]:
        """Its values; JSON knows no infinity, so that becomes None."""
        return {key: None if value == math.inf else value for key, value in asdict(self).items()}


def measure(parts: "Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]") -> Divergence:
    """Compare logits part by part.

    Args:
        parts: of each part the reference's and the candidate's logits, float32 of shape (positions, vocabulary), and
            the token that follows each position, or -1 where it is not held out, int of shape (positions,).

    A logit of the candidate's that is not a number makes the divergence infinite.
    """
    import numpy as np

    klds: list[np.ndarray] = []
    surprises: dict[str, list[np.ndarray]] = {"reference": [], "candidate": []}
    agreed, lost, total, largest, highest, logits = 0, 0.0, 0.0, 0.0, 0.0, 0
    for reference, candidate, following in parts:
        step = max(CHUNK // reference.shape[1], 1)
        for start in range(0, len(reference), step):
            p = np.asarray(reference[start : start + step], dtype=np.float64)
            q = np.asarray(candidate[start : start + step], dtype=np.float64)
            if not np.isfinite(q).all():
                positions = sum(map(len, klds))
                inf = math.inf
                return Divergence(positions, 0.0, inf, inf, inf, inf, inf, inf, inf)
            rows = np.arange(len(p))
            first, other = p.argmax(axis=1), q.argmax(axis=1)
            agreed += int((first == other).sum())
            # Where all logits are the same there is no preference, and no deviation to divide by.
            spread = np.maximum(p.std(axis=1), np.finfo(np.float64).tiny)
            lost = max(lost, float(((p[rows, first] - p[rows, other]) / spread).max()))
            difference = np.abs(p - q)
            total += float(difference.sum())
            largest = max(largest, float(difference.max()))
            highest = max(highest, float(np.abs(p).max()))
            logits += p.size
            log_p, log_q = _log_softmax(p), _log_softmax(q)
            klds.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
            known = following[start : start + step]
            told = known >= 0
            surprises["reference"].append(-log_p[rows[told], known[told]])
            surprises["candidate"].append(-log_q[rows[told], known[told]])
    kld = np.maximum(np.concatenate(klds), 0.0)
    return Divergence(
        positions=len(kld),
        top1=agreed / len(kld),
        lost=lost,
        kld=float(kld.mean()),
        kld_p99=float(np.quantile(kld, 0.99)),
        largest=largest / highest,
        mean=total / logits / highest,
        perplexity=_perplexity(surprises["candidate"]),
        reference_perplexity=_perplexity(surprises["reference"]),
    )


def _perplexity(surprises: "list[np.ndarray]") -> float | None:
    import numpy as np

    told = np.concatenate(surprises)
    return float(np.exp(told.mean())) if len(told) else None


def _log_softmax(logits: "np.ndarray") -> "np.ndarray":
    import numpy as np

    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
