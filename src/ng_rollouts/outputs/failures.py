"""The failures file: a line for each rollout whose last attempt failed."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ng_rollouts.errors import StorageError
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.redaction import redact
from ng_rollouts.storage.atomic import replacing
from ng_rollouts.storage.line_index import write_all
from ng_rollouts.types import Attempt, Failure, Json, RolloutKey, agent_of, key_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorFailure:
    """A failure that a failures file tells of."""

    attempts: int
    terminal: bool
    failure_class: str
    agent: str


class FailuresFile:
    """Appends failures; there is no file before the first.

    Attributes:
        by_class, by_agent: rollouts that stand as failed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_class: Counter[str] = Counter()
        self.by_agent: Counter[str] = Counter()

    def append(self, failure: Failure, earlier_attempts: int = 0) -> None:
        """Write one failure down, unless its agent asked not to, and count it.

        Args:
            earlier_attempts: attempts of earlier sessions, to be counted with this one's.

        Raises:
            StorageError: it could not be written.
        """
        if failure.persist:
            self._write(failure_row(failure, earlier_attempts))
        self.count(failure.attempts[-1].failure_class, failure.rollout.agent)

    def count(self, failure_class: str, agent: str) -> None:
        """Count a rollout that stands as failed."""
        self.by_class[failure_class] += 1
        self.by_agent[agent] += 1

    def _write(self, row: Json) -> None:
        try:
            with self.path.open("ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                line = dumps(row) + b"\n"
                try:
                    write_all(file.fileno(), line)
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {error.strerror}") from error

    def read_back(self) -> dict[RolloutKey, PriorFailure]:
        """What earlier sessions left, by key; of several lines for one rollout the last counts."""
        return dict(_earlier(row) for row in self._rows() if key_of(row) is not None)

    def settle(self, collected: Callable[[RolloutKey], bool]) -> None:
        """Take out what has since succeeded, and all but the last line of each rollout.

        Raises:
            StorageError: the file could not be written; it is as it was.
        """
        last = {key: number for number, row in enumerate(self._rows()) if (key := key_of(row)) is not None}
        keep = {number for key, number in last.items() if not collected(key)}
        if not self.path.exists():
            return
        try:
            if not keep:
                self.path.unlink()
                return
            with replacing(self.path) as temporary, temporary.open("wb") as file:
                file.writelines(dumps(row) + b"\n" for number, row in enumerate(self._rows()) if number in keep)
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {error.strerror}") from error

    def _rows(self) -> Iterator[Json]:
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    row = loads(line)
                    if isinstance(row, dict):
                        yield row


def failure_row(failure: Failure, earlier_attempts: int = 0) -> Json:
    """What is told of a failure: its key, its agent, what ended it, all its attempts, and the input row."""
    rollout, last = failure.rollout, failure.attempts[-1]
    return {
        "_ng_task_index": rollout.key.task_index,
        "_ng_rollout_index": rollout.key.rollout_index,
        "agent_ref": {"name": rollout.agent},
        "failure_class": last.failure_class,
        "status": last.status,
        "message": redact(last.message),
        "terminal": failure.terminal,
        "num_attempts": earlier_attempts + len(failure.attempts),
        "attempts": [_attempt(attempt) for attempt in failure.attempts],
        "row": rollout.row,
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "failure_class": attempt.failure_class,
        "status": attempt.status,
        "began": datetime.fromtimestamp(attempt.began, UTC).isoformat(timespec="milliseconds"),
        "seconds": round(attempt.seconds, 3),
    }


def _earlier(row: Json) -> tuple[RolloutKey, PriorFailure]:
    attempts = row.get("num_attempts", row.get("_ng_attempt_index"))
    failure = PriorFailure(
        attempts=attempts if isinstance(attempts, int) else 1,
        terminal=bool(row.get("terminal") or row.get("_ng_failure_terminal")),
        failure_class=str(row.get("failure_class") or row.get("_ng_failure_class") or "unknown"),
        agent=agent_of(row),
    )
    return RolloutKey(row["_ng_task_index"], row["_ng_rollout_index"]), failure
