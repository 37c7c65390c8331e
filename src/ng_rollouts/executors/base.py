"""How one rollout becomes one outcome: in this process, or elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol

from ng_rollouts.agents.base import Agent
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.types import Result, Rollout


class Executor(Protocol):
    """Has attempts made, many at once."""

    async def call(self, rollout: Rollout, attempts: int) -> Result:
        """Make one attempt, which has so many before it.

        Raises:
            AttemptFailed: it did not end in a result.
        """
        ...

    @property
    def max_concurrency(self) -> int | None:
        """So many it has room for; None if there is no bound."""
        ...

    def summary_lines(self) -> Iterable[str]:
        """What there is to tell of it at the end."""
        ...


def open_executor(
    config: CollectConfig, agents: Mapping[str, Agent], rows: Mapping[str, int]
) -> AbstractAsyncContextManager[Executor]:
    """The executor that the config asks for.

    Args:
        agents: what answers, in this process.
        rows: by the name of an agent.
    """
    if config.executor.get("kind") == "ray":
        from ng_rollouts.executors.ray import RayExecutor  # noqa: PLC0415 - an extra

        return RayExecutor(config, rows)
    from ng_rollouts.executors.local import LocalExecutor  # noqa: PLC0415

    return nullcontext(LocalExecutor(config, agents))
