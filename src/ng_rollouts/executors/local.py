"""Attempts in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ng_rollouts.agents.base import Agent
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.metrics.result_rows import result_of
from ng_rollouts.types import AgentRequest, Json, Result, Rollout


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """Asks the agent of a rollout, and makes a row of its reply."""

    config: CollectConfig
    agents: Mapping[str, Agent]

    max_concurrency = None

    def summary_lines(self) -> Iterable[str]:
        """Nothing beside what is told of agents."""
        return ()

    async def call(self, rollout: Rollout, attempts: int) -> Result:
        """Make one attempt."""
        agent = self.agents[rollout.agent]
        request = rollout.request(attempts)
        reply = await (agent.run(request) if agent.is_remote else self._answer(agent, request))
        return result_of(
            rollout,
            reply,
            training_view=self.config.training_view,
            scored=agent.scores,
            answer_key=self.config.answer_key,
        )

    async def _answer(self, agent: Agent, request: AgentRequest) -> Json:
        """The reply of an agent in this process, which is given no more time than a request to a server is."""
        try:
            async with asyncio.timeout(self.config.rollout_timeout_s):
                return await agent.run(request)
        except TimeoutError as error:
            message = f"no answer within {self.config.rollout_timeout_s:g} s"
            raise AttemptFailed(FailureClass.TIMEOUT, message) from error
