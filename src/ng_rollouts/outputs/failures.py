"""The failures file: one line for each rollout whose last attempt failed.

It is opened for each failure, because failures are rare and a file should exist only if there is one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from ng_rollouts.errors import StorageError
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.redaction import mask_values, redact
from ng_rollouts.storage.atomic import replacing
from ng_rollouts.storage.line_index import write_all
from ng_rollouts.types import ANSWER_FIELDS, TRANSIENT, Attempt, Failure, Json, RolloutKey, agent_of, key_of

_MAX_NEMO_GYM_ATTEMPTS = 3
"""Attempts of NeMo Gym's collector at a rollout, over all its commands (NEMO_GYM_MAX_ROLLOUT_ATTEMPTS)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorFailure:
    """A failure in an existing failures file.

    Attributes:
        attempts: number of attempts in all commands so far.
        terminal: whether the agent said that no run should retry the rollout.
        failure_class: class of the last attempt.
        agent: name of the agent.
        is_exhausted: whether NeMo Gym's collector made all attempts that it allows.
        elapsed_s: duration of the last attempt, if it is known.
        has_answer: whether a line has an answer that was not scored.
    """

    attempts: int
    terminal: bool
    failure_class: str
    agent: str
    is_exhausted: bool = False
    elapsed_s: float | None = None
    has_answer: bool = False


class FailuresFile:
    """Appends failures to a file, which is created by the first.

    Attributes:
        by_class, by_agent: number of failed rollouts by failure class, and by agent.
        examples: the message of the first failure of each class that this command wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_class: Counter[str] = Counter()
        self.by_agent: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._answers: dict[RolloutKey, int] = {}  # where the lines with an answer begin, as of the last `settle`

    def append(self, failure: Failure, earlier_attempts: int = 0) -> None:
        """Write a failure, unless its agent set `_ng_no_persist`, and count it.

        Args:
            earlier_attempts: number of attempts in earlier commands, which are added to those of this one.

        Raises:
            StorageError: the failure could not be written.
        """
        if failure.persist:
            self._write(failure_row(failure, earlier_attempts))
        last = failure.attempts[-1]
        self.examples.setdefault(last.failure_class, last.message)
        self.count(last.failure_class, failure.rollout.agent)

    def count(self, failure_class: str, agent: str, number: int = 1) -> None:
        """Count failed rollouts, or with a negative number no more; their lines stay until `settle`."""
        for counter, name in ((self.by_class, failure_class), (self.by_agent, agent)):
            counter[name] += number
            if not counter[name]:
                del counter[name]

    def _write(self, row: Json) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)  # it may have been removed during the run
            with open(self.path, "ab", buffering=0, opener=_open_without_links) as file:
                end = file.seek(0, os.SEEK_END)
                line = dumps(row) + b"\n"
                try:
                    write_all(file.fileno(), line)
                except OSError:
                    file.truncate(end)  # a full disk may have taken a part of the line
                    raise
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {error.strerror}") from error

    def read_back(self) -> dict[RolloutKey, PriorFailure]:
        """The failures of earlier commands, by key. Of several lines for one rollout, the last counts.

        NeMo Gym's collector writes a line for each attempt, so its lines are counted.
        """
        lines: Counter[RolloutKey] = Counter()
        failures: dict[RolloutKey, PriorFailure] = {}
        for row in self.rows():
            if (key := key_of(row)) is not None:
                lines[key] += 1
                failures[key] = _prior_failure(row, lines[key], failures.get(key))
        return failures

    def settle(self, collected: Callable[[RolloutKey], bool]) -> None:
        """Keep the last line of each rollout that still counts as failed; remove the file if there is none.

        An answer in an earlier line, whose judge failed, was paid for: it moves to the last line if that has none.
        After that, `answer` finds the answers.

        Args:
            collected: whether the rollout of a key has been collected since.

        Raises:
            StorageError: the file could not be written; it is unchanged.
        """
        # Two passes over the file, because rows are large: a failure has its whole input row, and may have an answer.
        last: dict[RolloutKey, int] = {}
        answers: dict[RolloutKey, int] = {}
        for offset, row in self._lines():
            if (key := key_of(row)) is not None:
                last[key] = offset
                if has_answer(row):
                    answers[key] = offset
        keep = {offset: key for key, offset in last.items() if not collected(key)}
        if not self.path.exists():
            return
        try:
            if not keep:
                self.path.unlink()
                self._answers = {}
                return
            with replacing(self.path) as temporary, temporary.open("wb") as file:
                answers = self._copy(keep, answers, file)
            self._answers = answers
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {error.strerror}") from error

    def _copy(
        self, keep: Mapping[int, RolloutKey], answers: Mapping[RolloutKey, int], file: BinaryIO
    ) -> dict[RolloutKey, int]:
        """Copy lines by their offsets, each with the answer of its rollout; the new offsets of those with an answer."""
        copied: dict[RolloutKey, int] = {}
        for offset, row in self._lines():
            if (key := keep.get(offset)) is None:
                continue
            if key in answers:
                copied[key] = file.tell()
                if answers[key] != offset:
                    row.update(self._answer_at(answers[key]))
            file.write(dumps(row) + b"\n")
        return copied

    def _answer_at(self, offset: int) -> Json:
        """The fields of an answer in the line that begins at `offset`."""
        with self.path.open("rb") as file:
            file.seek(offset)
            row = loads(file.readline())
        return {name: row[name] for name in ("_ng_task_index", "_ng_rollout_index", *ANSWER_FIELDS) if name in row}

    def answer(self, key: RolloutKey) -> Json | None:
        """The response that an earlier command kept for a rollout, read from the file; None if there is none."""
        # The file may have been removed or changed since: the model is then asked again.
        with contextlib.suppress(OSError, ValueError, TypeError):
            if (offset := self._answers.get(key)) is not None:
                answer = self._answer_at(offset)
                return answer["response"] if key_of(answer) == key and has_answer(answer) else None
        return None

    def is_unscored(self, failure: Failure) -> bool:
        """True for a failure with an answer, of its last attempt or of an earlier command."""
        return has_answer(failure.attempts[-1].kept) or failure.rollout.key in self._answers

    def rows_by_key(self) -> Iterator[tuple[RolloutKey, Json]]:
        """A line of each failed rollout, in the order of keys: the first with an answer, or else the last."""
        chosen: dict[RolloutKey, tuple[bool, int]] = {}
        for offset, row in self._lines():
            if (key := key_of(row)) is not None and not chosen.get(key, (False, 0))[0]:
                chosen[key] = has_answer(row), offset
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            for key in sorted(chosen):
                file.seek(chosen[key][1])
                yield key, loads(file.readline())

    def rows(self) -> Iterator[Json]:
        """The rows of the file, without lines that are not JSON, such as one that a crash cut off."""
        return (row for _, row in self._lines())

    def _lines(self) -> Iterator[tuple[int, Json]]:
        """The rows, each with the offset of its line."""
        offset = 0
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    row = loads(line)
                    if isinstance(row, dict):
                        yield offset, row
                offset += len(line)


def has_answer(row: Json) -> bool:
    """True for a row or a reply with a response."""
    return isinstance(row.get("response"), dict)


def _open_without_links(path: str, flags: int) -> int:
    # A link that another user of the folder has placed here would lead to a file elsewhere.
    # O_NONBLOCK: opening a pipe without a reader fails instead of waiting for one.
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return fd


def failure_row(failure: Failure, earlier_attempts: int = 0) -> Json:
    """The row of a failure: key, agent, the last attempt's failure, a list of all attempts, and the input row.

    Secrets are masked in all of it. A row of an output is data and stays as it is.
    """
    rollout, last = failure.rollout, failure.attempts[-1]
    row = {
        "_ng_task_index": rollout.key.task_index,
        "_ng_rollout_index": rollout.key.rollout_index,
        "agent_ref": {"name": rollout.agent},
        "failure_class": redact(last.failure_class),
        "status": last.status,
        "message": redact(last.message),
        "terminal": failure.terminal,
        **_nemo_gym_fields(failure),
        "num_attempts": earlier_attempts + len(failure.attempts),
        "attempts": [_attempt(attempt) for attempt in failure.attempts],
        "row": {name: value for name, value in rollout.row.items() if not name.startswith(TRANSIENT)},
    }
    # An answer is data, as in a row of the output.
    answer = {name: last.kept[name] for name in ("response",) if name in last.kept}
    kept = {name: value for name, value in last.kept.items() if name not in answer and name not in row}
    return {**cast("Json", mask_values({**row, **kept})), **answer}


def _nemo_gym_fields(failure: Failure) -> Json:
    """The fields by which NeMo Gym's resume and reverify read a failure."""
    last = failure.attempts[-1]
    return {
        "_ng_failure_class": redact(last.failure_class),
        "_ng_failure_message": redact(last.message),
        "_ng_failure_http_status": last.status,
        **({"_ng_failure_terminal": True} if failure.terminal else {}),
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "failure_class": redact(attempt.failure_class),
        "status": attempt.status,
        "began": datetime.fromtimestamp(attempt.began, UTC).isoformat(timespec="milliseconds"),
        "seconds": round(attempt.seconds, 3),
    }


def failure_class_of(row: Json) -> str:
    """The class of a failure in a failures file, of this program or of NeMo Gym."""
    return str(row.get("failure_class") or row.get("_ng_failure_class") or "unknown")


def _prior_failure(row: Json, lines: int, before: PriorFailure | None) -> PriorFailure:
    """The failure in a line, the `lines`-th of its rollout; `before` is that of the line before."""
    attempts, elapsed = row.get("num_attempts"), row.get("elapsed_seconds")
    is_ours = isinstance(attempts, int)
    return PriorFailure(
        attempts=attempts if isinstance(attempts, int) else lines,
        terminal=bool(row.get("terminal") or row.get("_ng_failure_terminal")),
        failure_class=failure_class_of(row),
        agent=agent_of(row),
        is_exhausted=not is_ours and lines >= _MAX_NEMO_GYM_ATTEMPTS,
        elapsed_s=elapsed if isinstance(elapsed, (int, float)) else None,
        has_answer=has_answer(row) or (before is not None and before.has_answer),
    )
