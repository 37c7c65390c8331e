"""The agents of data: who answers a row that names the entry of its data (`task_source`) and no agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from ng_rollouts.config.parameters import CollectConfig

if TYPE_CHECKING:
    from ng_rollouts.agents.server_config import ServerConfig

EXAMPLE_AGENTS = ("example_math_agent", "example_tool_agent")
"""The packaged examples, which run in this process."""


def source_agents(config: CollectConfig) -> Callable[[str], str]:
    """A function that maps a `task_source` to its agent. It asks the head server when it is first needed.

    Raises:
        InputError: (the function) the source has no agent, or several.
        Unreachable: (the function) the head server does not respond.
    """

    @cache
    def servers() -> ServerConfig:
        from ng_rollouts.agents.head_server import fetch_server_config  # noqa: PLC0415 - few runs need it

        head, seconds, engine = config.head_server, config.wait_for_agent_s, config.http_engine
        return asyncio.run(fetch_server_config(head, "the agents of task_source", seconds, engine))

    def agent_of(source: str) -> str:
        # An agent's own entry stands for itself.
        return source if source in config.agents or source in EXAMPLE_AGENTS else servers().agent_of_source(source)

    return agent_of
