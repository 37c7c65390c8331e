"""Paired comparison of two runs over their common tasks."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from ng_rollouts.metrics.estimators import t_quantile

_DRAWS = 2000


_HALF = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The second file less the first, over their common tasks.

    Attributes:
        interval_95: of the mean difference, by t over tasks; None for a single task.
        p: two-sided, by a paired bootstrap of tasks; None for a single task.
        flipped_to_right, flipped_to_wrong: tasks whose mean crosses one half.
    """

    tasks: int
    mean_first: float
    mean_second: float
    difference: float
    interval_95: list[float] | None
    p: float | None
    wins: int
    losses: int
    ties: int
    flipped_to_right: list[int]
    flipped_to_wrong: list[int]


def difference_of(pairs: dict[int, tuple[float, float]], rng: random.Random) -> Difference:
    """What the paired scores of tasks come to; `pairs` by task index, at least one."""
    differences = [second - first for first, second in pairs.values()]
    count, mean = len(differences), math.fsum(differences) / len(differences)
    half = None
    if count > 1:
        variance = math.fsum((each - mean) ** 2 for each in differences) / (count - 1)
        half = t_quantile(count - 1) * math.sqrt(variance / count)
    return Difference(
        tasks=count,
        mean_first=math.fsum(first for first, _ in pairs.values()) / count,
        mean_second=math.fsum(second for _, second in pairs.values()) / count,
        difference=mean,
        interval_95=None if half is None else [mean - half, mean + half],
        p=bootstrap_p(differences, rng),
        wins=sum(each > 0 for each in differences),
        losses=sum(each < 0 for each in differences),
        ties=sum(each == 0 for each in differences),
        flipped_to_right=[index for index, (first, second) in pairs.items() if first < _HALF <= second],
        flipped_to_wrong=[index for index, (first, second) in pairs.items() if second < _HALF <= first],
    )


def bootstrap_p(differences: Sequence[float], rng: random.Random) -> float | None:
    """How often means at least as far from zero come of differences whose mean is made zero.

    Never less than what flipping the signs of so few could show, 2 / 2**tasks: a bootstrap of two tasks would have
    any difference certain. None for one task.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 16.4.
    """
    count = len(differences)
    mean = math.fsum(differences) / count
    if count < 2:
        return None
    if not any(differences):
        return 1.0
    centred = [each - mean for each in differences]
    extreme = sum(abs(math.fsum(rng.choices(centred, k=count)) / count) >= abs(mean) - 1e-12 for _ in range(_DRAWS))
    return max((extreme + 1) / (_DRAWS + 1), 2.0 ** (1 - count))
