"""Collected rollouts as the tasks of a run that scores them again, in the order of their keys.

The rows come from an output and from its side files: the rollouts of incomplete groups, and the failures. A failure
whose answer was kept can be scored. One without an answer fails again, so that the new output has its groups complete
or not at all.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby, islice
from pathlib import Path

from ng_rollouts.errors import InputChanged, InputError
from ng_rollouts.inputs.exported_task import TASK_FIELDS
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.routes import AgentRepeats, Route
from ng_rollouts.inputs.task_parser import Task
from ng_rollouts.outputs.failures import failure_class_of
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.outputs.reader import FileState, keyed_rows
from ng_rollouts.rescoring.planned_rows import PlannedRows
from ng_rollouts.rescoring.scorable import FAILURE, GROUP, INTERNAL, response_of
from ng_rollouts.types import Json, Rollout, RolloutKey, agent_of

_MAX_REASONS = 50
"""Different reasons in a message about rollouts that cannot be scored."""

_NOT_OF_THE_TASK = ("responses_create_params", "agent_ref")

_OF_FAILURES = ("failure_class", "status", "message", "terminal", "num_attempts", "attempts", "row", "elapsed_seconds")
"""Fields of a line of the failures file that say how the rollout failed."""


@dataclass(slots=True, kw_only=True)
class KeyedPlan(Plan):
    """A plan of rollouts that have their keys already: groups may have different sizes, and miss rollouts.

    It takes 8 bytes for each rollout, and 16 for each group.
    """

    by_agent: Counter[str] = field(default_factory=Counter)
    _rollout_indices: array[int] = field(default_factory=lambda: array("q"))

    def add_group(self, rollouts: list[tuple[RolloutKey, Json]]) -> None:
        """Append the rollouts of one task."""
        self._repeats = array("q") if isinstance(self._repeats, int) else self._repeats
        self._indices = array("q") if self._indices is None else self._indices
        self._repeats.append(len(rollouts))
        self._indices.append(rollouts[0][0].task_index)
        self._rollout_indices.extend(key.rollout_index for key, _ in rollouts)
        self.rows += 1
        self.input_rows += len(rollouts)
        self.rollouts += len(rollouts)
        self.by_agent.update(agent_of(row) for _, row in rollouts)

    @property
    def agents(self) -> Counter[str]:
        """The number of rollouts by agent name."""
        return self.by_agent

    def rollout_keys(self) -> Iterator[RolloutKey]:
        """The key of every position, in order."""
        indices = iter(self._rollout_indices)
        for task_index, _, count in self.spans():
            for _ in range(count):
                yield RolloutKey(task_index, next(indices))


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSource:
    """The rollouts of an output.

    Attributes:
        paths: the output and its side files.
        planned: the tasks, for rows that do not have all of their fields.
        with_groups: whether each rollout carries the responses of its whole group, for a verifier that compares them.
    """

    paths: OutputPaths
    planned: PlannedRows
    with_groups: bool = False

    def plan(self, first_rows: int | None = None) -> KeyedPlan:  # noqa: ARG002 - a rollouts file does not grow
        """Read all keys.

        Raises:
            InputError: a file cannot be read, has no rollouts, or a line that is not one.
        """
        plan = KeyedPlan()
        digest = hashlib.blake2b(digest_size=16)
        for path in self._files():
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        for _, group in self._groups():
            plan.add_group([(key, row) for key, row in group])
        if not plan.rollouts:
            raise InputError(f"rollouts_jsonl_fpath {self.paths.finished} has no rollouts")
        plan.digest = plan.first_digest = digest.hexdigest()
        plan.input_state = self._state()
        return plan

    def check(self, check: Callable[[Task], None]) -> None:
        """Call a function with the task of every rollout that has an answer.

        Raises:
            InputError: `check` raised one for some of them; the message has a line for each reason.
        """
        bad: dict[str, list[RolloutKey]] = {}
        for key, row in self._rows():
            if response_of(row) is None:
                continue
            try:
                check(Task(row=row, route=Route((AgentRepeats(agent_of(row), 1),)), own_index=key.task_index))
            except InputError as error:
                bad.setdefault(str(error), []).append(key)
        if bad:
            listed = [_reason_line(reason, keys) for reason, keys in islice(bad.items(), _MAX_REASONS)]
            raise InputError(f"rollouts_jsonl_fpath {self.paths.finished} cannot be scored:", *listed)

    def rollouts(self, plan: Plan) -> Iterator[Rollout]:
        """Every rollout, in the order of the keys.

        Raises:
            InputChanged: a file changed since it was read for the plan.
        """
        position = 0
        for _, group in self._groups():
            if plan.input_state != self._state():
                break
            shared = {GROUP: [response_of(row) for _, row in group]} if self.with_groups else {}
            for at, (key, row) in enumerate(group):
                yield Rollout(
                    position=position,
                    key=key,
                    agent=agent_of(row),
                    prompt_id=str(row.get("prompt_id", key.task_index)),
                    row={**row, **shared, **({f"{GROUP}_place": at} if shared else {})},
                )
                position += 1
        if position != plan.rollouts:
            raise InputChanged(f"rollouts_jsonl_fpath {self.paths.finished} was changed while it was scored")

    interleaved_rollouts = rollouts

    def _files(self) -> list[Path]:
        return [path for path in (self.paths.finished, self.paths.incomplete, self.paths.failures) if path.exists()]

    def _state(self) -> tuple[int, ...]:
        states = [FileState.of(path) for path in self._files()]
        return tuple(hash(state) for state in states)

    def _groups(self) -> Iterator[tuple[int, list[tuple[RolloutKey, Json]]]]:
        for task_index, rows in groupby(self._rows(), key=lambda pair: pair[0].task_index):
            yield task_index, list(rows)

    def _rows(self) -> Iterator[tuple[RolloutKey, Json]]:
        """The rows with all fields of their tasks, each key once: the row of the output before that of a side file."""
        streams = [self._rows_of(path, place) for place, path in enumerate(self._files())]
        previous = None
        for key, _, row in merge(*streams, key=lambda each: each[:2]):
            if key != previous:
                yield key, self._with_task(key, row)
            previous = key

    def _rows_of(self, path: Path, place: int) -> Iterator[tuple[RolloutKey, int, Json]]:
        for key, (_, _, row) in keyed_rows(path):
            yield key, place, _failure_row(row) if path == self.paths.failures else row

    def _with_task(self, key: RolloutKey, row: Json) -> Json:
        planned = self.planned.of(key)
        if not planned:
            return row
        params = row.get("responses_create_params") or planned.get("responses_create_params")
        # Not at the top level, where its numbers would be scores.
        own = row.get(TASK_FIELDS)
        fields = {
            name: value for name, value in planned.items() if name not in ("responses_create_params", "agent_ref")
        }
        fields |= own if isinstance(own, dict) else {}
        return {**row, "responses_create_params": params, TASK_FIELDS: fields}


def _reason_line(reason: str, keys: list[RolloutKey]) -> str:
    count = "1 rollout" if len(keys) == 1 else f"{len(keys)} rollouts"
    return f"  {count}, such as task {keys[0].task_index}, rollout {keys[0].rollout_index}: {reason}"


def _failure_row(line: Json) -> Json:
    """The row of a rollout whose verifier failed, as an output would have it; with `FAILURE`, how it failed."""
    task: Json = line["row"] if isinstance(line.get("row"), dict) else {}
    kept = {name: value for name, value in line.items() if name not in _OF_FAILURES and not name.startswith("_ng_fail")}
    own = {name: value for name, value in task.items() if name not in _NOT_OF_THE_TASK}
    if response_of(task):  # the rollout failed when it was scored again
        row = {name: value for name, value in {**task, **kept}.items() if name not in INTERNAL}
    else:
        row = {**own, "responses_create_params": task.get("responses_create_params", {}), **kept}
        row |= {TASK_FIELDS: own} if own else {}
    row[FAILURE] = {
        "failure_class": failure_class_of(line),
        "message": str(line.get("message") or line.get("_ng_failure_message") or "the rollout failed"),
        "status": line.get("status"),
        "terminal": bool(line.get("terminal")),
    }
    return row
