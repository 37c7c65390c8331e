"""The `Agent` protocol: what the rest of the program asks of anything that answers rollouts."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.models.request import Request
from ng_rollouts.types import AgentRequest, Json, RolloutKey


class Agent(Protocol):
    """Answers one rollout per call, with many calls in flight."""

    @property
    def scores(self) -> bool:
        """Whether its replies have a reward."""
        ...

    @property
    def is_remote(self) -> bool:
        """True for an agent behind an HTTP server, which checks its tasks. The HTTP client enforces the time limits."""
        ...

    @property
    def model(self) -> str | None:
        """The model that it calls, as far as this process knows."""
        ...

    @property
    def load_balancers(self) -> list[LoadBalancer]:
        """The servers that it sends requests to."""
        ...

    @property
    def environment_server(self) -> str | None:
        """The name of the environment server that answers for it; None without one."""
        ...

    @property
    def may_run_twice(self) -> bool:
        """True if two attempts at a rollout may run at a time: they share no state, and one can be cancelled."""
        ...

    @property
    def aggregate_metrics_url(self) -> str | None:
        """Where it aggregates its own metrics (`POST`); None if it does not."""
        ...

    def check(self, row: Json) -> None:
        """Check a task before anything is sent.

        Raises:
            InputError: this agent cannot answer the task.
        """
        ...

    def scores_again(self, response: Json) -> bool:
        """True if it can score a response of an earlier attempt without asking its model."""
        ...

    def first_request(self, row: Json) -> Request | None:
        """The first HTTP request for a row, for a dry run; None if the agent's own code decides."""
        ...

    async def run(self, request: AgentRequest) -> Json:
        """Answer a rollout.

        Returns:
            An object with `reward`, and usually `response` and the verifier's fields.

        Raises:
            AttemptFailed: the attempt did not end in such an object.
        """
        ...


@runtime_checkable
class KnowsTurns(Protocol):
    """An agent whose conversations are in this process."""

    def turns_of(self, key: RolloutKey) -> list[Json] | None:
        """The items of the conversation of a rollout in flight, so far; None if it has not begun."""
        ...
