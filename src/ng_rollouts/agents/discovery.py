"""An agent's name -> the agent: addresses given, entries of the config, packaged examples, the head server."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from difflib import get_close_matches
from typing import Any

from ng_rollouts.agents import Agent
from ng_rollouts.agents.readiness import Tell, wait_for_servers
from ng_rollouts.agents.server import ServerAgent
from ng_rollouts.config import CollectConfig, HeadServer
from ng_rollouts.errors import AttemptFailed, ConfigError, Unreachable
from ng_rollouts.http import Http, HttpxClient, TimeLimits, without_credentials
from ng_rollouts.jsonlines import loads
from ng_rollouts.records import Json

EXAMPLE_AGENTS = ("example_math_agent", "example_tool_agent")
"""Agents that come with this package and run within the process."""

_ASKED_TIMES = 3
_ASKED_FOR_S = 10.0


async def find_agents(
    names: Iterable[str], config: CollectConfig, stack: AsyncExitStack, tell: Tell
) -> dict[str, Agent]:
    """The agents that answer for these names, all there; their connections are closed with the stack.

    Raises:
        ConfigError: nobody knows a name, or an address is none.
        Unreachable: the head server, which has to be asked, or an agent's server is not there.
    """
    limits = TimeLimits(
        connect_s=config.connect_timeout_s, idle_s=config.idle_timeout_s, total_s=config.rollout_timeout_s
    )
    http = await stack.enter_async_context(HttpxClient(limits))
    given = ServerAgent(addresses(config.agent_url, "agent_url"), http) if config.agent_url else None
    entries = {name: _entry(name, entry) for name, entry in config.agents.items()}
    found: dict[str, Agent] = {}
    unknown: list[str] = []
    for name in names:
        if given and config.agent_name in (None, name):
            found[name] = given
        elif name in entries:
            found[name] = ServerAgent(entries[name], http)
        elif name in EXAMPLE_AGENTS:
            found[name] = await _example(name, limits, stack)
        else:
            unknown.append(name)
    if unknown:
        listed = await _ask_head_server(config.head_server, unknown)
        _check_known(unknown, [*entries, *listed], config.head_server)
        found |= {name: ServerAgent([listed[name]], http) for name in unknown}
    servers = [agent for name, agent in found.items() if isinstance(agent, ServerAgent) and name not in EXAMPLE_AGENTS]
    await wait_for_servers({url for agent in servers for url in agent.urls}, config.wait_for_agent_s, tell)
    return found


def addresses(value: Any, parameter: str) -> list[str]:
    """One URL or a list of them.

    Raises:
        ConfigError: one is no http URL.
    """
    urls = value if isinstance(value, list) else [value]
    for url in urls:
        if not isinstance(url, str) or not url.startswith(("http://", "https://")) or not url.split("://", 1)[1]:
            shown = without_credentials(url) if isinstance(url, str) else url
            raise ConfigError(f"{parameter} must be a URL such as http://127.0.0.1:8000, got {shown!r}")
    if not urls:
        raise ConfigError(f"{parameter} is an empty list: give at least one URL")
    return list(urls)


def listed_agents(global_config: Any, head: HeadServer) -> dict[str, str]:
    """Agent names and addresses in a head server's global config; entries without an address are left out."""
    listed = {}
    for name, entry in global_config.items() if isinstance(global_config, dict) else ():
        kinds = entry.get("responses_api_agents") if isinstance(entry, dict) else None
        for server in kinds.values() if isinstance(kinds, dict) else ():
            host, port = _plain(server, "host", global_config), _plain(server, "port", global_config)
            if host and port:
                listed[name] = f"http://{head.host if host == '0.0.0.0' else host}:{port}"  # noqa: S104 - read, not bound
    return listed


def _plain(server: Any, field: str, global_config: Json) -> Any:
    """A field of a server's entry, with its interpolation resolved if it is one."""
    value = server.get(field) if isinstance(server, dict) else None
    if not isinstance(value, str) or "${" not in value:
        return value
    from omegaconf import OmegaConf  # noqa: PLC0415 - few configs need it here
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    try:
        return OmegaConf.select(OmegaConf.create({**global_config, "_value": value}), "_value")
    except OmegaConfBaseException:
        return None


def _entry(name: str, entry: Any) -> list[str]:
    parameter = f"agents.{name}.url"
    if isinstance(entry, str):
        return addresses(entry, parameter)
    if not isinstance(entry, dict) or "url" not in entry:
        raise ConfigError(f"agents.{name} needs an address: +{parameter}=http://127.0.0.1:8000")
    return addresses(entry["url"], parameter)


async def _example(name: str, limits: TimeLimits, stack: AsyncExitStack) -> Agent:
    from ng_rollouts.agents.example.app import example_app  # noqa: PLC0415 - only runs that use it load it

    http = await stack.enter_async_context(HttpxClient(limits, app=example_app(name)))
    return ServerAgent([f"http://{name}"], http)


async def _ask_head_server(head: HeadServer, names: list[str]) -> dict[str, str]:
    import yaml  # noqa: PLC0415 - only runs that ask need it

    address = f"http://{head.host}:{head.port}"
    sought = f"to look up {', '.join(map(repr, names))}"
    cure = "start the servers, or give +agent_url=URL, +head_server.host= or +head_server.port="
    try:
        async with HttpxClient(TimeLimits(connect_s=5.0, total_s=30.0)) as http:
            reply = await _patiently(http, f"{address}/global_config_dict_yaml")
    except AttemptFailed as error:
        raise Unreachable(
            f"the head server at {address} cannot be reached {sought} ({error.message}): {cure}"
        ) from error
    if reply.status != 200:
        raise Unreachable(f"the head server at {address} answers HTTP {reply.status}: {cure}")
    try:
        return listed_agents(yaml.safe_load(loads(reply.body)), head)
    except (ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise Unreachable(f"what answers at {address} is no head server of NeMo Gym's: {cure}") from error


async def _patiently(http: Http, url: str) -> Any:
    import stamina  # noqa: PLC0415 - only runs that ask need it
    from stamina.instrumentation import set_on_retry_hooks  # noqa: PLC0415

    set_on_retry_hooks([])
    async for attempt in stamina.retry_context(on=AttemptFailed, attempts=_ASKED_TIMES, timeout=_ASKED_FOR_S):
        with attempt:
            return await http.get(url)
    raise AssertionError("stamina yields until success or raises")


def _check_known(names: list[str], known: list[str], head: HeadServer) -> None:
    known = sorted({*known, *EXAMPLE_AGENTS})
    for name in names:
        if name in known:
            continue
        near = get_close_matches(name, known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ";"
        where = f"head server http://{head.host}:{head.port}, config and examples know: {', '.join(known)}"
        raise ConfigError(f"no agent is called {name!r}{hint} {where}")
