"""What runs in a process elsewhere: attempts in, outcomes out, a batch at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, NamedTuple

from ng_rollouts.agents.factory import resolve_agents
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.executors.local import LocalExecutor
from ng_rollouts.types import Result, Rollout


class AttemptRequest(NamedTuple):
    """An attempt that is asked for; without a rollout, the attempt of this number is no longer wanted."""

    number: int
    rollout: Rollout | None = None
    attempts: int = 0


class AttemptOutcome(NamedTuple):
    """How an attempt ended."""

    number: int
    result: Result | None
    failure: tuple[str, str, dict[str, Any]] | None = None


class RayWorker:
    """Agents of its own, over connections of its own.

    Args:
        rows: by the name of an agent.
    """

    def __init__(self, config: CollectConfig, rows: Mapping[str, int]) -> None:
        self._config = config
        self._rows = rows
        self._stack = AsyncExitStack()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._done: list[AttemptOutcome] = []
        self._any_done = asyncio.Event()
        self._executor: LocalExecutor | None = None

    async def ping(self) -> None:
        """Be there."""

    async def start(self, process_pool: int) -> None:
        """Find the agents.

        Args:
            workers: how many there are, which share what is allowed a minute.
        """
        self._config = share_of(self._config, process_pool)
        agents = await resolve_agents(self._rows, self._config, self._stack)
        self._executor = LocalExecutor(self._config, agents)

    async def submit(self, calls: Sequence[AttemptRequest]) -> None:
        """Begin these attempts, and leave those that are not wanted."""
        for call in calls:
            if call.rollout is not None:
                self._running[call.number] = asyncio.create_task(self._run(call.number, call.rollout, call.attempts))
            elif task := self._running.pop(call.number, None):
                task.cancel()

    async def take(self, wait_s: float) -> list[AttemptOutcome]:
        """What has ended, as soon as anything has."""
        try:
            async with asyncio.timeout(wait_s):
                await self._any_done.wait()
        except TimeoutError:
            return []
        self._any_done.clear()
        done, self._done = self._done, []
        return done

    async def close(self) -> None:
        """Leave everything."""
        for task in self._running.values():
            task.cancel()
        await self._stack.aclose()

    async def _run(self, number: int, rollout: Rollout, attempts: int) -> None:
        if self._executor is None:
            raise RuntimeError("not started")
        try:
            outcome = AttemptOutcome(number, await self._executor.call(rollout, attempts))
        except AttemptFailed as failure:
            outcome = AttemptOutcome(number, None, failure_as_values(failure))
        except Exception as error:
            outcome = AttemptOutcome(
                number, None, (FailureClass.WORKER_ERROR, f"{type(error).__name__}: {error}", {"retryable": True})
            )
        self._running.pop(number, None)
        self._done.append(outcome)
        self._any_done.set()


def failure_as_values(failure: AttemptFailed) -> tuple[str, str, dict[str, Any]]:
    """A failure as plain values."""
    names = ("status", "retryable", "terminal", "persist", "retry_after_s")
    return failure.failure_class, failure.message, {name: getattr(failure, name) for name in names}


def failure_from_values(failure: tuple[str, str, dict[str, Any]]) -> AttemptFailed:
    """The failure again."""
    name, message, more = failure
    return AttemptFailed(name, message, **more)


def share_of(config: CollectConfig, process_pool: int) -> CollectConfig:
    """The config of one of so many workers."""
    requests, tokens = config.max_requests_per_minute, config.max_tokens_per_minute
    return replace(
        config,
        max_requests_per_minute=None if requests is None else requests / process_pool,
        max_tokens_per_minute=None if tokens is None else tokens / process_pool,
    )
