"""Estimators as pure functions: pass@k, pass^k, majority@k and quantiles of Student's t distribution.

n is the number of a task's rollouts, c the number of correct ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_NORMAL_FROM = 1000
"""From this many degrees of freedom on, a corrected normal quantile is accurate to 1e-14, without bisection."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k rollouts drawn without replacement is correct: 1 - C(n-c, k) / C(n, k).

    Source: Chen et al., "Evaluating Large Language Models Trained on Code", 2021, equation 1.
    """
    if n - c < k:
        return 1.0
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def pass_hat_k(n: int, c: int, k: int) -> float:
    """Probability that all of k rollouts drawn without replacement are correct: C(c, k) / C(n, k).

    Source: Yao et al., "τ-bench", 2024.
    """
    return math.comb(c, k) / math.comb(n, k)


def majority_scores(answers: Sequence[object], scores: Sequence[float]) -> list[float]:
    """For each k, the mean score of the most frequent answers among the first k; 0 while all answers are None.

    Votes for one answer count together, although a judge may have given them different scores; the answer's score is
    the mean of these. NeMo Gym counts an answer with two scores as two answers.
    """
    votes: Counter[object] = Counter()
    totals: dict[object, float] = {}
    majorities: list[float] = []
    for answer, score in zip(answers, scores, strict=True):
        if answer is not None:
            votes[answer] += 1
            totals[answer] = totals.get(answer, 0.0) + score
        maximum = max(votes.values(), default=0)
        tied = [totals[answer] / count for answer, count in votes.items() if count == maximum]
        majorities.append(sum(tied) / len(tied) if tied else 0.0)
    return majorities


# The repeats of a run have few different numbers of tasks, and up to 1000 degrees take milliseconds each.
@lru_cache(maxsize=4096)
def t_quantile(degrees: int, probability: float = 0.975) -> float:
    """The quantile of Student's t distribution.

    Below `_NORMAL_FROM` degrees of freedom, by bisection of the distribution function. From there on, the normal
    quantile with the first four terms of the Cornish-Fisher expansion (Abramowitz and Stegun, 26.7.5).
    """
    if degrees >= _NORMAL_FROM:
        from statistics import NormalDist  # noqa: PLC0415 - small runs do not need it

        return _expanded_t_quantile(degrees, NormalDist().inv_cdf(probability))
    low, high = 0.0, 1e4
    # Until the interval ends at two adjacent floats.
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _t_distribution(middle, degrees) < probability else (low, middle)
    return middle


def _expanded_t_quantile(n: int, z: float) -> float:
    """The quantile of n degrees of freedom, from that of the normal distribution."""
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def _t_distribution(t: float, degrees: int) -> float:
    """P(T ≤ t) for t ≥ 0, by the finite series for integer degrees of freedom (Abramowitz and Stegun, 26.7.3-4)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    if degrees % 2:
        # Equation 26.7.3; the series is empty for one degree of freedom, the Cauchy distribution.
        term, total = cosine, cosine if degrees > 1 else 0.0
        for step in range(3, degrees - 1, 2):
            term *= (step - 1) / step * cosine**2
            total += term
        two_sided = 2 / math.pi * (angle + sine * total)
    else:
        # Equation 26.7.4.
        term, total = 1.0, 1.0
        for step in range(2, degrees - 1, 2):
            term *= (step - 1) / step * cosine**2
            total += term
        two_sided = sine * total
    # The series give P(|T| ≤ t); the distribution is symmetric.
    return 0.5 + two_sided / 2
