"""An agent's name -> the agent: addresses given, entries of the config, packaged examples, a model server, the head
server."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ng_rollouts.agents.base import Agent
from ng_rollouts.agents.health_check import wait_for_servers
from ng_rollouts.agents.remote_agent import RemoteAgent
from ng_rollouts.agents.urls import parse_urls
from ng_rollouts.config.parameters import ENTRY_KEYS, POLICY_APIS, CollectConfig, HeadServer
from ng_rollouts.config.validation import check_sampling
from ng_rollouts.errors import ConfigError, Unreachable, did_you_mean
from ng_rollouts.http.client import Http, TimeLimits, open_http
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.http.rate_limiter import RateLimiter
from ng_rollouts.redaction import remember_password_of, remember_secret, without_credentials
from ng_rollouts.types import Json

if TYPE_CHECKING:
    from ng_rollouts.agents.model_agent import ModelAgent
    from ng_rollouts.models.client import ModelClient
    from ng_rollouts.verifiers.process_pool import ProcessPool

# What few runs need is imported where it is used: a run over an agent server is not to load verifiers.
# ruff: noqa: PLC0415

EXAMPLE_AGENTS = ("example_math_agent", "example_tool_agent")
"""Agents that come with this package and run within the process."""


async def resolve_agents(names: Mapping[str, int], config: CollectConfig, stack: AsyncExitStack) -> dict[str, Agent]:
    """The agents that answer for these names, all there; their connections are closed with the stack.

    Args:
        names: agents, and how many rows each is for.

    Raises:
        ConfigError: nobody knows a name, or an address is none.
        Unreachable: the head server, which has to be asked, or an agent's or a model's server is not there.
    """
    limits = TimeLimits(
        connect_s=config.connect_timeout_s, idle_s=config.idle_timeout_s, total_s=config.rollout_timeout_s
    )
    http = await stack.enter_async_context(open_http(limits, config.http_engine))
    maker = AgentFactory(config, http, RateLimiter(config.max_requests_per_minute, config.max_tokens_per_minute), stack)
    given = maker.server(parse_urls(config.agent_url, "agent_url")) if config.agent_url is not None else None
    entries = {name: maker.of_entry(name, entry) for name, entry in config.agents.items() if name in names}
    straight = maker.model_agent({}, "") if config.policy_base_url is not None and not given else None
    found: dict[str, Agent] = {}
    unknown: dict[str, int] = {}
    for name, rows in names.items():
        if given and config.agent_name in (None, name):
            found[name] = given
        elif name in entries:
            found[name] = entries[name]
        elif name in EXAMPLE_AGENTS:
            found[name] = await _example(name, limits, stack, maker.rate_limiter)
        elif straight:
            found[name] = straight
        else:
            unknown[name] = rows
    if unknown:
        listed = await _look_up(unknown, [*config.agents, *EXAMPLE_AGENTS], config.head_server, config.http_engine)
        found |= {name: maker.server([url], is_listed=True) for name, url in listed.items()}
    servers = [agent for name, agent in found.items() if agent.is_remote and name not in EXAMPLE_AGENTS]
    load_balancers = [load_balancer for agent in dict.fromkeys(servers) for load_balancer in agent.load_balancers]
    load_balancers += [LoadBalancer([url]) for url in dict.fromkeys(maker.resources)]
    await wait_for_servers(load_balancers, config.wait_for_agent_s, config.http_engine)
    for model_server in maker.model_servers:
        await model_server.resolve_model(config.wait_for_agent_s)
    return found


def check_entry(name: str, entry: Json) -> None:
    """Hold what an entry says against what its parameters may be.

    Raises:
        ConfigError: a value is not.
    """
    where = f"agents.{name}."
    params, steps = entry.get("responses_create_params") or {}, entry.get("max_steps", 1)
    if not isinstance(params, dict):
        raise ConfigError(f"{where}responses_create_params must be a dict, got {params!r}")
    check_sampling(params, f"{where}responses_create_params.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"{where}max_steps must be an integer from 1, got {steps!r}")
    if entry.get("policy_api", "auto") not in POLICY_APIS:
        raise ConfigError(f"{where}policy_api must be one of {', '.join(POLICY_APIS)}, got {entry['policy_api']!r}")
    for key in ("policy_api_key", "policy_model_name", "tools", "resources_base_url", "_target_"):
        if not isinstance(entry.get(key, ""), str | None):
            raise ConfigError(f"{where}{key} must be text, got {entry[key]!r}")
    idle = sorted(entry.keys() & {"verifier", "tools", "max_steps", "resources_base_url", "responses_create_params"})
    if "_target_" in entry and idle:
        raise ConfigError(f"{where}{idle[0]} has no effect beside _target_: the function does all there is to do")


@dataclass(slots=True)
class AgentFactory:
    """Makes agents of what the config says of them."""

    config: CollectConfig
    http: Http
    rate_limiter: RateLimiter
    stack: AsyncExitStack
    process_pool: ProcessPool | None = None
    model_servers: list[ModelClient] = field(default_factory=list)
    load_balancers: dict[tuple[str, ...], LoadBalancer] = field(default_factory=dict)
    resources: list[str] = field(default_factory=list)

    def server(self, urls: list[str], *, is_listed: bool = False) -> RemoteAgent:
        return RemoteAgent(urls, self.http, self.rate_limiter, is_listed=is_listed)

    def of_entry(self, name: str, entry: Any) -> Agent:
        """The agent of an entry under `agents`: an agent server, a model server, or a function."""
        if isinstance(entry, str):
            return self.server(parse_urls(entry, f"agents.{name}.url"))
        if not isinstance(entry, dict):
            raise ConfigError(f"agents.{name} needs an address: +agents.{name}.url=http://127.0.0.1:8000")
        for key in entry.keys() - {*ENTRY_KEYS, "url", "_target_"}:
            raise ConfigError(f"agents.{name} has no {key!r}{did_you_mean(key, [*ENTRY_KEYS, 'url', '_target_'])}")
        if "url" in entry:
            return self.server(parse_urls(entry["url"], f"agents.{name}.url"))
        from ng_rollouts.agents.python_agent import PolicyClient, PythonAgent

        check_entry(name, entry)
        if "_target_" in entry:
            asks = self._value(entry, "policy_base_url") is not None
            server = self._policy_server(entry, f"agents.{name}.") if asks else None
            return PythonAgent(target=entry["_target_"], client=PolicyClient(server))
        if self._value(entry, "policy_base_url") is None:
            told = f"+agents.{name}.url=http://127.0.0.1:8000 for an agent server, +agents.{name}.policy_base_url=URL"
            raise ConfigError(f"agents.{name} needs an address: {told} for a model server")
        return self.model_agent(entry, f"agents.{name}.")

    def model_agent(self, entry: Json, prefix: str) -> ModelAgent:
        """An agent in the process; what the entry does not say, the config does."""
        from ng_rollouts.agents.model_agent import ModelAgent
        from ng_rollouts.agents.tools import PythonTools
        from ng_rollouts.verifiers.process_pool import ProcessPool
        from ng_rollouts.verifiers.registry import build_verifier, verifier_options

        if self.process_pool is None:
            self.process_pool = ProcessPool()
            self.stack.callback(self.process_pool.stop)
        resources, tools = self._value(entry, "resources_base_url"), self._value(entry, "tools")
        options = verifier_options(self._value(entry, "verifier"), f"{prefix}verifier")
        if resources:
            self.resources += parse_urls(resources, f"{prefix}resources_base_url")
        return ModelAgent(
            server=self._policy_server(entry, prefix),
            verifier=build_verifier(options, self.process_pool, partial(self._judge_server, entry)),
            http=self.http,
            params=entry.get("responses_create_params") or {},
            resources_url=parse_urls(resources, f"{prefix}resources_base_url")[0] if resources else None,
            tools=PythonTools(tools) if tools else None,
            max_steps=self._value(entry, "max_steps"),
        )

    def _value(self, entry: Json, name: str) -> Any:
        return entry[name] if name in entry else getattr(self.config, name)

    def _policy_server(self, entry: Json, prefix: str) -> ModelClient:
        urls = parse_urls(self._value(entry, "policy_base_url"), f"{prefix}policy_base_url")
        elsewhere = entry.get("policy_base_url", self.config.policy_base_url) != self.config.policy_base_url
        key = entry.get("policy_api_key") if elsewhere else self._value(entry, "policy_api_key")
        return self._model_server(urls, key, self._value(entry, "policy_model_name"), self._value(entry, "policy_api"))

    def _judge_server(self, entry: Json, options: Json) -> ModelClient:
        """The judge's own server, or the policy's if none is named."""
        own = "base_url" in options
        url = options["base_url"] if own else self._value(entry, "policy_base_url")
        key = options.get("api_key", None if own else self._value(entry, "policy_api_key"))
        model = options.get("model", None if own else self._value(entry, "policy_model_name"))
        api = options.get("api", "auto" if own else self._value(entry, "policy_api"))
        return self._model_server(parse_urls(url, "verifier.base_url"), key, model, api)

    def _model_server(self, urls: list[str], key: str | None, model: str | None, api: str) -> ModelClient:
        from ng_rollouts.models.client import ModelClient, base_url

        for url in urls:
            remember_password_of(url)
            if "?" in url or "#" in url:
                raise ConfigError(f"{without_credentials(url)}: a base address ends with its path, up to /v1")
        if key:
            remember_secret(key)
            if not (key.isascii() and key.isprintable()):
                raise ConfigError("policy_api_key has characters that no header can carry: check where it comes from")
        load_balancer = self.load_balancers.setdefault(
            tuple(urls), LoadBalancer([base_url(url) for url in urls], self.rate_limiter)
        )
        server = ModelClient(load_balancer, self.http, api=api, model=model, api_key=key)
        self.model_servers.append(server)
        return server


async def _example(name: str, limits: TimeLimits, stack: AsyncExitStack, rate_limiter: RateLimiter) -> Agent:
    from ng_rollouts.agents.example.app import example_app

    http = await stack.enter_async_context(open_http(limits, app=example_app(name)))
    return RemoteAgent([f"http://{name}"], http, rate_limiter)


async def _look_up(names: dict[str, int], known: list[str], head: HeadServer, engine: str) -> dict[str, str]:
    """Addresses of these agents, as the head server lists them."""
    from ng_rollouts.agents.head_server import ask_head_server

    sought = ", ".join(f"{name!r}{did_you_mean(name, known)}, the agent of {rows} rows" for name, rows in names.items())
    try:
        listed = await ask_head_server(head, sought, engine)
    except Unreachable as error:
        raise Unreachable(f"{error}; known without it: {', '.join(sorted(known))}") from error
    known = sorted({*known, *listed})
    for name, rows in names.items():
        if name not in listed:
            where = f"head server http://{head.host}:{head.port}, config and examples know: {', '.join(known)}"
            message = f"no agent is called {name!r} (the agent of {rows} rows){did_you_mean(name, known)}: {where}"
            raise ConfigError(message)
    return {name: listed[name] for name in names}
