"""What a run is to collect: counts, keys and groups, at no cost per row unless rows differ."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat

from ng_rollouts.inputs.task_parser import Task
from ng_rollouts.types import RolloutKey


@dataclass(slots=True, kw_only=True)
class Plan:
    """What a run is to collect, known before anything is sent.

    Args:
        first_index, stride: rows that bring no index have every stride-th, from the first on.

    Attributes:
        input_rows: of the input, after `limit`.
        rows: of them, those that are planned: of a shard, its own.
        rollouts: all of their rollouts.
        agents: rows by agent name.
        repeated_alike: rows with more than one rollout whose temperature is 0 or whose seed is fixed.
        digest: of all rows, as they are in the input.
        first_digest: of as many first rows as was asked for; None if there are fewer.
    """

    first_index: int = 0
    stride: int = 1
    input_rows: int = 0
    rows: int = 0
    rollouts: int = 0
    agents: Counter[str] = field(default_factory=Counter)
    deterministic_repeats: int = 0
    digest: str = ""
    first_digest: str | None = None
    _repeats: int | array[int] = 0
    _indices: array[int] | None = None
    _indices_sorted: bool = True

    def add(self, task: Task, ordinal: int | None = None) -> None:
        """Append one task, in input order.

        Args:
            ordinal: its place in the input, which is its index if it brings none; the next one unless told otherwise.
        """
        self._add_repeats(task.repeats)
        self._add_index(ordinal if task.index is None else task.index)
        self.rows += 1
        self.rollouts += task.repeats
        self.agents[task.agent] += 1

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """For each row in order: its task index, the position of its first rollout, and how many it has."""
        start = 0
        for row in range(self.rows):
            repeats = self._repeats if isinstance(self._repeats, int) else self._repeats[row]
            yield self._implied(row) if self._indices is None else self._indices[row], start, repeats
            start += repeats

    def rollout_keys(self) -> Iterator[RolloutKey]:
        """The key of every position, in order."""
        taken: Counter[int] = Counter()
        for task_index, _, repeats in self.spans():
            if self._indices_sorted and task_index not in taken:
                taken.clear()
            first = taken[task_index]
            taken[task_index] += repeats
            for rollout_index in range(first, first + repeats):
                yield RolloutKey(task_index, rollout_index)

    def locator(self) -> Callable[[RolloutKey], int | None]:
        """Finds the position of a key; None for a key that is not planned."""
        if self._indices is None and isinstance(self._repeats, int):
            rows, repeats, first_index, stride = self.rows, self._repeats, self.first_index, self.stride

            def by_arithmetic(key: RolloutKey) -> int | None:
                row, beside = divmod(key.task_index - first_index, stride)
                planned = not beside and 0 <= row < rows and 0 <= key.rollout_index < repeats
                return row * repeats + key.rollout_index if planned else None

            return by_arithmetic
        return {key: position for position, key in enumerate(self.rollout_keys())}.get

    @property
    def tasks_share_rows(self) -> bool:
        """Whether rows may share a task, so that more repeats would renumber rollouts."""
        return self._indices is not None and len(set(self._indices)) < self.rows

    def group_size(self) -> Callable[[int], int]:
        """How many rollouts a task has, by its index."""
        if self._indices is None:
            repeats = self._repeats
            if isinstance(repeats, int):
                return lambda _: repeats
            return lambda task_index: repeats[(task_index - self.first_index) // self.stride]
        sizes: Counter[int] = Counter()
        for task_index, _, count in self.spans():
            sizes[task_index] += count
        return sizes.__getitem__

    def complete(self, done: Callable[[int], bool]) -> Iterator[bool]:
        """For every position in order, whether all rollouts of its group are done."""
        spans = ((task_index, range(start, start + count)) for task_index, start, count in self.spans())
        if self._indices is None:
            for _, span in spans:
                yield from repeat(all(map(done, span)), len(span))
            return
        missing = {task_index for task_index, span in spans if not all(map(done, span))}
        for task_index, _, count in self.spans():
            yield from repeat(task_index not in missing, count)

    def _implied(self, row: int) -> int:
        return self.first_index + self.stride * row

    def _add_repeats(self, repeats: int) -> None:
        if self.rows == 0:
            self._repeats = repeats
        elif isinstance(self._repeats, int):
            if repeats == self._repeats:
                return
            self._repeats = array("q", [self._repeats]) * self.rows
            self._repeats.append(repeats)
        else:
            self._repeats.append(repeats)

    def _add_index(self, brought: int | None) -> None:
        implied = self._implied(self.rows)
        index = implied if brought is None else brought
        if self._indices is None:
            if index == implied:
                return
            self._indices = array("q", map(self._implied, range(self.rows)))
        if self._indices and index < self._indices[-1]:
            self._indices_sorted = False
        self._indices.append(index)
