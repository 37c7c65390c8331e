"""Arithmetic word problems: find the steps that solve one, and check an answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SIGNS = {
    "buys": "+", "finds": "+", "gets": "+", "adds": "+", "bakes": "+", "earns": "+", "picks": "+", "collects": "+",
    "gives": "-", "loses": "-", "eats": "-", "sells": "-", "uses": "-", "spends": "-", "breaks": "-", "lends": "-",
}  # fmt: skip
"""The operation that a verb in a word problem stands for."""

_EVENT = re.compile(rf"\b({'|'.join(_SIGNS)})\b[^.0-9]*(\d+)", re.IGNORECASE)
_START = re.compile(r"\b(?:has|have|starts with|holds)\s+(\d+)", re.IGNORECASE)
_EXPRESSION = re.compile(r"\d+(?:\s*[-+*x×]\s*\d+)+")
_STEP = re.compile(r"(-?\d+) ([-+*]) (-?\d+) = (-?\d+)")
_INTEGER = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: left (+, - or *) right."""

    left: int
    sign: str
    right: int

    @property
    def result(self) -> int:
        """The result of the operation."""
        match self.sign:
            case "+":
                return self.left + self.right
            case "-":
                return self.left - self.right
            case _:
                return self.left * self.right


def solve(text: str) -> list[Step]:
    """The steps that solve the problem in a text; empty if it contains no problem.

    A problem is a word problem, or else the last expression in the text. Expressions are evaluated from left to right,
    without operator precedence.
    """
    start = _START.search(text)
    events = _EVENT.findall(text, start.end()) if start else []
    if start and events:
        return _chain(int(start[1]), [(_SIGNS[verb.lower()], int(number)) for verb, number in events])
    expressions = _EXPRESSION.findall(text)
    if not expressions:
        return []
    first, *rest = re.findall(r"\d+|[-+*x×]", expressions[-1])
    signs = ["*" if sign in "x×" else sign for sign in rest[::2]]
    return _chain(int(first), list(zip(signs, map(int, rest[1::2]), strict=True)))


def count_correct_steps(text: str) -> tuple[int, int]:
    """The number of correct steps in a text, and the number of all steps in it."""
    steps = [(Step(int(left), sign, int(right)), int(result)) for left, sign, right, result in _STEP.findall(text)]
    return sum(step.result == result for step, result in steps), len(steps)


def final_answer(text: str) -> int | None:
    """The last integer in a text; None if there is none."""
    integers = _INTEGER.findall(text)
    return int(integers[-1]) if integers else None


def _chain(start: int, operations: list[tuple[str, int]]) -> list[Step]:
    """The operations as steps, each on the result of the step before it."""
    steps: list[Step] = []
    for sign, number in operations:
        steps.append(Step(steps[-1].result if steps else start, sign, number))
    return steps
