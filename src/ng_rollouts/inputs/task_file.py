"""Input JSONL to tasks to rollouts: lazily, all rollouts of a task before those of the next (aabbcc order).

The first pass checks every row and makes the plan. The second yields rollouts as they are requested. Neither holds more
than one row in memory. `Plan` takes constant memory, unless rows differ in repeats or have their own task index.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from array import array
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from ng_rollouts.errors import InputChanged, InputError
from ng_rollouts.inputs.bad_lines import bad_lines_message
from ng_rollouts.inputs.dispatch_order import LongestFirst
from ng_rollouts.inputs.lines import numbered_lines
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.routes import NO_AGENT
from ng_rollouts.inputs.shards import Shard
from ng_rollouts.inputs.task_parser import Task, TaskParser
from ng_rollouts.jsonl import has_long_integer, loads
from ng_rollouts.types import Json, Rollout, RolloutKey

_BUFFER_BYTES = 1 << 17

_CHECK_EVERY_S = 0.5
"""How often the input is checked for changes. A system call for every row would cost more than parsing it."""

_INDEX_FIELD = b'"_ng_task_index"'
_PROMPT_ID_FIELDS = ("prompt_id", "id", "task_id", "uuid")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFile:
    """The input: a file of tasks, and the parser of its rows.

    Attributes:
        limit: number of rows to read; None for all.
        display_name: the input as the user named it, if `path` is a temporary copy.
        shard: the part of the tasks to use; None for all.
    """

    path: Path
    parser: TaskParser
    limit: int | None = None
    display_name: str = ""
    shard: Shard | None = None

    @property
    def name(self) -> str:
        """The name of the input for messages."""
        return self.display_name or str(self.path)

    def plan(self, first_rows: int | None = None) -> Plan:
        """Check every row, and count the rollouts to collect.

        Args:
            first_rows: also compute the digest of this many first rows, to compare a grown input with a manifest.

        Raises:
            InputError: the file is missing or empty, or has bad lines; the message lists all of them.
        """
        plan = Plan(first_index=self.shard.index, stride=self.shard.count) if self.shard else Plan()
        bad: list[tuple[int, str]] = []
        have_index = 0
        digest = _new_digest()
        with self._open() as file:
            plan.input_state = _state(os.fstat(file.fileno()))
        for number, line in self._lines():
            # The digest covers the rows of all shards, so that a merge can tell whether shards belong together.
            digest.update(line + b"\n")
            plan.input_rows += 1
            if plan.input_rows == first_rows:
                plan.first_digest = digest.hexdigest()
            if self.shard is not None and not _is_in_shard(self.shard, plan.input_rows - 1, line):
                continue
            has_long = has_long_integer(line)
            plan.has_long_integers |= has_long
            try:
                task = self.parser.parse(line, has_long=has_long)
            except InputError as error:
                bad.append((number, str(error)))
                continue
            have_index += task.own_index is not None
            plan.add(task, plan.input_rows - 1)
            plan.rows_with_equal_repeats += task.route.repeats > 1 and self.parser.is_deterministic(task)
        plan.digest = digest.hexdigest()
        # Indices can collide only if some rows have their own and others do not.
        if not bad and 0 < have_index < plan.rows:
            bad = list(self._index_collisions())
        # The command lacks a parameter, so a list of lines would mislead.
        if not plan.rows and {reason for _, reason in bad} == {NO_AGENT}:
            raise InputError(NO_AGENT)
        if bad:
            raise InputError(*bad_lines_message(self.name, bad))
        if not plan.input_rows:
            raise InputError(f"input_jsonl_fpath {self.name} has no rows: put one JSON object on each line")
        return plan

    def check(self, check: Callable[[Task], None]) -> None:
        """Call a function with every task.

        Raises:
            InputError: `check` raised one for some tasks; the message lists all of them.
        """
        bad = []
        for number, line in self._shard_lines():
            try:
                check(self._parse_again(number, line))
            except InputError as error:
                bad.append((number, str(error)))
        if bad:
            raise InputError(*bad_lines_message(self.name, bad))

    def rollouts(self, plan: Plan, positions: AbstractSet[int] | None = None) -> Iterator[Rollout]:
        """Every planned rollout, in the order of the finished output; with `positions`, only those at these.

        Raises:
            InputChanged: the file changed since it was checked.
        """
        return self._rollouts(plan, positions=positions)

    def interleaved_rollouts(self, plan: Plan) -> Iterator[Rollout]:
        """Every planned rollout: the first ones of all tasks, then the second ones, and so on.

        Reads the input once for each repeat, so that memory does not grow with it.

        Raises:
            InputChanged: the file changed since it was checked.
        """
        for rollout_index in range(plan.most_repeats):
            yield from self._rollouts(plan, rollout_index)

    def _rollouts(
        self, plan: Plan, only: int | None = None, positions: AbstractSet[int] | None = None
    ) -> Iterator[Rollout]:
        """The planned rollouts; with `only`, those that have this rollout index; with `positions`, those at these."""
        has_long = None if plan.has_long_integers else False
        end = 0
        rows = zip(self._shard_lines(plan), plan.spans(), plan.first_rollouts(), strict=False)
        for (number, line), (task_index, start, count), first in rows:
            end = start + count
            if only is not None and not first <= only < first + count:
                continue
            # Before the row is parsed, which takes 20 times as long as to read it.
            if positions is not None and positions.isdisjoint(range(start, end)):
                continue
            task = self._planned_task(number, line, count, has_long=has_long)
            for rollout in self._rollouts_of(task, task_index, start, first):
                if only not in (None, rollout.key.rollout_index):
                    continue
                if positions is None or rollout.position in positions:
                    yield rollout
        if end != plan.rollouts:
            raise self._changed()

    def _planned_task(self, number: int, line: bytes, count: int, *, has_long: bool | None) -> Task:
        task = self._parse_again(number, line, has_long=has_long)
        if task.route.repeats != count:
            raise self._changed(f", line {number}")
        return task

    def _rollouts_of(self, task: Task, task_index: int, start: int, first: int) -> Iterator[Rollout]:
        """The rollouts of a row, of which the first one has the position `start` and the rollout index `first`."""
        prompt_id, seed = _prompt_id(task.row, task_index), self._seed(task.row)
        run_start = first
        for agent, repeats in task.route.runs:
            for rollout_index in range(run_start, run_start + repeats):
                yield Rollout(
                    position=start + rollout_index - first,
                    key=RolloutKey(task_index, rollout_index),
                    agent=agent,
                    prompt_id=prompt_id,
                    row=task.row,
                    seed=None if seed is None else seed + rollout_index,
                    is_episode=task.is_episode,
                )
            run_start += repeats

    def longest_first(self, plan: Plan, estimate: Callable[[int, bytes], float | None]) -> LongestFirst:
        """The rows of a plan by falling estimate.

        Args:
            estimate: of a row, from its number in the plan and its line.

        Raises:
            InputChanged: the file changed since it was checked.
        """
        order = LongestFirst()
        spans = plan.spans()
        with self._open() as file:
            for ordinal, (number, line) in enumerate(self._unchanged(file, plan, self._lines_of(file))):
                if self.shard is not None and not _is_in_shard(self.shard, ordinal, line):
                    continue
                _, start, count = next(spans)
                order.add(estimate(len(order), line))
                if order.begins_block(offset := file.tell()):
                    order.add_block(offset, number, ordinal + 1, start + count)
        return order

    def ordered_rollouts(self, plan: Plan, order: LongestFirst, only: int | None = None) -> Iterator[Rollout]:
        """Every planned rollout, tasks in an order; with `only`, those that have this rollout index.

        Raises:
            InputChanged: the file changed since it was checked.
        """
        has_long = None if plan.has_long_integers else False
        firsts = array("I", plan.first_rollouts()) if plan.is_renumbered_by_repeats else None
        with self._open() as file:
            for row in order.rows:
                number, line, start = self._row_at(file, plan, order, row)
                task_index, count = plan.row(row)
                task = self._planned_task(number, line, count, has_long=has_long)
                for rollout in self._rollouts_of(task, task_index, start, firsts[row] if firsts else 0):
                    if only is None or rollout.key.rollout_index == only:
                        yield rollout

    def _row_at(self, file: _CountingReader, plan: Plan, order: LongestFirst, row: int) -> tuple[int, bytes, int]:
        """The line number and the line of a row, and the position of its first rollout."""
        first, (offset, before, ordinal, start) = order.block(row)
        file.seek(offset)
        lines = self._unchanged(file, plan, numbered_lines(file, self.name), is_moved=True)
        in_shard = (
            (before + number, line)
            for place, (number, line) in enumerate(lines, ordinal)
            if self.shard is None or _is_in_shard(self.shard, place, line)
        )
        for number, line in islice(in_shard, row - first, None):
            return number, line, start + sum(plan.row(each)[1] for each in range(first, row))
        raise self._changed()

    def _index_collisions(self) -> Iterator[tuple[int, str]]:
        """Rows without an index whose position is the `_ng_task_index` of another row."""
        rows = [(number, self.parser.parse(line).own_index) for number, line in self._lines()]
        explicit = {index: number for number, index in rows if index is not None}
        for position, (number, index) in enumerate(rows):
            if index is None and position in explicit:
                message = f"its position, {position}, is also the _ng_task_index of line {explicit[position]}"
                yield number, f"{message}: set _ng_task_index in every row, or in none"

    def _parse_again(self, number: int, line: bytes, *, has_long: bool | None = None) -> Task:
        try:
            return self.parser.parse(line, has_long=has_long)
        except InputError as error:
            raise self._changed(f", line {number}: {error}") from error

    def _check_unchanged(self, plan: Plan) -> None:
        """Compare the rows of a file that was written again with those of the plan. A copy of the same rows will do.

        Raises:
            InputChanged: the rows are others.
        """
        digest = _new_digest()
        for _, line in islice(self._lines(), plan.input_rows):
            digest.update(line + b"\n")
        if digest.hexdigest() != plan.digest:
            raise self._changed()

    def _changed(self, detail: str = "") -> InputChanged:
        return InputChanged(
            f"input_jsonl_fpath {self.name} was changed while the run read it{detail}: the collected rollouts are of "
            "the file as it was; put that back and resume, or start a new run"
        )

    def _seed(self, row: Json) -> int | None:
        """With `num_repeats_add_seed`, the row's seed (or 0), to which each rollout adds its index."""
        return int(row["responses_create_params"].get("seed") or 0) if self.parser.add_seed else None

    def _shard_lines(self, plan: Plan | None = None) -> Iterator[tuple[int, bytes]]:
        """The lines of the shard; all lines without a shard. With a plan, only lines that it was made from."""
        lines = self._lines() if plan is None else self._planned_lines(plan)
        if self.shard is None:
            return lines
        return (pair for ordinal, pair in enumerate(lines) if _is_in_shard(self.shard, ordinal, pair[1]))

    def _planned_lines(self, plan: Plan) -> Iterator[tuple[int, bytes]]:
        """The lines of a plan. Each is read before the file's state is compared, so none of a changed file is used.

        Raises:
            InputChanged: the file has other rows.
        """
        with self._open() as file:
            yield from self._unchanged(file, plan, self._lines_of(file))

    def _unchanged(
        self, file: _CountingReader, plan: Plan, lines: Iterator[tuple[int, bytes]], *, is_moved: bool = False
    ) -> Iterator[tuple[int, bytes]]:
        """Lines of an open file, each after a check.

        Args:
            is_moved: whether the lines begin at an offset of the file as it was planned.

        Raises:
            InputChanged: the file has other rows; or, from an offset, another size.
        """
        checked, check_at = -1, 0.0
        for pair in islice(lines, plan.input_rows):
            # After each read from the file, so that no row of another state is used, and regularly, to stop early.
            # Of the open file, because one that was renamed or removed is still read as it was.
            if file.raw.reads != checked or time.monotonic() >= check_at:
                checked, check_at = file.raw.reads, time.monotonic() + _CHECK_EVERY_S
                if (state := _state(os.fstat(file.fileno()))) != plan.input_state:
                    if is_moved and plan.input_state and state[1] != plan.input_state[1]:
                        raise self._changed()
                    self._check_unchanged(plan)
                    plan.input_state = state
            yield pair

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with self._open() as file:
            yield from self._lines_of(file)

    def _lines_of(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """Up to `limit` lines with their numbers in the file, without blank lines."""
        return islice(numbered_lines(file, self.name), self.limit)

    @contextmanager
    def _open(self) -> Iterator[_CountingReader]:
        try:
            with _CountingReader(_CountingFile(self.path), _BUFFER_BYTES) as file:
                yield file
        except OSError as error:
            raise InputError(f"input_jsonl_fpath {self.name} cannot be read: {error.strerror}") from error


class _CountingFile(io.FileIO):
    """A file that counts how often it is read."""

    reads = 0

    def readinto(self, buffer: Any) -> int | None:
        self.reads += 1
        return super().readinto(buffer)


class _CountingReader(io.BufferedReader):
    """A buffered reader whose `raw` counts."""

    raw: _CountingFile


def _new_digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def _state(state: os.stat_result) -> tuple[int, ...]:
    """Inode, size and times in ns, which change when a file is written or replaced.

    A program can set the modification time back (utime(2)), but not the time of the last change of the inode.
    """
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _is_in_shard(shard: Shard, ordinal: int, line: bytes) -> bool:
    """Whether a row belongs to a shard, by its own task index or else by its position."""
    index = None
    if _INDEX_FIELD in line:  # a search of bytes is much faster than parsing the rows of all shards
        with suppress(ValueError):
            row = loads(line)
            index = row.get("_ng_task_index") if isinstance(row, dict) else None
    return shard.has(index if isinstance(index, int) else ordinal)


def _prompt_id(row: Json, task_index: int) -> str:
    own = row.get("task_id")
    holder = own if isinstance(own, dict) else row  # of a materialized row, its name within the task set
    for name in _PROMPT_ID_FIELDS:
        value = holder.get(name)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != "":
            return str(value)
    return str(task_index)
