"""An agent that is an async Python function `(row, client) -> dict`, named by `_target_`."""

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

AgentFunction = Callable[[Json, "PolicyClient"], Awaitable[Json]]


@dataclass(frozen=True, slots=True)
class PolicyClient:
    """The function's second argument: a client for the model server.

    Attributes:
        server: the model server; None if none is configured.
        task_index: the row's task; requests of one task go to the same endpoint where possible.
    """

    server: ModelClient | None
    task_index: int = 0

    async def respond(self, params: Json) -> Json:
        """Request an OpenAI Response object.

        Args:
            params: the fields of a Responses request.

        Raises:
            AttemptFailed: the request failed. If the function does not catch it, the rollout is retried.
        """
        if self.server is None:
            message = "the agent called the model, but policy_base_url is not set: add +policy_base_url=URL"
            raise AttemptFailed(FailureClass.NO_MODEL, message)
        return await self.server.respond(params, self.task_index)


@dataclass(slots=True, kw_only=True)
class PythonAgent:
    """Calls the function once for each attempt.

    Raises:
        ConfigError: the target is not an async function of two arguments.
    """

    target: str
    client: PolicyClient
    scores: bool = True
    is_remote: ClassVar[bool] = False
    environment_server: ClassVar[None] = None
    may_run_twice: ClassVar[bool] = False  # its code may keep state
    aggregate_metrics_url: ClassVar[None] = None
    _function: AgentFunction = field(init=False)

    def __post_init__(self) -> None:
        function = import_callable(self.target)
        # an object with an async `__call__` is accepted too
        if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(type(function).__call__):
            raise ConfigError(f"_target_={self.target} must be an async function (row, client) -> dict")
        try:
            inspect.signature(function).bind({}, self.client)
        except TypeError as error:
            raise ConfigError(f"_target_={self.target} must take two arguments, (row, client): {error}") from error
        except ValueError:  # a callable without a signature, such as one of an extension module
            pass
        self._function = function

    @property
    def model(self) -> str | None:
        """The name of the model that the client requests."""
        return self.client.server.model if self.client.server else None

    @property
    def load_balancers(self) -> list[LoadBalancer]:
        """The servers that the client sends requests to."""
        return [self.client.server.load_balancer] if self.client.server else []

    def check(self, row: Json) -> None:
        """Accept every task: only the function can tell which it supports."""

    def scores_again(self, response: Json) -> bool:  # noqa: ARG002 - the interface's
        """False: the function answers and scores in one."""
        return False

    def first_request(self, row: Json) -> None:
        """None: the function decides which requests are sent."""

    async def run(self, request: AgentRequest) -> Json:
        """Run a rollout.

        Returns:
            The dict that the function returns.

        Raises:
            AttemptFailed: the function raised an exception, or did not return a dict.
        """
        client = replace(self.client, task_index=request.task_index)
        reply = await guarded(self._function(request.body, client), FailureClass.AGENT_ERROR, self.target)
        if not isinstance(reply, dict):
            raise AttemptFailed(FailureClass.NOT_OBJECT, f"{self.target} returned {type(reply).__name__}, not a dict")
        return reply
