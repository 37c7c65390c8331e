"""Executor that makes attempts in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

from ng_rollouts.agents.base import Agent
from ng_rollouts.agents.remote_agent import usage_of
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.health.rollout import health_of
from ng_rollouts.http.client import NO_HEADERS, Headers
from ng_rollouts.metrics.result_rows import result_of
from ng_rollouts.models.attempt import begin_session, count_usage
from ng_rollouts.types import ANSWER_FIELDS, AgentRequest, Json, Result, Rollout, RolloutKey

_WITHOUT_SCORE = (FailureClass.NO_REWARD, FailureClass.NOT_FINITE)
"""Failures of the scorer in a reply that may have an answer."""


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """Calls the agent of a rollout, and converts its reply to a result."""

    config: CollectConfig
    agents: Mapping[str, Agent]

    max_concurrency = None

    def summary_lines(self) -> Iterable[str]:
        """No lines: the summary reports on agents and their servers itself."""
        return ()

    async def call(self, rollout: Rollout, attempts: int, answer: Json | None = None) -> Result:
        """Make one attempt."""
        agent = self.agents[rollout.agent]
        request = rollout.request(attempts, answer)
        begin_session(self._session_headers(rollout.key))
        reply = await (agent.run(request) if agent.is_remote else self._run_with_timeout(agent, request))
        try:
            return result_of(
                rollout,
                reply,
                training_view=self.config.training_view,
                scored=agent.scores,
                answer_key=self.config.answer_key,
                health_of=None if self.config.disable_health_check else health_of,
            )
        except AttemptFailed as failure:
            if agent.is_remote:  # agents in this process have counted the tokens of their requests
                count_usage(usage_of(reply))
            if failure.failure_class in _WITHOUT_SCORE and isinstance(reply.get("response"), dict):
                failure.kept = {name: reply[name] for name in ANSWER_FIELDS if name in reply}
            raise

    def _session_headers(self, key: RolloutKey) -> Headers:
        """The header by which a router sends requests with the same prompt to the same server."""
        config = self.config
        if config.session_header is None:
            return NO_HEADERS
        rollout = f"-{key.rollout_index}" if config.session_by == "rollout" else ""
        return {config.session_header: f"{_name_of_run(config.output_jsonl_fpath)}-{key.task_index}{rollout}"}

    async def _run_with_timeout(self, agent: Agent, request: AgentRequest) -> Json:
        """Run an agent of this process within `rollout_timeout_s`. The HTTP client enforces it for remote agents."""
        try:
            async with asyncio.timeout(self.config.rollout_timeout_s):
                return await agent.run(request)
        except TimeoutError as error:
            message = f"no answer within {self.config.rollout_timeout_s:g} s"
            raise AttemptFailed(FailureClass.TIMEOUT, message) from error


@lru_cache
def _name_of_run(output: str) -> str:
    """A name that tells the keys of two runs apart. A resume, or another actor, has the same path and name."""
    return f"{crc32(output.encode()):08x}"
