"""The agent of a run that scores rollouts again: its answer is the row with the new score."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.inputs.exported_task import TASK_FIELDS
from ng_rollouts.models.request import Request
from ng_rollouts.rescoring.scorable import (
    FAILURE,
    GROUP,
    INTERNAL,
    PLACE,
    PREVIOUS_REWARD,
    RESCORED,
    Selection,
    response_of,
    task_of,
    without_verdict,
)
from ng_rollouts.types import AgentRequest, Json
from ng_rollouts.verifiers.base import GroupVerifier, Verifier


@dataclass(slots=True)
class _GroupVerdicts:
    """The verdicts about a group, and how many of its rollouts have not had theirs."""

    scoring: asyncio.Task[list[Json]]
    waiting: int


@dataclass(slots=True, kw_only=True)
class Rescorer:
    """Scores the response in each row.

    Attributes:
        verifiers: by name. The first gives the reward; further ones add `NAME_reward` and their fields.
        group_verifier: scores the responses of a task against each other, instead of `verifiers`.
        selection: the rows that are scored; the others are returned as they are.
        label_field: the field that the new scores are compared with, which stays.
    """

    verifiers: Mapping[str, Verifier]
    group_verifier: GroupVerifier | None = None
    selection: Selection
    label_field: str | None = None
    # The verdicts of groups of which some rollouts have not had theirs, by task.
    _groups: dict[int, _GroupVerdicts] = field(default_factory=dict)
    # Rows that are copied may have no reward, so the executor must not ask for one.
    scores: ClassVar[bool] = False
    is_remote: ClassVar[bool] = False
    model: ClassVar[None] = None
    environment_server: ClassVar[None] = None
    may_run_twice: ClassVar[bool] = False
    aggregate_metrics_url: ClassVar[None] = None

    @property
    def load_balancers(self) -> list[LoadBalancer]:
        """The judges' servers."""
        balancers = [balancer for verifier in self.verifiers.values() for balancer in verifier.load_balancers]
        return list(dict.fromkeys([*balancers, *(self.group_verifier.load_balancers if self.group_verifier else ())]))

    def check(self, row: Json) -> None:
        """Check a row before anything is scored.

        Raises:
            InputError: a verifier cannot score it.
        """
        if self.selection.has(row) and response_of(row):
            for scorer in self.verifiers.values():
                scorer.check(task_of(row))
            if self.group_verifier:
                self.group_verifier.check(task_of(row))

    def scores_again(self, response: Json) -> bool:  # noqa: ARG002 - the interface's
        """Always: it asks no model for answers."""
        return True

    def first_request(self, row: Json) -> Request | None:  # noqa: ARG002 - the interface's
        """No request: the verifiers decide about their requests."""
        return None

    async def run(self, request: AgentRequest) -> Json:
        """Score the response of a row.

        Raises:
            AttemptFailed: a verifier failed, or the row has no response. The failure keeps the response.
        """
        row = request.body
        if not self.selection.has(row) and FAILURE not in row:
            # Without the mark of an earlier scoring: this one has not scored it.
            return {name: value for name, value in row.items() if name not in (*INTERNAL, RESCORED)}
        response = response_of(row)
        if response is None or not self.selection.has(row):
            raise _failure_of(row)
        try:
            verdict = await self._verdict(row, response)
        except AttemptFailed as failure:
            failure.kept = {**failure.kept, "response": response}
            raise
        previous = row.get("reward")
        before = {PREVIOUS_REWARD: previous} if isinstance(previous, (int, float)) else {}
        kept = without_verdict(row, self.label_field)
        kept.pop(PREVIOUS_REWARD, None)
        return {**kept, **verdict, **_overwritten(row, verdict), **before, RESCORED: True}

    async def _verdict(self, row: Json, response: Json) -> Json:
        if self.group_verifier:
            return await self._verdict_in_group(row)
        task = without_verdict(task_of(row))
        verdict: Json = {}
        for name, verifier in self.verifiers.items():
            fields = await verifier.verify(task, response)
            verdict = verdict or fields
            if name:
                verdicts = {**verdict.get("verdicts", {}), name: fields}
                verdict = {**verdict, f"{name}_reward": fields.get("reward"), "verdicts": verdicts}
        return verdict

    async def _verdict_in_group(self, row: Json) -> Json:
        """The verdict about a row, from that about its whole group, which the first of its rollouts asks for."""
        index, responses = row["_ng_task_index"], row[GROUP]
        if None in responses:
            failure = AttemptFailed(
                FailureClass.INCOMPLETE_GROUP, "a rollout of its task has no answer", retryable=False
            )
            failure.is_earlier = True
            raise failure
        group = self._groups.get(index)
        if group is None:
            assert self.group_verifier  # noqa: S101 - the caller has one
            scoring = self.group_verifier.verify_group(without_verdict(task_of(row)), responses)
            group = self._groups[index] = _GroupVerdicts(asyncio.create_task(scoring), len(responses))
        try:
            # Shielded, because the others wait for it too.
            verdicts = await asyncio.shield(group.scoring)
        except Exception:
            if self._groups.get(index) is group:  # a later attempt asks again, once for all of them
                del self._groups[index]
            raise
        group.waiting -= 1
        if not group.waiting:
            self._groups.pop(index, None)
        return verdicts[row[PLACE]]


def _overwritten(row: Json, verdict: Json) -> Json:
    """The expected answer of the task among its own fields, if the verifier writes another one; otherwise nothing.

    A verifier that ignores it writes null, and the next one would miss it.
    """
    own, name = row.get(TASK_FIELDS) or {}, "expected_answer"
    if name in verdict and name in row and name not in own and row[name] != verdict[name]:
        return {TASK_FIELDS: {**own, name: row[name]}}
    return {}


def _failure_of(row: Json) -> AttemptFailed:
    """The failure of a rollout that cannot be scored: the one that it has had before, if it has had one."""
    failed = row.get(FAILURE)
    response = response_of(row)
    if failed:
        failure = AttemptFailed(
            failed["failure_class"],
            failed["message"],
            status=failed["status"] if isinstance(failed["status"], int) else None,
            retryable=False,
            terminal=failed["terminal"],
            kept={} if response is None else {"response": response},
        )
    else:
        failure = AttemptFailed(FailureClass.NO_ANSWER, "the row has no response to score", retryable=False)
    failure.is_earlier = True
    return failure
