"""Input JSONL -> tasks -> rollouts, lazily, in aabbcc order.

One pass checks every row and makes the plan; a second one hands out rollouts as they are wanted. Neither holds
more than a row, and a plan costs nothing per row unless rows differ in repeats or bring their own task index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ng_rollouts.errors import InputError
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.shards import Shard
from ng_rollouts.inputs.task_parser import Task, TaskParser
from ng_rollouts.jsonl import loads
from ng_rollouts.types import Json, Rollout, RolloutKey

_REASONS_TOLD = 50
"""This many kinds of bad lines are told with their reason; the numbers of the others follow."""

_BRINGS_INDEX = b'"_ng_task_index"'
_PROMPT_ID_FIELDS = ("prompt_id", "id", "task_id", "uuid")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFile:
    """The input: a file of tasks and the recipe that reads it."""

    path: Path
    parser: TaskParser
    limit: int | None = None
    display_name: str = ""
    shard: Shard | None = None

    @property
    def name(self) -> str:
        """The input, as it was asked for."""
        return self.display_name or str(self.path)

    def plan(self, first_rows: int | None = None) -> Plan:
        """Check every row and count what is to be collected.

        Args:
            first_rows: have the digest of so many first rows too.

        Raises:
            InputError: the file is missing, empty, or has bad lines, all of which are named.
        """
        plan = Plan(first_index=self.shard.index, stride=self.shard.count) if self.shard else Plan()
        bad: list[tuple[int, str]] = []
        kinds = set()
        digest = hashlib.blake2b(digest_size=16)
        for number, line in self._lines():
            digest.update(line + b"\n")
            plan.input_rows += 1
            if plan.input_rows == first_rows:
                plan.first_digest = digest.hexdigest()
            if not self._has(plan.input_rows - 1, line):
                continue
            try:
                task = self.parser.parse(line)
            except InputError as error:
                bad.append((number, str(error)))
                continue
            kinds.add(task.index is None)
            plan.add(task, plan.input_rows - 1)
            plan.deterministic_repeats += task.repeats > 1 and self.parser.is_deterministic(task)
        plan.digest = digest.hexdigest()
        if not bad and len(kinds) == 2:
            bad = list(self._colliding_indices())
        if bad:
            raise InputError(_log_lines(self.name, bad))
        if not plan.input_rows:
            raise InputError(f"input_jsonl_fpath {self.name} has no rows: put one JSON object on each line")
        return plan

    def check(self, check: Callable[[Task], None]) -> None:
        """Have every task looked at.

        Raises:
            InputError: `check` refused some, all of which are named.
        """
        bad = []
        for number, line in self._own_lines():
            try:
                check(self._task_again(number, line))
            except InputError as error:
                bad.append((number, str(error)))
        if bad:
            raise InputError(_log_lines(self.name, bad))

    def rollouts(self, plan: Plan) -> Iterator[Rollout]:
        """Every planned rollout, in the finished order.

        Raises:
            InputError: the file changed since it was checked.
        """
        keys = plan.rollout_keys()
        position = 0
        for number, line in self._own_lines():
            task = self._task_again(number, line)
            for key in islice(keys, task.repeats):
                yield Rollout(
                    position=position,
                    key=key,
                    agent=task.agent,
                    prompt_id=_prompt_id(task.row, key),
                    row=task.row,
                    seed=self._seed(task.row, key),
                )
                position += 1
        if position != plan.rollouts:
            raise InputError(f"input_jsonl_fpath {self.name} changed while it was being read")

    def _colliding_indices(self) -> Iterator[tuple[int, str]]:
        """Rows that are given, by their position, a task index that another row brings."""
        rows = [(number, self.parser.parse(line).index) for number, line in self._lines()]
        brought = {index: number for number, index in rows if index is not None}
        for position, (number, index) in enumerate(rows):
            if index is None and position in brought:
                message = f"its task index is its position, {position}, which line {brought[position]} brings"
                yield number, f"{message}: give every row a _ng_task_index, or none"

    def _task_again(self, number: int, line: bytes) -> Task:
        try:
            return self.parser.parse(line)
        except InputError as error:
            message = f"input_jsonl_fpath {self.name} changed while it was being read: line {number}: {error}"
            raise InputError(message) from error

    def _seed(self, row: Json, key: RolloutKey) -> int | None:
        if not self.parser.add_seed:
            return None
        return int(row["responses_create_params"].get("seed") or 0) + key.rollout_index

    def _own_lines(self) -> Iterator[tuple[int, bytes]]:
        """Those of the shard, if there is one."""
        if self.shard is None:
            return self._lines()
        return (pair for ordinal, pair in enumerate(self._lines()) if self._has(ordinal, pair[1]))

    def _has(self, ordinal: int, line: bytes) -> bool:
        """Whether a row belongs to the shard, by the index that it brings, else by its place."""
        if self.shard is None:
            return True
        brought = None
        if _BRINGS_INDEX in line:
            with suppress(ValueError):
                row = loads(line)
                brought = row.get("_ng_task_index") if isinstance(row, dict) else None
        return self.shard.has(brought if isinstance(brought, int) else ordinal)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """The rows' lines with their physical numbers: no blank ones, no byte-order mark, `limit` heeded."""
        try:
            with self.path.open("rb") as file:
                numbered = enumerate(file, 1)
                stripped = ((number, (_unmarked(line) if number == 1 else line).strip()) for number, line in numbered)
                yield from islice((pair for pair in stripped if pair[1]), self.limit)
        except OSError as error:
            raise InputError(f"input_jsonl_fpath {self.name} cannot be read: {error.strerror}") from error


def _unmarked(line: bytes) -> bytes:
    return line.removeprefix(b"\xef\xbb\xbf")


def _prompt_id(row: Json, key: RolloutKey) -> str:
    for name in _PROMPT_ID_FIELDS:
        value = row.get(name)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != "":
            return str(value)
    return str(key.task_index)


def _log_lines(name: str, bad: list[tuple[int, str]]) -> str:
    by_reason: dict[str, list[int]] = {}
    for number, reason in bad:
        by_reason.setdefault(reason, []).append(number)
    told = [f"  {_numbered(numbers)}: {reason}" for reason, numbers in islice(by_reason.items(), _REASONS_TOLD)]
    rest = [number for numbers in islice(by_reason.values(), _REASONS_TOLD, None) for number in numbers]
    if rest:
        told.append(f"  and {len(rest)} more, for other reasons: {_numbered(sorted(rest))}")
    lines = "1 bad line" if len(bad) == 1 else f"{len(bad)} bad lines"
    return "\n".join([f"input_jsonl_fpath {name} has {lines}, so nothing was sent:", *told])


def _numbered(numbers: list[int]) -> str:
    return f"line{'s' if len(numbers) > 1 else ''} {_ranges(numbers)}"


def _ranges(numbers: list[int]) -> str:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
