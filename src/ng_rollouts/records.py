"""The records that cross rooms."""

from __future__ import annotations

from dataclasses import dataclass
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

    def request(self) -> Json:
        """The body of `POST /run`: the whole row and what names the rollout."""
        body = dict(self.row)
        if self.seed is not None:
            body["responses_create_params"] = {**body["responses_create_params"], "seed": self.seed}
        body["_ng_task_index"] = self.key.task_index
        body["_ng_rollout_index"] = self.key.rollout_index
        body["agent_ref"] = agent_ref(self.row, self.agent)
        return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One failed try at a rollout: its class, its message and how many seconds it took."""

    failure_class: str
    message: str
    status: int | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A rollout whose last attempt failed, with all its attempts, oldest first."""

    rollout: Rollout
    attempts: tuple[Attempt, ...]


def agent_ref(row: Json, agent: str) -> Json:
    """The row's own `agent_ref`, with `agent` as its name."""
    return {**(row.get("agent_ref") or {}), "name": agent}


@dataclass(slots=True, kw_only=True)
class Counts:
    """Where the planned rollouts are; those in none of these have not been taken up."""

    planned: int
    collected: int = 0
    failed: int = 0
    in_flight: int = 0
    waiting: int = 0

    @property
    def settled(self) -> int:
        """Rollouts that will not be tried again."""
        return self.collected + self.failed
