"""Estimators as pure functions: pass@k, pass^k, majority@k and quantiles of Student's t distribution.

n is the number of a task's rollouts, c the number of correct ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist

_NORMAL_FROM = 200
"""From this many degrees of freedom on, a corrected normal quantile is accurate to 1e-6, without bisection."""


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


def t_quantile(degrees: int, probability: float = 0.975) -> float:
    """The quantile of Student's t distribution.

    Below `_NORMAL_FROM` degrees of freedom, by bisection of the distribution function. From there on, the normal
    quantile with the first two terms of the Cornish-Fisher expansion (Abramowitz and Stegun, 26.7.5).
    """
    z = NormalDist().inv_cdf(probability)
    if degrees >= _NORMAL_FROM:
        return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    low, high = 0.0, 1e4
    for _ in range(200):  # more steps than a float has bits, so the interval ends at two adjacent floats
        middle = (low + high) / 2
        low, high = (middle, high) if _t_distribution(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


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
