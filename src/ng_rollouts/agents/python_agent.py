"""An agent of the user's own: an async function `(row, client) -> dict`, named by `_target_`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from ng_rollouts.errors import AttemptFailed, ConfigError, FailureClass
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.models.client import ModelClient
from ng_rollouts.types import AgentRequest, Json
from ng_rollouts.user_code import guarded, import_callable

Answer = Callable[[Json, "PolicyClient"], Awaitable[Json]]


@dataclass(frozen=True, slots=True)
class PolicyClient:
    """What the function is handed beside the row.

    Attributes:
        server: the model server; None if none is configured.
        task_index: the row's task, whose requests stay with one address of a pool.
    """

    server: ModelClient | None
    task_index: int = 0

    async def respond(self, params: Json) -> Json:
        """The OpenAI Response object for the fields of a Responses request.

        Raises:
            AttemptFailed: there was none; let it pass, and the rollout is tried again.
        """
        if self.server is None:
            raise AttemptFailed(FailureClass.NO_MODEL, "the agent asks a model, and no policy_base_url is given")
        return await self.server.respond(params, self.task_index)


@dataclass(slots=True, kw_only=True)
class PythonAgent:
    """Hands each row to the function.

    Raises:
        ConfigError: there is no such coroutine function.
    """

    target: str
    client: PolicyClient
    scores: bool = True
    is_remote: ClassVar[bool] = False
    aggregate_metrics_url: ClassVar[None] = None
    _answer: Answer = field(init=False)

    def __post_init__(self) -> None:
        function = import_callable(self.target)
        if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(type(function).__call__):
            raise ConfigError(f"_target_={self.target} must be an async function (row, client) -> dict")
        self._answer = function

    @property
    def model(self) -> str | None:
        """The model that the client asks for."""
        return self.client.server.model if self.client.server else None

    @property
    def load_balancers(self) -> list[LoadBalancer]:
        """What it sends by."""
        return [self.client.server.load_balancer] if self.client.server else []

    def check(self, row: Json) -> None:
        """Any row will do."""

    def first_request(self, row: Json) -> None:
        """The function decides what it sends."""

    async def run(self, request: AgentRequest) -> Json:
        """What the function returns.

        Raises:
            AttemptFailed: it raised, or returned something else than a dict.
        """
        client = replace(self.client, task_index=request.task_index)
        reply = await guarded(self._answer(request.body, client), FailureClass.AGENT_ERROR, self.target)
        if not isinstance(reply, dict):
            raise AttemptFailed(FailureClass.NOT_OBJECT, f"{self.target} returned {type(reply).__name__}, not a dict")
        return reply
