"""The failures file: a line for each rollout whose last attempt failed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ng_rollouts.errors import StorageError
from ng_rollouts.jsonlines import dumps
from ng_rollouts.records import Attempt, Failure, Json


class FailuresFile:
    """Appends failures; there is no file before the first.

    Attributes:
        by_class: failures of this run, counted by class.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_class: Counter[str] = Counter()

    def append(self, failure: Failure) -> None:
        """Write one failure.

        Raises:
            StorageError: it could not be written.
        """
        try:
            with self.path.open("ab", buffering=0) as file:
                file.write(dumps(failure_row(failure)) + b"\n")
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {error.strerror}") from error
        self.by_class[failure.attempts[-1].failure_class] += 1


def failure_row(failure: Failure) -> Json:
    """What is told of a failure: its key, its agent, what ended it, all its attempts, and the input row."""
    rollout, last = failure.rollout, failure.attempts[-1]
    return {
        "_ng_task_index": rollout.key.task_index,
        "_ng_rollout_index": rollout.key.rollout_index,
        "agent_ref": {"name": rollout.agent},
        "failure_class": last.failure_class,
        "status": last.status,
        "message": last.message,
        "num_attempts": len(failure.attempts),
        "attempts": [_attempt(attempt) for attempt in failure.attempts],
        "row": rollout.row,
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {"failure_class": attempt.failure_class, "status": attempt.status, "seconds": round(attempt.seconds, 3)}
