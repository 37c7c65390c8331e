"""Finds the task of a rollout in a file of tasks, or of planned rows as NeMo Gym's collector writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ng_rollouts.errors import InputError
from ng_rollouts.inputs.materialized_task import flat_row, is_materialized
from ng_rollouts.jsonl import loads
from ng_rollouts.types import Json, RolloutKey

_KEYS = ("_ng_task_index", "_ng_rollout_index")


@dataclass(slots=True)
class PlannedRows:
    """The rows of a file by task. Only the last row is kept, so rollouts should be asked for in order.

    Attributes:
        path: the file; None without one.
    """

    path: Path | None = None
    # The offset of the row of each task.
    _offsets: dict[int, int] = field(default_factory=dict)
    _last: tuple[int, Json] = (-1, {})

    def __post_init__(self) -> None:
        """Find the tasks.

        Raises:
            InputError: the file cannot be read, or a line is not an object.
        """
        if self.path is None:
            return
        offset = 0
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file):
                    if line.strip():
                        index = _parsed(self.path, number + 1, line).get("_ng_task_index")
                        # A file of tasks has one line for each.
                        self._offsets.setdefault(index if isinstance(index, int) else len(self._offsets), offset)
                    offset += len(line)
        except OSError as error:
            raise InputError(f"tasks_jsonl_fpath {self.path} cannot be read: {error.strerror}") from error

    def of(self, key: RolloutKey) -> Json:
        """The fields of a rollout's task, without its key; empty if it is not in the file."""
        if self.path is None or key.task_index not in self._offsets:
            return {}
        if self._last[0] != key.task_index:
            with self.path.open("rb") as file:
                file.seek(self._offsets[key.task_index])
                row = _parsed(self.path, 0, file.readline())
            if is_materialized(row):
                row = flat_row(row)
            self._last = key.task_index, {name: value for name, value in row.items() if name not in _KEYS}
        return self._last[1]


def _parsed(path: Path, number: int, line: bytes) -> Json:
    try:
        row = loads(line)
    except ValueError as error:
        raise InputError(f"tasks_jsonl_fpath {path}, line {number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"tasks_jsonl_fpath {path}, line {number}: not an object")
    return row
