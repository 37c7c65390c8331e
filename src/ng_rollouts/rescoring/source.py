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
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby, islice
from pathlib import Path

from ng_rollouts.console import counted, log
from ng_rollouts.errors import InputChanged, InputError
from ng_rollouts.inputs.exported_task import TASK_FIELDS
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.routes import AgentRepeats, Route
from ng_rollouts.inputs.task_parser import Task
from ng_rollouts.metrics.agreement import label_of
from ng_rollouts.outputs.failures import FailuresFile, failure_class_of
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.outputs.reader import FileState, Scan, keyed_rows, scan
from ng_rollouts.rescoring.planned_rows import PlannedRows
from ng_rollouts.rescoring.scorable import (
    FAILURE,
    GROUP,
    INTERNAL,
    PLACE,
    SELECTED,
    VERDICT_FIELDS,
    Selection,
    paths_in,
    response_of,
    task_of,
    value_at,
)
from ng_rollouts.types import Json, Rollout, RolloutKey, agent_of

_MAX_REASONS = 50
"""Different reasons in a message about rollouts that cannot be scored."""

_NOT_OF_THE_TASK = ("responses_create_params", "agent_ref")

_OF_FAILURES = ("failure_class", "status", "message", "terminal", "num_attempts", "attempts", "row", "elapsed_seconds")
"""Fields of a line of the failures file that say how the rollout failed."""


_Group = list[tuple[RolloutKey, Json]]


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


@dataclass(slots=True, kw_only=True)
class RolloutSource:
    """The rollouts of an output.

    Attributes:
        paths: the output and its side files.
        planned: the tasks, for rows that do not have all of their fields.
        selection: the rollouts that are scored.
        with_groups: whether each rollout carries the responses of its whole group, for a verifier that compares them.
            A group is scored if one of its rollouts is selected.
        label_field: the field with labels, which have to be readable.
    """

    paths: OutputPaths
    planned: PlannedRows
    selection: Selection = field(default_factory=Selection)
    with_groups: bool = False
    label_field: str | None = None
    _files: tuple[Path, ...] = field(init=False)
    _scans: dict[Path, Scan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        paths = self.paths
        self._files = tuple(path for path in (paths.finished, paths.incomplete, paths.failures) if path.exists())

    def plan(self, first_rows: int | None = None) -> KeyedPlan:  # noqa: ARG002 - a rollouts file does not grow
        """Read all keys.

        Raises:
            InputError: a file cannot be read, has no rollouts, or a line that is not one.
        """
        plan = KeyedPlan(input_state=self._state())
        digest = hashlib.blake2b(digest_size=16)
        for path in self._read_files():
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        for group in self._groups():
            plan.add_group(group)
        if not plan.rollouts:
            raise InputError(f"rollouts_jsonl_fpath {self.paths.finished} has no rollouts")
        plan.digest = plan.first_digest = digest.hexdigest()
        return plan

    def check(self, check: Callable[[Task], None]) -> None:
        """Read the label of every rollout, and call a function with its task.

        Raises:
            InputError: for some of them there was one; the message has a line for each reason. Or none has a label.
        """
        bad: dict[str, list[RolloutKey]] = {}
        labels = rows = selected = answers = 0
        for key, row in self._selected_rows():
            rows += 1
            answers += response_of(row) is not None
            selected += self.selection.has(row)
            try:
                labels += self._label(row) is not None
                check(Task(row=row, route=Route((AgentRepeats(agent_of(row), 1),)), own_index=key.task_index))
            except InputError as error:
                bad.setdefault(str(error), []).append(key)
        if bad:
            listed = [_reason_line(reason, keys) for reason, keys in islice(bad.items(), _MAX_REASONS)]
            raise InputError(f"rollouts_jsonl_fpath {self.paths.finished} cannot be scored:", *listed)
        if not answers:
            raise InputError(f"rollouts_jsonl_fpath {self.paths.finished}: no row has a response to score")
        if self.label_field and not labels:
            raise InputError(f"agreement_with={self.label_field}: no rollout has a label in this field")
        if self.selection.where and not selected:
            wanted = ", ".join(f"{name}={value!r}" for name, value in paths_in(self.selection.where))
            raise InputError(f"where: no rollout has {wanted} (a text that looks like a number needs quotes: '\"13\"')")
        if selected < rows:
            log(f"scoring {selected} of {counted(rows, 'rollout')}, copying {rows - selected}")

    def rollouts(self, plan: Plan, positions: AbstractSet[int] | None = None) -> Iterator[Rollout]:
        """Every rollout, in the order of the keys; with `positions`, only those at these.

        Raises:
            InputChanged: a file changed since it was read for the plan.
        """
        position = 0
        groups = self._selected_groups()
        while plan.input_state == self._state() and (group := self._next(groups)):
            responses = {GROUP: [response_of(row) for _, row in group]} if self.with_groups else {}
            for at, (key, row) in enumerate(group):
                if positions is None or position in positions:
                    yield Rollout(
                        position=position,
                        key=key,
                        agent=agent_of(row),
                        prompt_id=str(row.get("prompt_id", key.task_index)),
                        row={**row, **responses, PLACE: at} if responses else row,
                    )
                position += 1
        if position != plan.rollouts:
            raise self._changed()

    def _read_files(self) -> tuple[Path, ...]:
        return (*self._files, *((self.planned.path,) if self.planned.path else ()))

    def _state(self) -> tuple[int, ...]:
        return tuple(map(_state_of, self._read_files()))

    def _label(self, row: Json) -> float | None:
        field = self.label_field
        return label_of(value_at(task_of(row), field), field) if field else None

    def _groups(self) -> Iterator[_Group]:
        for _, rows in groupby(self._rows(), key=lambda pair: pair[0].task_index):
            yield list(rows)

    def _selected_groups(self) -> Iterator[_Group]:
        """The groups; if they are scored as a whole, each row says whether its group is."""
        if not self.with_groups:
            yield from self._groups()
            return
        for group in self._groups():
            selected = {SELECTED: any(self.selection.has(row) for _, row in group)}
            yield [(key, {**row, **selected}) for key, row in group]

    def _selected_rows(self) -> Iterator[tuple[RolloutKey, Json]]:
        for group in self._selected_groups():
            yield from group

    def _next(self, groups: Iterator[_Group]) -> _Group | None:
        try:
            return next(groups, None)
        except InputError as error:  # all rows could be read for the plan
            raise self._changed() from error

    def _changed(self) -> InputChanged:
        return InputChanged(
            f"rollouts_jsonl_fpath {self.paths.finished}, or a file next to it, was changed while it was scored: "
            "put it back and resume, or start a new run"
        )

    def _rows(self) -> Iterator[tuple[RolloutKey, Json]]:
        """The rows with all fields of their tasks, each key once: the row of the output before that of a side file."""
        streams = [self._rows_of(path, place) for place, path in enumerate(self._files)]
        previous = None
        for key, _, row in merge(*streams, key=lambda each: each[:2]):
            if key != previous:
                yield key, self._with_task(key, row)
            previous = key

    def _rows_of(self, path: Path, place: int) -> Iterator[tuple[RolloutKey, int, Json]]:
        if path == self.paths.failures:
            for key, line in FailuresFile(path).rows_by_key():
                yield key, place, _failure_row(line)
            return
        if path not in self._scans:  # once, because each pass would read the file once more
            self._scans[path] = scan(path)
        for key, (_, _, row) in keyed_rows(path, self._scans[path]):
            yield key, place, row

    def _with_task(self, key: RolloutKey, row: Json) -> Json:
        planned = self.planned.of(key)
        if not planned:
            return row
        params = row.get("responses_create_params") or planned.get("responses_create_params")
        # Not at the top level, where its numbers would be scores.
        own = row.get(TASK_FIELDS)
        fields = {name: value for name, value in planned.items() if name not in _NOT_OF_THE_TASK}
        fields |= own if isinstance(own, dict) else {}
        return {**row, "responses_create_params": params, TASK_FIELDS: fields}


def _state_of(path: Path) -> int:
    try:
        return hash(FileState.of(path))
    except FileNotFoundError:
        return 0


def _reason_line(reason: str, keys: list[RolloutKey]) -> str:
    first, rollouts = keys[0], counted(len(keys), "rollout")
    return f"  {rollouts}, such as task {first.task_index}, rollout {first.rollout_index}: {reason}"


def _failure_row(line: Json) -> Json:
    """The row of a rollout whose verifier failed, as an output would have it; with `FAILURE`, how it failed."""
    task: Json = line["row"] if isinstance(line.get("row"), dict) else {}
    # NeMo Gym's lines have a reward of 0, which no verifier gave.
    kept = {
        name: value
        for name, value in line.items()
        if name not in (*_OF_FAILURES, *VERDICT_FIELDS) and not name.startswith("_ng_fail")
    }
    own = {name: value for name, value in task.items() if name not in _NOT_OF_THE_TASK}
    # A task has no rollout index: the row is that of a rollout which failed when it was scored again.
    if "_ng_rollout_index" in task or response_of(task):
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
