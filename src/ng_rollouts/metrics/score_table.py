"""Scores of all rollouts by position in the output, their means in that order, and the names that count.

A mean is computed over the scores in file order, left to right, as `jq 'map(.reward) | add/length'` computes it. The
order in which rollouts completed does not matter. File order is necessary, since a sum of floats depends on its order.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from itertools import compress, filterfalse
from operator import and_
from typing import Any

from ng_rollouts.console import log
from ng_rollouts.types import RolloutStats

Sums = dict[str, tuple[float, int]]
"""The sum of each score, and the number of its values."""

MAX_SCORE_NAMES = 4000
"""Replies may have different scores each, such as one per test case. Each costs memory and a place in every report."""

_ABSENT_BYTE = -128
_NAN = float("nan")

_MAX_SPARSE = 1024
"""A column with at most this many values is a dict, so that a rare score does not take space for every rollout."""

_LISTED_FIRST = ("reward", "accuracy")


class ScoreNames:
    """The names of the scores that count: the first `MAX_SCORE_NAMES` that occur."""

    def __init__(self) -> None:
        self._names: set[str] = set(_LISTED_FIRST)
        self._is_exceeded = False

    def limit(self, stats: RolloutStats) -> RolloutStats:
        """The statistics of a rollout with the scores that count. The first time that some do not, a line says so."""
        if stats.scores.keys() <= self._names:
            return stats
        room = MAX_SCORE_NAMES - len(self._names)
        new = [name for name in stats.scores if name not in self._names]
        self._names.update(new[:room])
        if len(new) <= room:
            return stats
        if not self._is_exceeded:
            self._is_exceeded = True
            log(f"warning: rollouts have more than {MAX_SCORE_NAMES} different scores: metrics leave out further ones")
        return stats._replace(scores={name: value for name, value in stats.scores.items() if name in self._names})


class ScoreColumn:
    """One score of all rollouts.

    Args:
        rollouts: the number of planned rollouts.
    """

    def __init__(self, rollouts: int) -> None:
        self._rollouts = rollouts
        self._sparse: dict[int, float] = {}
        # One byte per rollout (type code "b") while all values are small integers, otherwise eight bytes ("d").
        self._dense: array[int] | array[float] | None = None

    def record(self, position: int, value: float) -> None:
        """Store the value at a position."""
        if self._dense is None:
            self._sparse[position] = value
            if len(self._sparse) > _MAX_SPARSE:
                self._densify()
            return
        if self._dense.typecode == "b" and not _fits_byte(value):
            self._dense = array("d", (_NAN if cell == _ABSENT_BYTE else cell for cell in self._dense))
        cells: Any = self._dense
        cells[position] = int(value) if self._dense.typecode == "b" else value

    def values(self, is_included: bytes) -> Iterator[float]:
        """The values at the included positions, in order; positions without a value are skipped.

        A column of few values takes a time that depends on them only, so that many different scores stay fast.

        Args:
            is_included: for every position, 1 or 0.
        """
        if self._dense is None:
            return (self._sparse[position] for position in sorted(self._sparse) if is_included[position])
        # NaN marks absence in a column of floats.
        is_absent = _ABSENT_BYTE.__eq__ if self._dense.typecode == "b" else math.isnan
        return filterfalse(is_absent, compress(self._dense, is_included))

    def _densify(self) -> None:
        if all(map(_fits_byte, self._sparse.values())):
            self._dense = array("b", [_ABSENT_BYTE]) * self._rollouts
        else:
            self._dense = array("d", [_NAN]) * self._rollouts
        sparse, self._sparse = self._sparse, {}
        for position, value in sparse.items():
            self.record(position, value)


class ScoreTable:
    """The scores of all rollouts by name and position, and the agent of each rollout.

    Args:
        rollouts: the number of planned rollouts.
    """

    def __init__(self, rollouts: int) -> None:
        self._rollouts = rollouts
        self._columns: dict[str, ScoreColumn] = {}
        self._agents: dict[str, int] = {}
        self._names_of: dict[str, set[str]] = {}
        # The agent's number at every position. A run with a single agent does not need it: None until the second one.
        self._agent_at: array[int] | None = None

    @property
    def names(self) -> list[str]:
        """All scores: `reward` and `accuracy` first, then in the order in which they were first recorded."""
        return reward_first(self._columns)

    def names_of(self, agent: str) -> set[str]:
        """The scores that an agent has given; empty before its first row."""
        return self._names_of.get(agent, set())

    def record(self, position: int, agent: str, scores: dict[str, float]) -> None:
        """Store the scores of one rollout."""
        self._record_agent(position, agent)
        self._names_of[agent].update(scores)
        for name, value in scores.items():
            if name not in self._columns:
                self._columns[name] = ScoreColumn(self._rollouts)
            self._columns[name].record(position, value)

    def averages(self, is_included: bytes) -> dict[str, float]:
        """The mean of each score over the positions that have it; `reward` and `accuracy` come first.

        Args:
            is_included: for every position, 1 or 0.
        """
        return {name: total / count for name, (total, count) in self.sums(is_included).items()}

    def averages_by_agent(self, is_included: bytes) -> dict[str, dict[str, float]]:
        """The means of each agent's scores; agents are in the order of their first position."""
        if self._agent_at is None:
            return {agent: self.averages(is_included) for agent in self._agents if any(is_included)}
        agents, agent_at = list(self._agents), self._agent_at
        numbers = dict.fromkeys(compress(agent_at, is_included))
        return {agents[number]: self.averages(_of_agent(number, agent_at, is_included)) for number in numbers}

    def sums(self, is_included: bytes) -> Sums:
        """The sum of each score over the positions that have it, and the number of those positions."""
        sums = {}
        for name in self.names:
            # Added one by one: `math.fsum` is more accurate, but its result differs from jq's in the last digit.
            total, count = 0.0, 0
            for value in self._columns[name].values(is_included):
                total += value
                count += 1
            if count:
                sums[name] = total, count
        return sums

    def _record_agent(self, position: int, agent: str) -> None:
        if agent not in self._agents:
            self._agents[agent] = len(self._agents)
            self._names_of[agent] = set()
            if len(self._agents) == 2:
                # All rollouts so far are the first agent's, whose number is 0.
                self._agent_at = array("i", [0]) * self._rollouts
        if self._agent_at is not None:
            self._agent_at[position] = self._agents[agent]


def _of_agent(number: int, agent_at: array[int], is_included: bytes) -> bytes:
    """Of the included positions, those of one agent."""
    return bytes(map(and_, map(number.__eq__, agent_at), is_included))


def reward_first(names: Iterable[str]) -> list[str]:
    """`reward` and `accuracy` before the others, which keep their order."""
    ordered = list(names)
    first = [name for name in _LISTED_FIRST if name in ordered]
    return first + [name for name in ordered if name not in _LISTED_FIRST]


def _fits_byte(value: float) -> bool:
    return _ABSENT_BYTE < value < -_ABSENT_BYTE and value == int(value)
