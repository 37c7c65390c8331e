"""An agent's name -> the agent: addresses given, entries of the config, packaged examples, the head server."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from difflib import get_close_matches
from typing import Any

from ng_rollouts.agents import Agent
from ng_rollouts.agents.addresses import addresses
from ng_rollouts.agents.head_server import ask_head_server
from ng_rollouts.agents.readiness import Tell, wait_for_servers
from ng_rollouts.agents.server import ServerAgent
from ng_rollouts.config import CollectConfig, HeadServer
from ng_rollouts.errors import ConfigError, Unreachable
from ng_rollouts.http import TimeLimits, open_http

EXAMPLE_AGENTS = ("example_math_agent", "example_tool_agent")
"""Agents that come with this package and run within the process."""


async def find_agents(
    names: Mapping[str, int], config: CollectConfig, stack: AsyncExitStack, tell: Tell
) -> dict[str, Agent]:
    """The agents that answer for these names, all there; their connections are closed with the stack.

    Args:
        names: agents, and how many rows each is for.

    Raises:
        ConfigError: nobody knows a name, or an address is none.
        Unreachable: the head server, which has to be asked, or an agent's server is not there.
    """
    limits = TimeLimits(
        connect_s=config.connect_timeout_s, idle_s=config.idle_timeout_s, total_s=config.rollout_timeout_s
    )
    http = await stack.enter_async_context(open_http(limits, config.http_engine))
    given = ServerAgent(addresses(config.agent_url, "agent_url"), http) if config.agent_url is not None else None
    entries = {name: _entry(name, entry) for name, entry in config.agents.items()}
    found: dict[str, Agent] = {}
    unknown: dict[str, int] = {}
    for name, rows in names.items():
        if given and config.agent_name in (None, name):
            found[name] = given
        elif name in entries:
            found[name] = ServerAgent(entries[name], http)
        elif name in EXAMPLE_AGENTS:
            found[name] = await _example(name, limits, stack)
        else:
            unknown[name] = rows
    if unknown:
        listed = await _look_up(unknown, [*entries, *EXAMPLE_AGENTS], config.head_server, config.http_engine)
        found |= {name: ServerAgent([url], http) for name, url in listed.items()}
    servers = [agent for name, agent in found.items() if isinstance(agent, ServerAgent) and name not in EXAMPLE_AGENTS]
    await wait_for_servers(
        {url for agent in servers for url in agent.urls}, config.wait_for_agent_s, config.http_engine, tell
    )
    return found


def _entry(name: str, entry: Any) -> list[str]:
    parameter = f"agents.{name}.url"
    if isinstance(entry, str):
        return addresses(entry, parameter)
    if not isinstance(entry, dict) or "url" not in entry:
        raise ConfigError(f"agents.{name} needs an address: +{parameter}=http://127.0.0.1:8000")
    return addresses(entry["url"], parameter)


async def _example(name: str, limits: TimeLimits, stack: AsyncExitStack) -> Agent:
    from ng_rollouts.agents.example.app import example_app  # noqa: PLC0415 - only runs that use it load it

    http = await stack.enter_async_context(open_http(limits, app=example_app(name)))
    return ServerAgent([f"http://{name}"], http)


async def _look_up(names: dict[str, int], known: list[str], head: HeadServer, engine: str) -> dict[str, str]:
    """Addresses of these agents, as the head server lists them."""
    sought = ", ".join(f"{name!r}{_nearest(name, known)}, the agent of {rows} rows" for name, rows in names.items())
    try:
        listed = await ask_head_server(head, sought, engine)
    except Unreachable as error:
        raise Unreachable(f"{error}; known without it: {', '.join(sorted(known))}") from error
    known = sorted({*known, *listed})
    for name, rows in names.items():
        if name not in listed:
            where = f"head server http://{head.host}:{head.port}, config and examples know: {', '.join(known)}"
            message = f"no agent is called {name!r} (the agent of {rows} rows){_nearest(name, known)}: {where}"
            raise ConfigError(message)
    return {name: listed[name] for name in names}


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
