"""The configuration of NeMo Gym's servers, as the head server gives it: who answers a row, and at which address.

The configuration is the text of another program. Values are read from it, and nothing in it is executed or resolved but
plain references such as `${other.host}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ng_rollouts.agents.urls import is_url
from ng_rollouts.config.parameters import HeadServer
from ng_rollouts.errors import ConfigError, InputError, did_you_mean
from ng_rollouts.types import Json

AGENTS, RESOURCES, ENVIRONMENTS = "responses_api_agents", "resources_servers", "environment_servers"
"""The kinds of entries that matter to a collector."""

_EPISODES_ONLY = ("single_agent_turn", "nemo_user_sim")
"""Types of environment servers that reject flat rows."""

_REFERENCE = re.compile(r"\$\{([A-Za-z0-9_.-]+)\}")
"""A plain reference to another value of the config, from its root. Resolvers such as `${oc.env:NAME}` are none."""

_MAX_REFERENCES = 20

_NULLS = ("", "~", "null", "Null", "NULL")
"""The forms of a missing value in YAML."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentServer:
    """A server that answers whole rollouts, with an agent or without one behind it.

    Attributes:
        type: the name of its implementation, which results are marked with.
        agents: the names of the agents that it calls.
    """

    name: str
    type: str
    url: str
    agents: frozenset[str] = frozenset()

    @property
    def stamps(self) -> Json:
        """The fields that mark its results, as NeMo Gym's collector does."""
        return {"_ng_environment_server": self.name, "_ng_result_type": self.type}


@dataclass(slots=True)
class ServerConfig:
    """The servers in a head server's configuration; entries without an address are skipped.

    Attributes:
        agents: the URL of each agent, by its name.
        environments: by their names.
        agents_of: for each entry that data can belong to, the names of its agents.
        entries: the names of all entries.
    """

    agents: dict[str, str] = field(default_factory=dict)
    environments: dict[str, EnvironmentServer] = field(default_factory=dict)
    agents_of: dict[str, list[str]] = field(default_factory=dict)
    entries: list[str] = field(default_factory=list)

    def environment_of(self, agent: str) -> EnvironmentServer | None:
        """The environment server before an agent; None if there is none.

        Raises:
            ConfigError: there are several, or it does not take flat rows.
        """
        found = [server for server in self.environments.values() if agent in server.agents]
        if len(found) > 1:
            names = ", ".join(server.name for server in found)
            raise ConfigError(
                f"the agent {agent!r} is behind several environment servers ({names}): choose one with "
                "+environment_routing_mode=legacy +environment_server_name=NAME"
            )
        if found and found[0].type in _EPISODES_ONLY:
            raise ConfigError(
                f"the agent {agent!r} is behind the environment server {found[0].name!r} of type {found[0].type}, "
                "which takes materialized rows only: collect from these"
            )
        return found[0] if found else None

    def agent_of_source(self, source: str) -> str:
        """The agent of the entry that a row's `task_source` names.

        Raises:
            InputError: the entry does not exist, or it does not have exactly one agent.
        """
        agents = self.agents_of.get(source)
        if agents is None:
            kind = "is not an entry that data belong to" if source in self.entries else "is not in the servers' config"
            raise InputError(f"task_source {source!r} {kind}{did_you_mean(source, self.agents_of)}")
        if len(agents) != 1:
            count = f"{len(agents)} agents ({', '.join(agents)})" if agents else "no agent"
            raise InputError(f"task_source {source!r} has {count}: choose one with +agent_map.{source}=NAME")
        return agents[0]


def parse_server_config(config: Any, head: HeadServer) -> ServerConfig:
    """The servers of a head server's global config."""
    servers = ServerConfig()
    pins: dict[str, list[str]] = {}
    users: dict[str, list[str]] = {}
    for name, kind, type_name, server in _servers(config):
        url = _url_of(server, config, head)
        if kind == AGENTS:
            servers.agents_of[name] = [name]
            if url:
                servers.agents[name] = url
            users.setdefault(str(_name_in(server.get("resources_server"))), []).append(name)
        elif kind == RESOURCES:
            pins[name] = _pinned_agents(server)
        elif kind == ENVIRONMENTS and url:
            agents = frozenset(filter(None, map(_agent_in, server.values())))
            servers.environments[name] = EnvironmentServer(name=name, type=type_name, url=url, agents=agents)
    servers.agents_of.update({name: pinned or users.get(name, []) for name, pinned in pins.items()})
    servers.entries.extend(map(str, config if isinstance(config, dict) else ()))
    return servers


def _servers(config: Any) -> Iterator[tuple[str, str, str, Json]]:
    """Name of the entry, kind, type and content of each server."""
    for name, entry in config.items() if isinstance(config, dict) else ():
        for kind in (AGENTS, RESOURCES, ENVIRONMENTS):
            types = entry.get(kind) if isinstance(entry, dict) else None
            for type_name, server in types.items() if isinstance(types, dict) else ():
                if isinstance(server, dict):
                    yield str(name), kind, str(type_name), server


def _pinned_agents(server: Json) -> list[str]:
    """The agents that the data sets of a resources server name."""
    datasets = server.get("datasets")
    named = [each.get("agent") for each in datasets if isinstance(each, dict)] if isinstance(datasets, list) else []
    return list(dict.fromkeys(agent for agent in named if isinstance(agent, str) and agent not in _NULLS))


def _agent_in(value: Any) -> str | None:
    """The agent that a field of an environment server names."""
    is_agent = isinstance(value, dict) and value.get("type") == AGENTS
    return _name_in(value) if is_agent else None


def _name_in(reference: Any) -> str | None:
    name = reference.get("name") if isinstance(reference, dict) else None
    return name if isinstance(name, str) else None


def _url_of(server: Json, config: Json, head: HeadServer) -> str | None:
    host, port = _resolved(server, "host", config), _resolved(server, "port", config)
    # a server that listens on all interfaces is reached through the host of the head server
    host = head.host if host == "0.0.0.0" else host  # noqa: S104 - read, not bound
    # an IPv6 address needs brackets in a URL (RFC 3986, section 3.2.2)
    url = f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"
    return url if host and port and is_url(url) else None


def _resolved(server: Any, name: str, global_config: Json) -> Any:
    """A field of a server's entry, with `${a.b}` replaced by the value it refers to; None without such a value.

    OmegaConf would also resolve `${oc.env:NAME}` in it, and send the value of an environment variable to an address
    that the config names.
    """
    value = server.get(name) if isinstance(server, dict) else None
    for _ in range(_MAX_REFERENCES):
        # A list may refer to itself many times: even its text would take gigabytes.
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value in _NULLS:
            return None
        if isinstance(value, int) or "${" not in value:
            return value
        match = _REFERENCE.search(value)
        if match is None:
            return None
        referred = _value_at(global_config, match[1])
        if not isinstance(referred, (str, int)):
            return None
        value = referred if match[0] == value else value.replace(match[0], str(referred), 1)
    return None


def _value_at(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config
