"""The Ray actor that makes attempts: requests in and outcomes out, in batches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, NamedTuple, Self

from ng_rollouts.agents.factory import resolve_agents
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import quietly
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.executors.local import LocalExecutor
from ng_rollouts.models.attempt import AttemptTokens, count_tokens_of_task
from ng_rollouts.types import Json, Result, Rollout


class AttemptRequest(NamedTuple):
    """A request from the driver to make an attempt or, without a rollout, to cancel one.

    Attributes:
        request_id: identifies the attempt. It is unique within the run.
        rollout: the rollout to attempt; None to cancel the attempt.
        attempts: the number of earlier attempts at the rollout.
        answer: the response of an earlier attempt, which only has to be scored.
    """

    request_id: int
    rollout: Rollout | None = None
    attempts: int = 0
    answer: Json | None = None

    @classmethod
    def cancellation(cls, request_id: int) -> Self:
        """The request to cancel an attempt."""
        return cls(request_id)


FailureValues = tuple[str, str, dict[str, Any], float | None]
"""A failure as class, message, options, and the seconds since its request was sent, if that is known."""


class AttemptOutcome(NamedTuple):
    """The outcome of an attempt: a result or a failure, or neither if it was cancelled; and its tokens."""

    request_id: int
    result: Result | None = None
    failure: FailureValues | None = None
    tokens: AttemptTokens | None = None


class RayWorker:
    """Makes attempts with its own agents and connections.

    Args:
        config: the run's parameters.
        rows: the number of rows for each agent, by name.
    """

    def __init__(self, config: CollectConfig, rows: Mapping[str, int]) -> None:
        self._config = config
        self._rows = rows
        self._stack = AsyncExitStack()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._outcomes: list[AttemptOutcome] = []
        self._has_outcomes = asyncio.Event()
        self._executor: LocalExecutor | None = None

    async def ping(self) -> None:
        """Do nothing. A call returns once the actor is up."""

    async def start(self, num_actors: int) -> None:
        """Create the agents.

        Args:
            num_actors: the number of actors, among which rate limits are divided.

        Raises:
            ConfigError, Unreachable: as `resolve_agents`.
        """
        self._config = per_actor_config(self._config, num_actors)
        # The driver has logged the same messages for its own agents. The logger is disabled, too, because a warning
        # without a handler would still be printed. It is this actor's own: an actor has a process to itself.
        logging.getLogger("ng_rollouts").disabled = True
        with quietly():
            agents = await resolve_agents(self._rows, self._config, self._stack)
        self._executor = LocalExecutor(self._config, agents)

    async def submit(self, requests: Sequence[AttemptRequest]) -> None:
        """Start attempts, or cancel those whose request has no rollout."""
        for request in requests:
            if request.rollout is not None:
                self._running[request.request_id] = asyncio.create_task(self._run(request, request.rollout))
            elif task := self._running.pop(request.request_id, None):
                # Not now: a task that is cancelled before its first turn would have no outcome.
                asyncio.get_running_loop().call_soon(task.cancel)

    async def take(self, timeout_s: float) -> list[AttemptOutcome]:
        """Wait for outcomes, and return all that there are; an empty list after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._has_outcomes.wait()
        except TimeoutError:
            return []
        self._has_outcomes.clear()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    async def close(self) -> None:
        """Cancel all attempts, and close the connections."""
        for task in self._running.values():
            task.cancel()
        await self._stack.aclose()

    async def _run(self, request: AttemptRequest, rollout: Rollout) -> None:
        if self._executor is None:
            raise RuntimeError("not started")
        request_id = request.request_id
        tokens, outcome = count_tokens_of_task(), AttemptOutcome(request_id)
        try:
            result = await self._executor.call(rollout, request.attempts, request.answer)
            outcome = AttemptOutcome(request_id, result)
        except asyncio.CancelledError:
            pass  # the driver asked for it, and waits for the tokens
        except AttemptFailed as failure:
            outcome = AttemptOutcome(request_id, None, failure_to_values(failure))
        except Exception as error:  # the driver would wait for this attempt without end
            message = f"{type(error).__name__}: {error}"
            unexpected = AttemptFailed(FailureClass.WORKER_ERROR, message, retryable=True)
            outcome = AttemptOutcome(request_id, None, failure_to_values(unexpected))
        self._running.pop(request_id, None)
        self._outcomes.append(outcome._replace(tokens=tokens))
        self._has_outcomes.set()


def failure_to_values(failure: AttemptFailed) -> FailureValues:
    """A failure as values. The exception itself loses its keyword arguments when it is pickled."""
    names = ("status", "retryable", "terminal", "persist", "retry_after_s", "kept")
    # A duration, because the clocks of two machines have nothing in common.
    sent_s = None if failure.sent_at is None else time.monotonic() - failure.sent_at
    return failure.failure_class, failure.message, {name: getattr(failure, name) for name in names}, sent_s


def failure_from_values(values: FailureValues) -> AttemptFailed:
    """The failure that `failure_to_values` has just converted."""
    failure_class, message, options, sent_s = values
    failure = AttemptFailed(failure_class, message, **options)
    failure.sent_at = None if sent_s is None else time.monotonic() - sent_s
    return failure


def per_actor_config(config: CollectConfig, num_actors: int) -> CollectConfig:
    """The config of one actor, with its share of the rate limits."""
    requests, tokens = config.max_requests_per_minute, config.max_tokens_per_minute
    return replace(
        config,
        max_requests_per_minute=None if requests is None else requests / num_actors,
        max_tokens_per_minute=None if tokens is None else tokens / num_actors,
    )
