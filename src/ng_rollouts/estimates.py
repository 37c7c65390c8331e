"""Estimators over one group or over many, as formulas: no files, no state.

n is the number of a task's rollouts, c how many of them are right.
"""

from __future__ import annotations

import math
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


def majority_scores(answers: Sequence[object], scores: Sequence[float]) -> list[float | None]:
    """For each k, the mean score of the answer most of the first k give, the earliest of equals.

    None for as long as nobody has answered.
    """
    votes: dict[object, list[float]] = {}
    orders: dict[object, int] = {}
    found: list[float | None] = []
    leader: object = None
    for answer, score in zip(answers, scores, strict=True):
        if answer is not None:
            given = votes.setdefault(answer, [0, 0.0])
            given[0] += 1
            given[1] += score
            order = orders.setdefault(answer, len(orders))
            if leader is None or (given[0], -order) > (votes[leader][0], -orders[leader]):
                leader = answer
        found.append(None if leader is None else votes[leader][1] / votes[leader][0])
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
