"""What answers a rollout."""

from __future__ import annotations

from typing import Protocol

from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.types import Json


class Agent(Protocol):
    """Answers one rollout at a time, many at once."""

    @property
    def scores(self) -> bool:
        """Whether its replies have a reward."""
        ...

    @property
    def load_balancers(self) -> list[LoadBalancer]:
        """The servers it asks."""
        ...

    def check(self, row: Json) -> None:
        """Look at a task before anything is sent.

        Raises:
            InputError: what is wrong with it.
        """
        ...

    async def run(self, request: Json) -> Json:
        """The reply to a whole row: an object with `reward`, usually `response` and the verifier's fields.

        Raises:
            AttemptFailed: this attempt did not end in such a reply.
        """
        ...
