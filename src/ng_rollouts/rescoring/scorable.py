"""The parts of a rollout's row that a verifier reads and writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ng_rollouts.inputs.exported_task import TASK_FIELDS
from ng_rollouts.types import TRANSIENT, Json

FAILURE = f"{TRANSIENT}failure"
"""The field of a row from the failures file that says how the rollout failed. It is in no output."""

GROUP = f"{TRANSIENT}group"
"""The field with the responses of all rollouts of the task, in order. It is in no output."""

PLACE = f"{TRANSIENT}place"
"""The field with the place of the rollout among those."""

SELECTED = f"{TRANSIENT}selected"
"""The field that says whether the whole group of a rollout is scored."""

INTERNAL = (FAILURE, GROUP, PLACE, SELECTED)

PREVIOUS_REWARD = "previous_reward"

RESCORED = "_ng_rescored"
"""The field that marks a row which was scored again."""

VERDICT_FIELDS = (
    "reward",
    "accuracy",
    "extracted_answer",
    "normalized_answer",
    "judgement",
    "judge_votes",
    "judge_agreement",
    "invalid_judge_response",
    "group_rank",
    "group_wins",
    "schema_error",
    "verdicts",
    "_ng_scoring",
)
"""Fields that verifiers write. Those of the previous verifier are removed: they say nothing about the new score."""


def response_of(row: Json) -> Json | None:
    """The response in a row; None if it has none."""
    response = row.get("response")
    return response if isinstance(response, dict) and response else None


def task_of(row: Json) -> Json:
    """The row of the task as its verifier got it when it was collected: with the task's own fields at the top level."""
    own = row.get(TASK_FIELDS)
    return {**row, **own} if isinstance(own, dict) else row


def without_verdict(row: Json, keep: str | None = None) -> Json:
    """A row without the fields of its previous verifier, unless the task has a field of the same name.

    Args:
        keep: a field that stays.
    """
    own = row.get(TASK_FIELDS)
    kept = own if isinstance(own, dict) else {}
    verdicts = row.get("verdicts")
    of_each = [f"{name}_reward" for name in verdicts] if isinstance(verdicts, dict) else []
    removed = {*VERDICT_FIELDS, *INTERNAL, *of_each} - kept.keys() - {keep}
    return {name: value for name, value in row.items() if name not in removed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Chooses the rollouts that are scored; the others are copied.

    Attributes:
        only: `all`, `unscored` or `failed`.
        where: values that a row must have, by dotted name of the field.
    """

    only: str = "all"
    where: Mapping[str, Any] = field(default_factory=dict)

    def has(self, row: Json) -> bool:
        """True if a row is to be scored."""
        if SELECTED in row:
            return bool(row[SELECTED])
        if self.only == "failed" and FAILURE not in row:
            return False
        if self.only == "unscored" and FAILURE not in row and row.get("reward") is not None:
            return False
        task = task_of(row)
        return all(value_at(task, name) == wanted for name, wanted in paths_in(self.where))


def paths_in(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested objects by dotted name."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from paths_in(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def value_at(row: Json, name: str) -> Any:
    """The value at a dotted name; None if there is none."""
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
