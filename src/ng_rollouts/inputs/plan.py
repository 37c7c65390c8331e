"""The plan of a run: how many rollouts it collects, with which keys, in which groups.

A plan takes constant memory while all rows have the same number of repeats and their indices follow the input order.
Otherwise it takes 8 bytes per row for the repeats, and another 8 for the task indices.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, repeat

from ng_rollouts.inputs.routes import Route
from ng_rollouts.inputs.task_parser import Task
from ng_rollouts.types import RolloutKey


@dataclass(slots=True, kw_only=True)
class Plan:
    """The rollouts that a run collects, counted before the first request.

    Args:
        first_index, stride: row `i` of the plan has the task index `first_index + i * stride`, unless it has its own.

    Attributes:
        input_rows: number of rows in the input, after `limit`.
        rows: number of planned rows. With shards, those of this shard.
        rollouts: number of rollouts of the planned rows.
        has_long_integers: whether a planned row may have an integer beyond 64 bits.
        rows_with_equal_repeats: number of rows with more than one rollout and either temperature 0 or a fixed seed.
        digest: digest of all input rows, as they are in the input.
        input_state: inode, size and times of the last changes of the input file when it was checked.
        first_digest: digest of the number of first rows that `TaskFile.plan` was called with; None if there are fewer.
    """

    first_index: int = 0
    stride: int = 1
    input_rows: int = 0
    rows: int = 0
    rollouts: int = 0
    has_long_integers: bool = False
    rows_with_equal_repeats: int = 0
    digest: str = ""
    input_state: tuple[int, ...] | None = None
    first_digest: str | None = None
    # The number of rows by route.
    _routes: Counter[Route] = field(default_factory=Counter)
    # One number while all rows have the same repeats, then one per row.
    _repeats: int | array[int] = 0
    # None while all rows have the index that their position implies, then one per row.
    _indices: array[int] | None = None
    _indices_sorted: bool = True

    def add(self, task: Task, ordinal: int | None = None) -> None:
        """Append one task, in input order.

        Args:
            ordinal: position in the input, which is the task index of a row without one. The default is the next one.
        """
        repeats = task.route.repeats
        if repeats != self._repeats:
            self._add_repeats(repeats)
        implied = self.first_index + self.stride * self.rows
        index = ordinal if task.own_index is None else task.own_index
        if self._indices is not None or index not in (None, implied):
            self._add_index(implied if index is None else index)
        self.rows += 1
        self.rollouts += repeats
        self._routes[task.route] += 1

    @property
    def agents(self) -> Counter[str]:
        """The number of rows by agent name."""
        agents: Counter[str] = Counter()
        for route, rows in self._routes.items():
            for run in route.runs:
                agents[run.agent] += rows
        return agents

    @property
    def rerouted(self) -> int:
        """The number of rows that name another agent than the one that answers them."""
        return sum(rows for route, rows in self._routes.items() if route.is_rerouted)

    @property
    def is_fanned_out(self) -> bool:
        """Whether several agents answer a row."""
        return any(len(route.runs) > 1 for route in self._routes)

    @property
    def names(self) -> set[str]:
        """The agents and sources that rows name, if parameters route rows."""
        return {name for route in self._routes for name in route.names}

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """For each row in order: its task index, the position of its first rollout, and its number of rollouts."""
        return zip(self._task_indices(), accumulate(self._row_repeats(), initial=0), self._row_repeats(), strict=False)

    def first_rollouts(self) -> Iterator[int]:
        """The rollout index of the first rollout of each row, in order.

        Rows with the same task index share its group: the second continues to count where the first ended.
        """
        if self._indices is None:
            yield from repeat(0, self.rows)
            return
        next_rollout: Counter[int] = Counter()
        for task_index, _, repeats in self.spans():
            # Rows of one task are adjacent if the indices are sorted, so the counts of earlier tasks can be dropped.
            if self._indices_sorted and task_index not in next_rollout:
                next_rollout.clear()
            yield next_rollout[task_index]
            next_rollout[task_index] += repeats

    def rollout_keys(self) -> Iterator[RolloutKey]:
        """The key of every position, in order."""
        for first, (task_index, _, repeats) in zip(self.first_rollouts(), self.spans(), strict=True):
            for rollout_index in range(first, first + repeats):
                yield RolloutKey(task_index, rollout_index)

    def row(self, number: int) -> tuple[int, int]:
        """The task index of a row and its number of rollouts."""
        index = self.first_index + self.stride * number if self._indices is None else self._indices[number]
        return index, self._repeats if isinstance(self._repeats, int) else self._repeats[number]

    def has_task(self, task_index: int) -> bool:
        """True for the index of a planned task."""
        if self._indices is not None:
            return task_index in self._indices
        row, remainder = divmod(task_index - self.first_index, self.stride)
        return not remainder and 0 <= row < self.rows

    def row_locator(self) -> Callable[[int], int | None]:
        """A function that maps a task index to the number of its first row, or to None if it is not planned."""
        if self._indices is not None:
            return {index: row for row, index in reversed(list(enumerate(self._indices)))}.get

        def locate(task_index: int) -> int | None:
            row, remainder = divmod(task_index - self.first_index, self.stride)
            return row if not remainder and 0 <= row < self.rows else None

        return locate

    def locator(self) -> Callable[[RolloutKey], int | None]:
        """A function that maps a key to its position, or to None if the key is not planned."""
        if self._indices is None and isinstance(self._repeats, int):
            rows, repeats, first_index, stride = self.rows, self._repeats, self.first_index, self.stride

            def locate(key: RolloutKey) -> int | None:
                row, remainder = divmod(key.task_index - first_index, stride)
                planned = not remainder and 0 <= row < rows and 0 <= key.rollout_index < repeats
                return row * repeats + key.rollout_index if planned else None

            return locate
        return {key: position for position, key in enumerate(self.rollout_keys())}.get

    @property
    def most_repeats(self) -> int:
        """The largest number of rollouts of a task."""
        if self._indices is None:
            return self._repeats if isinstance(self._repeats, int) else max(self._repeats)
        return 1 + max((key.rollout_index for key in self.rollout_keys()), default=-1)

    @property
    def is_renumbered_by_repeats(self) -> bool:
        """Whether more repeats would renumber rollouts: several rows or several agents have the same task."""
        return self.is_fanned_out or (self._indices is not None and len(set(self._indices)) < self.rows)

    def group_size(self) -> Callable[[int], int]:
        """A function that maps a task index to the number of rollouts of that task."""
        if self._indices is None:
            repeats = self._repeats
            if isinstance(repeats, int):
                return lambda _: repeats
            return lambda task_index: repeats[(task_index - self.first_index) // self.stride]
        sizes: Counter[int] = Counter()
        for task_index, _, count in self.spans():
            sizes[task_index] += count
        return sizes.__getitem__

    def complete(self, done: bytes) -> bytes:
        """For every position in order: 1 if its group is complete, otherwise 0.

        Args:
            done: for every position, 1 if its rollout is collected, otherwise 0.
        """
        if self._indices is None and self._repeats == 1:
            return done
        complete, incomplete = bytearray(done), set[int]()
        if self._indices is not None:
            # Several rows can form one group. Otherwise every row is its own group, and needs no entry in the set.
            incomplete = {index for index, start, count in self.spans() if 0 in done[start : start + count]}
        for index, start, count in self.spans():
            if index in incomplete or 0 in done[start : start + count]:
                complete[start : start + count] = bytes(count)
        return bytes(complete)

    def _task_indices(self) -> Iterable[int]:
        if self._indices is not None:
            return self._indices
        return range(self.first_index, self.first_index + self.stride * self.rows, self.stride)

    def _row_repeats(self) -> Iterable[int]:
        return repeat(self._repeats, self.rows) if isinstance(self._repeats, int) else self._repeats

    def _add_repeats(self, repeats: int) -> None:
        if self.rows == 0:
            self._repeats = repeats
            return
        if isinstance(self._repeats, int):
            self._repeats = array("q", [self._repeats]) * self.rows
        self._repeats.append(repeats)

    def _add_index(self, index: int) -> None:
        if self._indices is None:
            self._indices = array("q", self._task_indices())
        if self._indices and index < self._indices[-1]:
            self._indices_sorted = False
        self._indices.append(index)
