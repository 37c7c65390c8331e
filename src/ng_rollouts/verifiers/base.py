"""The protocols of verifiers: the row of a task and the model's responses in, `reward` and related fields out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.types import Json


class Verifier(Protocol):
    """Scores one answer per call, with many calls in flight.

    Attributes:
        scores: whether it gives a reward at all.
    """

    scores: ClassVar[bool] = True

    @property
    def load_balancers(self) -> Sequence[LoadBalancer]:
        """The servers that it sends requests to."""
        return ()

    def check(self, row: Json) -> None:  # noqa: ARG002 - the interface's
        """Check a task before anything is sent.

        Raises:
            InputError: the row lacks the expected answer, or has one that this verifier cannot use.
        """
        return  # without it, mypy takes the method for abstract

    async def verify(self, row: Json, response: Json) -> Json:
        """Score an answer.

        Returns:
            `reward`, `accuracy`, `extracted_answer`, and further fields of the verifier.

        Raises:
            AttemptFailed: the answer cannot be scored; that is a failure, never a reward of 0.
        """
        ...


class GroupVerifier(Protocol):
    """Scores the answers of one task against each other, with many groups in flight."""

    @property
    def load_balancers(self) -> Sequence[LoadBalancer]:
        """The servers that it sends requests to."""
        ...

    def check(self, row: Json) -> None:
        """Check a task before anything is sent.

        Raises:
            InputError: the row lacks a field that this verifier needs.
        """
        ...

    async def verify_group(self, row: Json, responses: Sequence[Json]) -> list[Json]:
        """Score all answers of a task.

        Args:
            row: the task, or any row of it.
            responses: the Response objects of its rollouts.

        Returns:
            For each response, in order: `reward` in [0, 1], `group_rank` from 1, `judgement`, and further fields.

        Raises:
            AttemptFailed: the group cannot be scored; none of its rollouts has a reward then.
        """
        ...
