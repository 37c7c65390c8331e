"""The records that cross rooms."""

from __future__ import annotations

import math
import time
from array import array
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Json = dict[str, Any]
"""A JSON object, as parsed."""


class Key(NamedTuple):
    """What names a rollout, in every file and on the wire."""

    task_index: int
    rollout_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One planned run of a task.

    Attributes:
        position: its place in the finished order, from 0.
        key: `_ng_task_index` and `_ng_rollout_index`.
        agent: the name of the agent that answers it.
        prompt_id: the row's own name for its prompt, or the task index as text.
        row: the task as it is sent, all overrides applied; shared by the rollouts of a row, never changed.
        seed: the seed of this rollout alone, which goes before the row's.
    """

    position: int
    key: Key
    agent: str
    prompt_id: str
    row: Json
    seed: int | None = None

    def request(self, attempt_index: int = 0) -> Json:
        """The body of `POST /run`: the whole row, what names the rollout, and the attempts before this one."""
        body = dict(self.row)
        if self.seed is not None:
            body["responses_create_params"] = {**body["responses_create_params"], "seed": self.seed}
        body["_ng_task_index"] = self.key.task_index
        body["_ng_rollout_index"] = self.key.rollout_index
        if attempt_index:
            body["_ng_attempt_index"] = attempt_index
        body["agent_ref"] = agent_ref(self.row, self.agent)
        return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What figures are made of, of one rollout.

    Attributes:
        scores: its numbers, by name.
        tokens: input_tokens, output_tokens and total_tokens of its response's usage, where that tells them.
        truncated: whether the response is incomplete.
        answer: what majorities are formed of; None if it gave none.
    """

    scores: dict[str, float]
    tokens: dict[str, int] = field(default_factory=dict)
    truncated: bool = False
    answer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an answered rollout comes to.

    Attributes:
        line: its row, as one line of JSON without a newline.
    """

    line: bytes
    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One failed try at a rollout.

    Attributes:
        failure_class: name of the kind of failure.
        message: what happened.
        status: the HTTP status, if there was one.
        began: when it began, in seconds since 1970.
        seconds: how long it took.
    """

    failure_class: str
    message: str
    status: int | None
    began: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A rollout whose last attempt failed.

    Attributes:
        attempts: all of them, oldest first.
        terminal: whether the agent said that no run should try it again.
        persist: whether it is to be written down.
    """

    rollout: Rollout
    attempts: tuple[Attempt, ...]
    terminal: bool = False
    persist: bool = True


@dataclass(slots=True)
class Latencies:
    """How long attempts took, in classes that are a twentieth wide: enough for percentiles."""

    _classes: array[int] = field(default_factory=lambda: array("q", [0]) * 400)

    def add(self, seconds: float) -> None:
        """Count one."""
        self._classes[min(399, max(0, int(math.log(max(seconds, 1e-4) / 1e-4) / _CLASS_WIDTH)))] += 1

    def quantile(self, share: float) -> float | None:
        """Seconds below which this share lies, to a twentieth; None if there were none."""
        left = share * sum(self._classes)
        for number, count in enumerate(self._classes):
            left -= count
            if count and left <= 0:
                return float(1e-4 * math.exp((number + 0.5) * _CLASS_WIDTH))
        return None


_CLASS_WIDTH = 0.05


@dataclass(slots=True)
class Running:
    """Mean and spread of what came so far (Welford, 1962)."""

    count: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, value: float) -> None:
        """Take a value in."""
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self._squares += before * (value - self.mean)

    @property
    def half_width(self) -> float:
        """Of a 95 % interval, as if rollouts had nothing in common; the figures at the end know better."""
        return 1.96 * math.sqrt(self._squares / max(1, self.count - 1) / max(1, self.count))


@dataclass(slots=True, kw_only=True)
class Counts:
    """Where the planned rollouts are; those in none of these have not been taken up.

    Attributes:
        started: when each rollout in flight was sent (`time.monotonic`), oldest first.
        answered: attempts that ended, well or not, and how many seconds they took in all.
        input_tokens, output_tokens: of the rollouts that this command collected.
        latencies: of all attempts.
        reward: of all rollouts collected, by this command or before.
    """

    planned: int
    collected: int = 0
    failed: int = 0
    waiting: int = 0
    started: dict[Key, float] = field(default_factory=dict)
    answered: int = 0
    answered_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    most_in_flight: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    reward: Running = field(default_factory=Running)

    @property
    def in_flight(self) -> int:
        """Rollouts that are being tried."""
        return len(self.started)

    @property
    def settled(self) -> int:
        """Rollouts that will not be tried again."""
        return self.collected + self.failed

    def oldest(self) -> tuple[Key, float] | None:
        """The rollout that has been in flight longest, and for how many seconds."""
        for key, started in self.started.items():
            return key, time.monotonic() - started
        return None


def agent_ref(row: Json, agent: str) -> Json:
    """The row's own `agent_ref`, with `agent` as its name."""
    return {**(row.get("agent_ref") or {}), "name": agent}


def key_of(row: Json) -> Key | None:
    """The key that a row of a file carries, if it does."""
    task_index, rollout_index = row.get("_ng_task_index"), row.get("_ng_rollout_index")
    return Key(task_index, rollout_index) if isinstance(task_index, int) and isinstance(rollout_index, int) else None
