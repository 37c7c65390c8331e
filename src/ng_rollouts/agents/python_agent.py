"""An agent of the user's own: an async function `(row, client) -> dict`, named by `_target_`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from ng_rollouts.errors import AttemptFailed, ConfigError
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.models.client import ModelClient
from ng_rollouts.types import Json
from ng_rollouts.user_code import guarded, import_callable

Answer = Callable[[Json, "PolicyClient"], Awaitable[Json]]


@dataclass(frozen=True, slots=True)
class PolicyClient:
    """What the function is handed beside the row.

    Attributes:
        server: the model server; None if none is configured.
        task: the row's task, whose requests stay with one address of a pool.
    """

    server: ModelClient | None
    task: int = 0

    async def respond(self, params: Json) -> Json:
        """The OpenAI Response object for the fields of a Responses request.

        Raises:
            AttemptFailed: there was none; let it pass, and the rollout is tried again.
        """
        if self.server is None:
            raise AttemptFailed("no_model", "the agent asks a model, and no policy_base_url is given")
        return await self.server.respond(params, self.task)


@dataclass(slots=True, kw_only=True)
class PythonAgent:
    """Hands each row to the function.

    Raises:
        ConfigError: there is no such coroutine function.
    """

    target: str
    client: PolicyClient
    scores: bool = True
    _answer: Answer = field(init=False)

    def __post_init__(self) -> None:
        function = import_callable(self.target)
        if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(type(function).__call__):
            raise ConfigError(f"_target_={self.target} must be an async function (row, client) -> dict")
        self._answer = function

    @property
    def load_balancers(self) -> list[LoadBalancer]:
        """What it sends by."""
        return [self.client.server.load_balancer] if self.client.server else []

    def check(self, row: Json) -> None:
        """Any row will do."""

    async def run(self, request: Json) -> Json:
        """What the function returns.

        Raises:
            AttemptFailed: it raised, or returned something else than a dict.
        """
        client = replace(self.client, task=request.get("_ng_task_index") or 0)
        reply = await guarded(self._answer(request, client), "agent_error", self.target, retryable=True)
        if not isinstance(reply, dict):
            raise AttemptFailed("not_object", f"{self.target} returned {type(reply).__name__}, not a dict")
        return reply
