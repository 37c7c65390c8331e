"""A simulated policy: it solves a problem with random mistakes and wordings, without a model.

Mistakes and wordings become more frequent as temperature and top_p rise, so rewards and diversity vary as they do with
a real model. The same request and seed give the same answer. Temperature 0 always gives the most likely answer.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass

from ng_rollouts.agents.example.problems import Step

_TEMPERATURES = (0.0, 0.2, 0.5, 0.7, 0.9, 1.2, 2.0)
"""The temperatures of the columns below; values between them are interpolated."""

_OUTCOMES = {
    # (wrong steps, is the final answer correct): the probability at each temperature
    (0, True): (1.0, 0.74, 0.42, 0.28, 0.17, 0.10, 0.03),
    (1, True): (0.0, 0.16, 0.24, 0.24, 0.18, 0.12, 0.05),
    (0, False): (0.0, 0.06, 0.16, 0.19, 0.18, 0.14, 0.07),
    (1, False): (0.0, 0.04, 0.13, 0.18, 0.22, 0.24, 0.22),
    (2, False): (0.0, 0.0, 0.04, 0.08, 0.15, 0.22, 0.30),
    (3, False): (0.0, 0.0, 0.01, 0.03, 0.10, 0.18, 0.33),
}
"""Chosen so that rewards spread with temperature as the documentation of the sampling strategies describes."""

_VARIED_WORDING = (0.0, 0.30, 0.64, 0.76, 0.87, 0.95, 1.0)
"""The probability that an answer is not worded as `_MOST_LIKELY`, at each temperature."""

_OPENERS = (
    "Let me see", "Working it out", "Step by step", "Going through it in order", "Adding it all up",
    "Here is how I see it", "Taking the events one at a time", "After checking twice", "Keeping a running count",
    "If I follow the story", "Counting along", "Putting it together",
)  # fmt: skip
_LINKS = (
    "that comes to", "the total is", "we end up with", "what is left is", "the count stands at", "I arrive at",
    "it must be", "the result is", "this leaves", "everything considered, it is", "my count gives", "we get",
)  # fmt: skip
_ADVERBIALS = (
    "", "in the end", "in total", "when the day is over", "as far as I can tell", "if nothing else happened",
    "after all of that", "to be exact", "by my reckoning", "once the last step is done", "at the close", "finally",
)  # fmt: skip
_CLOSERS = (
    "The answer is {}.", "So the answer is {}.", "Therefore {}.", "Hence the answer: {}.", "That makes {}.",
    "Final answer: {}.", "Answer: {}.", "My answer is {}.", "It is {}.", "I would say {}.", "In short: {}.", "Thus {}.",
)  # fmt: skip
_MOST_LIKELY = "The answer is {}."


@dataclass(frozen=True, slots=True)
class Solution:
    """A solution as the policy writes it, mistakes included.

    Attributes:
        steps: each step, with the result that is written for it.
        answer: the final answer.
        text: the final answer in words.
    """

    steps: tuple[tuple[Step, int], ...]
    answer: int
    text: str

    @property
    def steps_text(self) -> str:
        """The steps as text, one per line."""
        return "\n".join(f"{step.left} {step.sign} {step.right} = {result}" for step, result in self.steps)


def sample_solution(steps: list[Step], *, temperature: float, top_p: float, rng: random.Random) -> Solution:
    """Draw a solution.

    Args:
        steps: the correct steps; at least one.
        top_p: below 0.95 it acts like a lower temperature, because it excludes unlikely mistakes and wordings.
    """
    effective = temperature * (0.4 + 0.6 * top_p / 0.95 if top_p < 0.95 else 1.0)
    # the order of draws decides which answer a seed gives
    wrong_steps, is_correct = _outcome(effective, rng)
    wrong = set(rng.sample(range(len(steps)), min(wrong_steps, len(steps))))
    written = tuple((step, step.result + (_error(rng) if index in wrong else 0)) for index, step in enumerate(steps))
    result = steps[-1].result
    answer = result if is_correct else result + _error(rng)
    return Solution(written, answer, _wording(effective, rng).format(answer))


def _outcome(temperature: float, rng: random.Random) -> tuple[int, bool]:
    """Draw the number of wrong steps, and whether the final answer is correct."""
    weights = [_interpolate(temperature, probabilities) for probabilities in _OUTCOMES.values()]
    return rng.choices(list(_OUTCOMES), weights)[0]


def _wording(temperature: float, rng: random.Random) -> str:
    """Draw a template for the final answer."""
    if rng.random() >= _interpolate(temperature, _VARIED_WORDING):
        return _MOST_LIKELY
    opener, link, adverbial = rng.choice(_OPENERS), rng.choice(_LINKS), rng.choice(_ADVERBIALS)
    # the answer occurs twice, and `format` does not repeat an automatic field: `{0}` does
    return f"{opener}, {' '.join(filter(None, (link, '{}', adverbial)))}. {rng.choice(_CLOSERS)}".replace("{}", "{0}")


def _error(rng: random.Random) -> int:
    """Draw the difference between a wrong result and the correct one."""
    return rng.choice((-3, -2, -1, 1, 2, 3))


def _interpolate(temperature: float, values: tuple[float, ...]) -> float:
    """The value at a temperature, linearly interpolated; above the last temperature, the last value."""
    right = min(bisect_right(_TEMPERATURES, temperature), len(_TEMPERATURES) - 1)
    low, high = _TEMPERATURES[right - 1], _TEMPERATURES[right]
    share = min(1.0, (temperature - low) / (high - low))
    return values[right - 1] + share * (values[right] - values[right - 1])
