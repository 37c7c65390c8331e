"""Data types that several packages share: rollouts, requests, results and failures.

Those that are made for every rollout are named tuples: a frozen dataclass takes three times as long to create.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_TOKENS = 2**53
"""Larger token counts are not counted: JSON readers may not represent them, and sums would overflow."""

Json = dict[str, Any]
"""A JSON object, as parsed."""

_NO_TOKENS: dict[str, int] = {}


class RolloutKey(NamedTuple):
    """The identity of a rollout in all files and requests: `_ng_task_index` and `_ng_rollout_index`."""

    task_index: int
    rollout_index: int


class Rollout(NamedTuple):
    """One planned run of a task.

    Attributes:
        position: its index in the output, from 0.
        key: `_ng_task_index` and `_ng_rollout_index`.
        agent: the name of the agent that runs it.
        prompt_id: the row's own name for its prompt, or the task index as text.
        row: the task with all overrides applied. The rollouts of a task share this object; do not change it.
        seed: the seed of this rollout, which replaces the row's; None to keep the row's.
        is_episode: whether the row is a materialized one, which an environment server answers.
    """

    position: int
    key: RolloutKey
    agent: str
    prompt_id: str
    row: Json
    seed: int | None = None
    is_episode: bool = False

    def request(self, attempt_index: int = 0, answer: Json | None = None) -> AgentRequest:
        """The request to the agent: the whole row, the rollout's key, and the number of attempts before this one.

        Of a materialized row, it is NeMo Gym's request for an episode.

        Args:
            answer: the response of an earlier attempt, which only has to be scored.
        """
        if self.is_episode:
            rollout_id = self.row.get("_ng_rollout_id") or f"{self.key.task_index}-{self.key.rollout_index}"
            task = {name: self.row[name] for name in ("task_id", "task_input")}
            episode_id = {"rollout_id": rollout_id, "attempt": attempt_index}
            return AgentRequest(self.key.task_index, {"episode_id": episode_id, "task": task})
        body = dict(self.row)  # shallow, so nested objects are replaced below and never changed
        if self.seed is not None:
            body["responses_create_params"] = {**body["responses_create_params"], "seed": self.seed}
        body["_ng_task_index"] = self.key.task_index
        body["_ng_rollout_index"] = self.key.rollout_index
        if attempt_index:
            body["_ng_attempt_index"] = attempt_index
        body["agent_ref"] = agent_ref(self.row, self.agent)
        return AgentRequest(self.key.task_index, body, answer)


class AgentRequest(NamedTuple):
    """A request to an agent.

    Attributes:
        task_index: `_ng_task_index`. Requests of one task go to the same endpoint where possible.
        body: the body of `POST /run`.
        answer: the response of an earlier attempt, for an agent that scores it again; None to ask the model.
    """

    task_index: int
    body: Json
    answer: Json | None = None


@dataclass(slots=True)
class Tokens:
    """A number of input and of output tokens, which grows."""

    input: int = 0
    output: int = 0

    def add(self, input_tokens: int, output_tokens: int) -> None:
        """Add tokens."""
        self.input += input_tokens
        self.output += output_tokens

    @property
    def total(self) -> int:
        """Input and output tokens."""
        return self.input + self.output


class RolloutStats(NamedTuple):
    """The values of one rollout that metrics are computed from.

    Attributes:
        scores: its numbers, by name.
        tokens: input_tokens, output_tokens and total_tokens, as far as the response's usage reports them.
        truncated: whether the response is incomplete.
        empty: whether the response is complete, but has neither text nor a tool call.
        answer: its answer, for majority votes; None if it gave none.
        masked: why its result is not a measurement of the model; None if it is one. A masked rollout has no scores.
        rollout_index: its `_ng_rollout_index`, for the statistics of each repeat.
        perf: the numbers of its `ng_perf` object, a masked rollout's too; None without one.
        counted_as_zero: why it counts with a reward of 0 that nothing measured; None if it was measured.
    """

    scores: dict[str, float]
    tokens: dict[str, int] = _NO_TOKENS
    truncated: bool = False
    empty: bool = False
    answer: str | None = None
    masked: str | None = None
    rollout_index: int = 0
    perf: dict[str, float] | None = None
    counted_as_zero: str | None = None


class CallCounts(NamedTuple):
    """The model calls of a rollout, for the sums of a report.

    Attributes:
        calls: captured calls.
        failed: those that failed, by status (`unknown` without one).
        ended_on_failure: whether the last call of a model failed.
        replayed: calls that repeat the identity of another.
        prompt_tokens, completion_tokens: sums over the calls.
    """

    calls: int
    failed: Counter[str]
    ended_on_failure: bool
    replayed: int
    prompt_tokens: int
    completion_tokens: int


class RolloutHealth(NamedTuple):
    """The health of one rollout.

    Attributes:
        mask: its findings, the checks that lacked evidence, and facts; see `health/checks.py`.
        reward: its reward; None if it has none or is masked, so that it takes no part in rules about rewards.
        answer: its answer, to be compared with those of the task's other rollouts; empty without one.
        tokens: tokens of the prompt and of the completion that its usage reports; 0 where it reports none.
        calls: its model calls, if it has a trajectory.
        rollout_id: its own name, if it has one.
        stage: its `stage_index`, which tells rows of the same rollout apart.
    """

    mask: int
    reward: float | None = None
    answer: str = ""
    tokens: tuple[int, int] = (0, 0)
    calls: CallCounts | None = None
    rollout_id: str | None = None
    stage: Any = None


class Result(NamedTuple):
    """The result of a successful rollout.

    Attributes:
        line: its row, as one line of JSON without a newline.
        stats: its values for metrics.
        health: its health; None if rollouts are not checked.
    """

    line: bytes
    stats: RolloutStats
    health: RolloutHealth | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One failed try at a rollout.

    Attributes:
        failure_class: a `FailureClass`, or one of its open-ended names.
        message: the reason of the failure.
        status: the HTTP status, if there was one.
        began: the time of its beginning, in seconds since 1970.
        seconds: its duration.
        kept: fields of the reply that the failures file keeps.
        is_earlier: whether it is of an earlier run.
    """

    failure_class: str
    message: str
    status: int | None
    began: float
    seconds: float
    kept: Json = field(default_factory=dict)
    is_earlier: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A rollout whose last attempt failed.

    Attributes:
        attempts: all failed attempts, oldest first.
        terminal: whether the agent said that no run should retry this rollout.
        persist: whether the failure is written to the failures file.
    """

    rollout: Rollout
    attempts: tuple[Attempt, ...]
    terminal: bool = False
    persist: bool = True


def agent_ref(row: Json, agent: str) -> Json:
    """The row's own `agent_ref`; that of another agent, if the row is routed to one."""
    reference = row.get("agent_ref")
    return dict(reference) if isinstance(reference, dict) and reference.get("name") == agent else {"name": agent}


def task_index_of(row: Json) -> int:
    """The `_ng_task_index` of a row; 0 if it has none."""
    return int(row.get("_ng_task_index") or 0)


def key_of(row: Json) -> RolloutKey | None:
    """The key in a row of a file; None if the row has no valid key: two indices of 0 or more."""
    task_index, rollout_index = row.get("_ng_task_index"), row.get("_ng_rollout_index")
    if isinstance(task_index, int) and isinstance(rollout_index, int) and task_index >= 0 and rollout_index >= 0:
        return RolloutKey(task_index, rollout_index)
    return None


ANSWER_FIELDS = ("responses_create_params", "response")
"""The fields of a reply that are an answer and what was asked."""

TRANSIENT = "_ng_transient_"
"""The beginning of the names of fields that are for the agent only. They are in no file."""

MASK = "mask_sample"
"""The field of a reply by which an environment says that its result is not a measurement of the model."""


def is_masked(row: Json) -> bool:
    """True for a masked row. As in NeMo Gym, any true value masks, also the text "false"."""
    return bool(row.get(MASK))


_NO_AGENT = "agent"
"""The agent's name for rows that name none."""


def agent_of(row: Json) -> str:
    """The name of the agent that ran a row's rollout, or of its environment server; `agent` without both."""
    reference = row.get("agent_ref")
    name = reference.get("name") if isinstance(reference, dict) else row.get("_ng_environment_server")
    return str(name) if name else _NO_AGENT


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSample:
    """The gauges of an inference engine at a time.

    Attributes:
        at: the time in seconds, of any clock.
        running: requests in the batch.
        waiting: requests in the queue.
        cache: the used share of the KV cache, from 0 to 1, of the fullest worker; None if the engine does not say.
        preemptions: preempted requests since the start of the engine; 0 if the engine does not say.
        engine: `vllm`, `sglang` or `tgi`.
    """

    at: float
    running: int
    waiting: int
    cache: float | None = None
    preemptions: int = 0
    engine: str = "engine"
