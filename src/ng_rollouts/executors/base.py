"""The `Executor` protocol: it makes attempts at rollouts, in this process or elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol

from ng_rollouts.agents.base import Agent
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.types import Json, Result, Rollout


class Executor(Protocol):
    """Makes one attempt per call, with many calls in flight."""

    async def call(self, rollout: Rollout, attempts: int, answer: Json | None = None) -> Result:
        """Make one attempt.

        Args:
            rollout: the rollout to attempt.
            attempts: the number of earlier attempts at it.
            answer: the response of an earlier attempt, which only has to be scored.

        Raises:
            AttemptFailed: the attempt did not end in a result.
        """
        ...

    @property
    def max_concurrency(self) -> int | None:
        """Upper bound of attempts in flight; None for no bound."""
        ...

    def summary_lines(self) -> Iterable[str]:
        """Lines for the summary at the end of the run."""
        ...


def open_executor(
    config: CollectConfig, agents: Mapping[str, Agent], rows: Mapping[str, int]
) -> AbstractAsyncContextManager[Executor]:
    """Create the executor that `executor` selects.

    Args:
        config: the run's parameters.
        agents: the agents of this process, by name.
        rows: the number of rows for each agent, by name. Ray actors create their own agents from it.
    """
    if config.executor.get("kind") == "ray":
        from ng_rollouts.executors.ray import RayExecutor  # noqa: PLC0415 - an extra

        return RayExecutor(config, rows)
    from ng_rollouts.executors.local import LocalExecutor  # noqa: PLC0415

    return nullcontext(LocalExecutor(config, agents))
