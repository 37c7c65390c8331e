"""The `Verifier` protocol: the row of a task and the model's response in, `reward` and related fields out."""

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
    """Scores the answers to one task against each other, with many calls in flight."""

    @property
    def load_balancers(self) -> Sequence[LoadBalancer]:
        """The servers that it sends requests to."""
        ...

    def check(self, row: Json) -> None:
        """Check a task before anything is sent."""
        ...

    async def verify_group(self, row: Json, responses: Sequence[Json]) -> list[Json]:
        """Score the answers to a task; the fields of each, in order."""
        ...
