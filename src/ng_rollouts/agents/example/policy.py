"""A simulated policy: what a model would write, with slips and wordings that grow with temperature.

No model is behind it. Slips and wordings are drawn so that rewards and diversity vary with temperature, top_p and
seed the way they do for a real one: the same request and seed give the same answer, temperature 0 always the
likeliest one.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass

from ng_rollouts.agents.example.problems import Step

_TEMPERATURES = (0.0, 0.2, 0.5, 0.7, 0.9, 1.2, 2.0)
_OUTCOMES = {
    # slips in the working, final answer right: chance at each temperature
    (0, True): (1.0, 0.74, 0.42, 0.28, 0.17, 0.10, 0.03),
    (1, True): (0.0, 0.16, 0.24, 0.24, 0.18, 0.12, 0.05),
    (0, False): (0.0, 0.06, 0.16, 0.19, 0.18, 0.14, 0.07),
    (1, False): (0.0, 0.04, 0.13, 0.18, 0.22, 0.24, 0.22),
    (2, False): (0.0, 0.0, 0.04, 0.08, 0.15, 0.22, 0.30),
    (3, False): (0.0, 0.0, 0.01, 0.03, 0.10, 0.18, 0.33),
}
_OWN_WORDING = (0.0, 0.30, 0.64, 0.76, 0.87, 0.95, 1.0)
"""Chance of wording an answer in a way of its own, at each temperature."""

_OPENERS = (
    "Let me see", "Working it out", "Step by step", "Going through it in order", "Adding it all up",
    "Here is how I see it", "Taking the events one at a time", "After checking twice", "Keeping a running count",
    "If I follow the story", "Counting along", "Putting it together",
)  # fmt: skip
_LINKS = (
    "that comes to", "the total is", "we end up with", "what is left is", "the count stands at", "I arrive at",
    "it must be", "the result is", "this leaves", "everything considered, it is", "my count gives", "we get",
)  # fmt: skip
_ASIDES = (
    "", "in the end", "all told", "when the day is over", "as far as I can tell", "if nothing else happened",
    "after all of that", "to be exact", "by my reckoning", "once the last step is done", "at the close", "finally",
)  # fmt: skip
_CLOSERS = (
    "The answer is {}.", "So the answer is {}.", "Therefore {}.", "Hence the answer: {}.", "That makes {}.",
    "Final answer: {}.", "Answer: {}.", "My answer is {}.", "It is {}.", "I would say {}.", "In short: {}.", "Thus {}.",
)  # fmt: skip
_LIKELIEST = "The answer is {}."


@dataclass(frozen=True, slots=True)
class Thought:
    """What the policy made of a problem: each step with the result it wrote, the answer, and its wording."""

    steps: tuple[tuple[Step, int], ...]
    answer: int
    text: str

    @property
    def working(self) -> str:
        """The steps as text."""
        return "\n".join(f"{step.left} {step.sign} {step.right} = {said}" for step, said in self.steps)


def think(steps: list[Step], *, temperature: float, top_p: float, rng: random.Random) -> Thought:
    """Solve a problem as a model at this temperature would; a lower top_p cuts the unlikely off."""
    effective = temperature * (0.4 + 0.6 * top_p / 0.95 if top_p < 0.95 else 1.0)
    slips, right = _outcome(effective, rng)
    slipped = set(rng.sample(range(len(steps)), min(slips, len(steps))))
    written = tuple((step, step.result + (_slip(rng) if place in slipped else 0)) for place, step in enumerate(steps))
    truth = steps[-1].result
    answer = truth if right else truth + _slip(rng)
    return Thought(written, answer, _wording(effective, rng).format(answer))


def _outcome(temperature: float, rng: random.Random) -> tuple[int, bool]:
    weights = [_at(temperature, chances) for chances in _OUTCOMES.values()]
    return rng.choices(list(_OUTCOMES), weights)[0]


def _wording(temperature: float, rng: random.Random) -> str:
    if rng.random() >= _at(temperature, _OWN_WORDING):
        return _LIKELIEST
    opener, link, aside = rng.choice(_OPENERS), rng.choice(_LINKS), rng.choice(_ASIDES)
    return f"{opener}, {' '.join(filter(None, (link, '{}', aside)))}. {rng.choice(_CLOSERS)}".replace("{}", "{0}")


def _slip(rng: random.Random) -> int:
    return rng.choice((-3, -2, -1, 1, 2, 3))


def _at(temperature: float, values: tuple[float, ...]) -> float:
    """The value at a temperature, on the line between its neighbours."""
    right = min(bisect_right(_TEMPERATURES, temperature), len(_TEMPERATURES) - 1)
    low, high = _TEMPERATURES[right - 1], _TEMPERATURES[right]
    share = min(1.0, (temperature - low) / (high - low))
    return values[right - 1] + share * (values[right] - values[right - 1])
