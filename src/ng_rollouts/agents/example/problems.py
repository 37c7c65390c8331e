"""Arithmetic word problems: their text -> the steps that solve them, and the check of an answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SIGNS = {
    "buys": "+", "finds": "+", "gets": "+", "adds": "+", "bakes": "+", "earns": "+", "picks": "+", "collects": "+",
    "gives": "-", "loses": "-", "eats": "-", "sells": "-", "uses": "-", "spends": "-", "breaks": "-", "lends": "-",
}  # fmt: skip
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
        """What it comes to."""
        match self.sign:
            case "+":
                return self.left + self.right
            case "-":
                return self.left - self.right
            case _:
                return self.left * self.right


def solve(text: str) -> list[Step]:
    """The steps of the last problem in a text, left to right; none if there is no problem in it."""
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


def steps_right(working: str) -> tuple[int, int]:
    """How many of the written steps are right, and how many there are."""
    steps = [(Step(int(left), sign, int(right)), int(said)) for left, sign, right, said in _STEP.findall(working)]
    return sum(step.result == said for step, said in steps), len(steps)


def final_answer(text: str) -> int | None:
    """The last integer in a text."""
    found = _INTEGER.findall(text)
    return int(found[-1]) if found else None


def _chain(start: int, operations: list[tuple[str, int]]) -> list[Step]:
    steps: list[Step] = []
    for sign, number in operations:
        steps.append(Step(steps[-1].result if steps else start, sign, number))
    return steps
