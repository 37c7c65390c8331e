"""Estimators over one group or over many, as formulas: no files, no state.

n is the number of a task's rollouts, c how many of them are right.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist

_T_ENOUGH = 200
"""With so many degrees of freedom t is the normal distribution to three digits."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k rollouts drawn without replacement is right: 1 - C(n-c, k) / C(n, k).

    Source: Chen et al., "Evaluating Large Language Models Trained on Code", 2021, equation 1.
    """
    if n - c < k:
        return 1.0
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def pass_hat_k(n: int, c: int, k: int) -> float:
    """Chance that all of k rollouts drawn without replacement are right: C(c, k) / C(n, k).

    Source: Yao et al., "τ-bench", 2024.
    """
    return math.comb(c, k) / math.comb(n, k)


def majority_scores(answers: Sequence[object], scores: Sequence[float]) -> list[float]:
    """For each k, the mean score of the answers that most of the first k give; 0 for as long as nobody has answered.

    An answer that is scored differently in two rollouts counts as two, as NeMo Gym counts it.
    """
    votes: Counter[tuple[object, float]] = Counter()
    found: list[float] = []
    for answer, score in zip(answers, scores, strict=True):
        if answer is not None:
            votes[answer, score] += 1
        maximum = max(votes.values(), default=0)
        tied = [given for (_, given), count in votes.items() if count == maximum]
        found.append(sum(tied) / len(tied) if tied else 0.0)
    return found


def t_quantile(degrees: int, chance: float = 0.975) -> float:
    """The quantile of Student's t distribution.

    By bisection of its distribution function; the normal one from `_T_ENOUGH` degrees of freedom on is corrected by the
    first two terms of the Cornish-Fisher expansion (Abramowitz and Stegun, 26.7.5).
    """
    z = NormalDist().inv_cdf(chance)
    if degrees >= _T_ENOUGH:
        return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_distribution(middle, degrees) < chance else (low, middle)
    return (low + high) / 2


def _t_distribution(t: float, degrees: int) -> float:
    """P(T ≤ t) for t ≥ 0, by the finite series for integer degrees of freedom (Abramowitz and Stegun, 26.7.3-4)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    if degrees % 2:
        term, total = cosine, cosine if degrees > 1 else 0.0
        for step in range(3, degrees - 1, 2):
            term *= (step - 1) / step * cosine**2
            total += term
        inside = 2 / math.pi * (angle + sine * total)
    else:
        term, total = 1.0, 1.0
        for step in range(2, degrees - 1, 2):
            term *= (step - 1) / step * cosine**2
            total += term
        inside = sine * total
    return 0.5 + inside / 2
