"""Find or make the agent for each agent name.

A name is looked up in this order:

1. `agent_url`, if `agent_name` is this name or not set: a remote agent.
2. The entries of `agents`: a remote agent, a Python agent or a model agent.
3. The packaged examples.
4. `policy_base_url`: one model agent for all remaining names.
5. The head server: a remote agent, or the environment server before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ng_rollouts.agents.base import Agent
from ng_rollouts.agents.health_check import wait_for_servers
from ng_rollouts.agents.remote_agent import RemoteAgent
from ng_rollouts.agents.source_agents import EXAMPLE_AGENTS
from ng_rollouts.agents.urls import parse_urls
from ng_rollouts.config.combinations import ROLLOUT_LIMITS
from ng_rollouts.config.parameters import ENTRY_KEYS, POLICY_APIS, TOKEN_IDS, CollectConfig
from ng_rollouts.config.validation import check_sampling
from ng_rollouts.console import counted, log
from ng_rollouts.errors import ConfigError, Unreachable, did_you_mean
from ng_rollouts.http.client import Http, TimeLimits, cancelling_engine, open_http
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.http.rate_limiter import RateLimiter
from ng_rollouts.redaction import remember_secret, remember_url, without_credentials
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.types import Json

if TYPE_CHECKING:
    from ng_rollouts.agents.model_agent import ModelAgent
    from ng_rollouts.agents.server_config import EnvironmentServer, ServerConfig
    from ng_rollouts.models.client import ModelClient
    from ng_rollouts.verifiers.base import GroupVerifier, Verifier
    from ng_rollouts.workers.process_pool import ProcessPool

# Modules that only some runs need are imported where they are used: a run with a remote agent loads no verifiers.
# ruff: noqa: PLC0415


async def resolve_agents(
    rows_by_agent: Mapping[str, int], config: CollectConfig, stack: AsyncExitStack
) -> dict[str, Agent]:
    """Find or make the agents, and wait until their servers respond.

    Args:
        rows_by_agent: number of rows by agent name; the numbers are for messages.
        stack: closes the agents' connections and worker processes.

    Raises:
        ConfigError: a name is unknown, or a URL is not valid.
        Unreachable: the server of an agent or a model does not respond, or the head server, if it is needed.
    """
    factory = await open_factory(config, stack)
    agents = factory.configured_agents(rows_by_agent)
    others = {name: rows for name, rows in rows_by_agent.items() if name not in agents}
    examples = {name: await _example(name, factory) for name in others if name in EXAMPLE_AGENTS}
    # last, because a run that does not need the head server must not fail without one
    if unresolved := {name: rows for name, rows in others.items() if name not in examples}:
        servers = await _look_up(unresolved, [*config.agents, *EXAMPLE_AGENTS], config)
        agents |= {name: factory.listed_agent(name, servers) for name in unresolved}
    if config.scoring == "defer":
        _check_deferred(agents | examples)
    _warn_of_limits(agents | examples, config)
    # without the examples: they are remote agents too, but their URLs are served in this process
    await factory.wait_for_servers(agents.values())
    return agents | examples


def _check_deferred(agents: Mapping[str, Agent]) -> None:
    """Check that scoring can be deferred.

    Raises:
        ConfigError: an agent scores its answers itself.
    """
    if name := next((name for name, agent in agents.items() if agent.scores), None):
        raise ConfigError(f"scoring=defer: agent {name} scores its answers itself: use scoring=now, or a model server")


def _warn_of_limits(agents: Mapping[str, Agent], config: CollectConfig) -> None:
    """Warn of agents whose rollouts have no limits, because they make their model calls themselves."""
    limit = next((name for name in ROLLOUT_LIMITS if getattr(config, name) is not None), None)
    if limit is None:
        return
    from ng_rollouts.agents.model_agent import ModelAgent

    if unlimited := [name for name, agent in agents.items() if not isinstance(agent, ModelAgent)]:
        log(f"warning: {limit} does not apply to {', '.join(unlimited)}, which make their model calls themselves")


async def open_factory(config: CollectConfig, stack: AsyncExitStack) -> AgentFactory:
    """Make a factory, with an HTTP client that the stack closes."""
    # Of two attempts, the one that answers second is cancelled.
    engine = config.http_engine if config.hedge_after is None else cancelling_engine(config.http_engine)
    http = await stack.enter_async_context(
        open_http(_limits(config), engine, max_reply_bytes=int(config.max_reply_mb * 1_000_000))
    )
    rate_limiter = RateLimiter(config.max_requests_per_minute, config.max_tokens_per_minute)
    return AgentFactory(config, http, rate_limiter, stack)


def _limits(config: CollectConfig) -> TimeLimits:
    return TimeLimits(
        connect_s=config.connect_timeout_s, idle_s=config.idle_timeout_s, total_s=config.rollout_timeout_s
    )


def check_entry(name: str, entry: Json) -> None:
    """Check the values of an entry under `agents`.

    Raises:
        ConfigError: a value has the wrong type, is out of range, or has no effect.
    """
    where = f"agents.{name}."
    params, steps = entry.get("responses_create_params") or {}, entry.get("max_steps", 1)
    if not isinstance(params, dict):
        raise ConfigError(f"{where}responses_create_params must be a dict, got {params!r}")
    check_sampling(params, f"{where}responses_create_params.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"{where}max_steps must be a positive integer, got {steps!r}")
    for key, choices in (("policy_api", POLICY_APIS), ("token_ids", TOKEN_IDS)):
        if entry.get(key, choices[0]) not in choices:
            raise ConfigError(f"{where}{key} must be one of {', '.join(choices)}, got {entry[key]!r}")
    for key in ("policy_api_key", "policy_model_name", "tools", "resources_base_url", "_target_"):
        if not isinstance(entry.get(key, ""), str | None):
            raise ConfigError(f"{where}{key} must be a string, got {entry[key]!r}")
    unused = sorted(entry.keys() & {"verifier", "tools", "max_steps", "resources_base_url", "responses_create_params"})
    if "_target_" in entry and unused:
        raise ConfigError(f"{where}{unused[0]} has no effect with _target_: remove it, and do its work in the function")


@dataclass(slots=True)
class AgentFactory:
    """Makes agents from the configuration.

    Attributes:
        process_pool: worker processes for verifiers; made with the first model agent.
        model_servers: the clients of all model servers, those of judges included unless scoring is deferred.
        load_balancers: by URLs; agents with the same URLs share one, so that it counts all requests in flight.
        resources_urls: URLs of resources servers.
    """

    config: CollectConfig
    http: Http
    rate_limiter: RateLimiter
    stack: AsyncExitStack
    process_pool: ProcessPool | None = None
    model_servers: list[ModelClient] = field(default_factory=list)
    load_balancers: dict[tuple[str, ...], LoadBalancer] = field(default_factory=dict)
    resources_urls: list[str] = field(default_factory=list)

    async def wait_for_servers(self, agents: Iterable[Agent]) -> None:
        """Wait until agent servers, resources servers and model servers respond.

        Raises:
            Unreachable: one does not.
        """
        wait_s = self.config.wait_for_agent_s
        servers = dict.fromkeys(agent for agent in agents if agent.is_remote)
        load_balancers = [load_balancer for agent in servers for load_balancer in agent.load_balancers]
        load_balancers += [LoadBalancer([url]) for url in dict.fromkeys(self.resources_urls)]
        await wait_for_servers(load_balancers, wait_s, self.config.http_engine)
        for model_server in self.model_servers:
            await model_server.resolve_model(wait_s)

    def configured_agents(self, names: Iterable[str]) -> dict[str, Agent]:
        """The agents that parameters give an address, a model or a function.

        Raises:
            ConfigError: a URL or an entry of `agents` is not valid.
        """
        config, names = self.config, list(names)
        explicit = (
            self.remote_agent(parse_urls(config.agent_url, "agent_url")) if config.agent_url is not None else None
        )
        entries = {name: self.from_entry(name, entry) for name, entry in config.agents.items() if name in names}
        default = self.model_agent({}, "") if config.policy_base_url is not None and not explicit else None
        agents: dict[str, Agent] = {}
        for name in names:
            if explicit and config.agent_name in (None, name):
                agents[name] = explicit
            elif name in entries:
                agents[name] = entries[name]
            elif default and name not in EXAMPLE_AGENTS:
                agents[name] = default
        return agents

    def remote_agent(self, urls: list[str]) -> RemoteAgent:
        """Make a remote agent."""
        return RemoteAgent(urls, self.http, self.rate_limiter)

    def listed_agent(self, name: str, servers: ServerConfig) -> RemoteAgent:
        """Make the agent of a name that a head server lists: the environment server before it answers, if there is one.

        Raises:
            ConfigError: it is behind several environment servers.
        """
        environment = self._environment(name, servers)
        url = environment.url if environment else servers.agents[name]
        return RemoteAgent([url], self.http, self.rate_limiter, is_listed=True, environment=environment)

    def _environment(self, name: str, servers: ServerConfig) -> EnvironmentServer | None:
        if name in servers.environments:
            return servers.environments[name]
        if self.config.environment_routing_mode == "legacy":
            return servers.environments[str(self.config.environment_server_name)]
        return servers.environment_of(name)

    def from_entry(self, name: str, entry: Any) -> Agent:
        """Make the agent of an entry under `agents`: a remote agent, a Python agent or a model agent.

        Raises:
            ConfigError: the entry has neither a URL nor a `_target_`, or has an unknown option or a wrong value.
        """
        if isinstance(entry, str):
            return self.remote_agent(parse_urls(entry, f"agents.{name}.url"))
        if not isinstance(entry, dict):
            raise ConfigError(f"agents.{name} needs a URL: +agents.{name}.url=http://127.0.0.1:8000")
        options = [*ENTRY_KEYS, "url", "_target_"]
        for key in entry.keys() - {*options}:
            raise ConfigError(f"agents.{name} has no option {key!r}{did_you_mean(key, options)}")
        if "url" in entry:
            return self.remote_agent(parse_urls(entry["url"], f"agents.{name}.url"))
        from ng_rollouts.agents.python_agent import PolicyClient, PythonAgent

        check_entry(name, entry)
        if "_target_" in entry:
            has_model = self._value(entry, "policy_base_url") is not None
            server = self._policy_server(entry, f"agents.{name}.") if has_model else None
            return PythonAgent(target=entry["_target_"], client=PolicyClient(server))
        if self._value(entry, "policy_base_url") is None:
            fix = f"+agents.{name}.url=http://127.0.0.1:8000 for a remote agent, +agents.{name}.policy_base_url=URL"
            raise ConfigError(f"agents.{name} needs a URL: {fix} for a model agent")
        return self.model_agent(entry, f"agents.{name}.")

    def model_agent(self, entry: Json, prefix: str) -> ModelAgent:
        """Make a model agent.

        Args:
            entry: the options of the agent; the parameter of the same name is the default of each.
            prefix: the start of parameter names in messages.
        """
        from ng_rollouts.agents.model_agent import ModelAgent
        from ng_rollouts.agents.rollout_limits import RolloutLimits
        from ng_rollouts.agents.tools import PythonTools

        resources, tools = self._value(entry, "resources_base_url"), self._value(entry, "tools")
        verifier = self.verifier(self._value(entry, "verifier"), f"{prefix}verifier", entry)
        defers = self.config.scoring == "defer"
        if resources and defers and not verifier.scores:
            raise ConfigError(
                f"scoring=defer with {prefix}resources_base_url needs +{prefix}verifier=NAME: a resources server can "
                "only score while its session lasts"
            )
        if resources:
            self.resources_urls += parse_urls(resources, f"{prefix}resources_base_url")
        return ModelAgent(
            server=self._policy_server(entry, prefix),
            verifier=verifier,
            http=self.http,
            params=entry.get("responses_create_params") or {},
            resources_url=parse_urls(resources, f"{prefix}resources_base_url")[0] if resources else None,
            tools=PythonTools(tools) if tools else None,
            max_steps=self._value(entry, "max_steps"),
            steps_parameter=(
                "max_rollout_turns" if self.config.max_rollout_turns and "max_steps" not in entry else "max_steps"
            ),
            limits=RolloutLimits(
                max_tokens=self.config.max_rollout_tokens,
                max_cost=self.config.max_rollout_cost,
                prices=self.config.price_per_million,
            ),
            retries=RetryPolicy(max_attempts=self.config.max_attempts, budget_s=self.config.retry_budget_s),
            defers_scoring=defers,
        )

    def verifier(self, value: Any, parameter: str, entry: Json) -> Verifier:
        """Make a verifier.

        Args:
            value: the value of the parameter.
            entry: the options of the agent whose model server is the default for judges.

        Raises:
            ConfigError: the value is not valid.
        """
        from ng_rollouts.verifiers.registry import build_verifier, is_group_verifier, verifier_options
        from ng_rollouts.workers.process_pool import ProcessPool

        options = verifier_options(value, parameter)
        if is_group_verifier(options):
            raise ConfigError(
                f"{parameter}={options['kind']} compares the rollouts of a task: collect with scoring=defer, then run "
                "ng_rescore_rollouts +verifier=group_judge (ng_collect_rollouts does both with +verifier=group_judge)"
            )
        if self.process_pool is None:
            self.process_pool = ProcessPool()
            self.stack.callback(self.process_pool.stop)
        return build_verifier(options, self.process_pool, partial(self._judge_server, entry))

    def group_verifier(self, options: Json) -> GroupVerifier:
        """Make a verifier that scores the rollouts of a task against each other.

        Args:
            options: as `verifier_options` returns them.

        Raises:
            ConfigError: the template cannot be read, or a judge has no address.
        """
        from ng_rollouts.verifiers.registry import build_group_verifier

        return build_group_verifier(options, partial(self._judge_server, {}))

    def _value(self, entry: Json, name: str) -> Any:
        """The entry's value, or that of the parameter of the same name; an explicit null counts as a value."""
        return entry[name] if name in entry else getattr(self.config, name)

    def _policy_server(self, entry: Json, prefix: str) -> ModelClient:
        urls = parse_urls(self._value(entry, "policy_base_url"), f"{prefix}policy_base_url")
        # an entry with another URL must bring its own key: the global key must not be sent to another server
        is_other_url = entry.get("policy_base_url", self.config.policy_base_url) != self.config.policy_base_url
        key = entry.get("policy_api_key") if is_other_url else self._value(entry, "policy_api_key")
        model, api, mode = (self._value(entry, name) for name in ("policy_model_name", "policy_api", "token_ids"))
        if mode != "never" and api == "responses":
            fix = "use policy_api=chat_completions"
            raise ConfigError(f"{prefix}token_ids={mode} needs fields that /responses does not have: {fix}")
        server = self._model_server(urls, key, model, api, mode)
        self.model_servers.append(server)
        return server

    def _judge_server(self, entry: Json, options: Json) -> ModelClient:
        """The judge's model server: `base_url` of the verifier's options, by default the policy's server."""
        # as with the policy: another URL does not receive the policy's key, nor its model name
        is_other_url = "base_url" in options
        url = options["base_url"] if is_other_url else self._value(entry, "policy_base_url")
        if url is None:
            raise ConfigError("the judge has no address: add +verifier.base_url=URL of its model server")
        key = options.get("api_key", None if is_other_url else self._value(entry, "policy_api_key"))
        model = options.get("model", None if is_other_url else self._value(entry, "policy_model_name"))
        api = options.get("api", "auto" if is_other_url else self._value(entry, "policy_api"))
        server = self._model_server(parse_urls(url, "verifier.base_url"), key, model, api, is_judge=True)
        if self.config.scoring == "now":  # a judge that is not asked need not be up
            self.model_servers.append(server)
        return server

    def _model_server(
        self,
        urls: list[str],
        key: str | None,
        model: str | None,
        api: str,
        ids_mode: str = "never",
        *,
        is_judge: bool = False,
    ) -> ModelClient:
        from ng_rollouts.models.client import ModelClient
        from ng_rollouts.models.request import base_url

        for url in urls:
            remember_url(url)
            if "#" in url:
                raise ConfigError(f"{without_credentials(url)}: a base URL must not have a fragment: remove it")
        if key:
            remember_secret(key)
            if not (key.isascii() and key.isprintable()):
                raise ConfigError("policy_api_key has characters that an HTTP header cannot hold: check its source")
        load_balancer = self.load_balancers.setdefault(
            tuple(urls), LoadBalancer([base_url(url) for url in urls], self.rate_limiter)
        )
        return ModelClient(
            load_balancer, self.http, api=api, model=model, api_key=key, ids_mode=ids_mode, is_judge=is_judge
        )


async def _example(name: str, factory: AgentFactory) -> Agent:
    """A packaged example: a remote agent whose HTTP client calls an ASGI app in this process."""
    from ng_rollouts.agents.example.app import example_app

    http = await factory.stack.enter_async_context(open_http(_limits(factory.config), app=example_app(name)))
    return RemoteAgent([f"http://{name}"], http, factory.rate_limiter)


async def _look_up(rows_by_agent: Mapping[str, int], known_locally: list[str], config: CollectConfig) -> ServerConfig:
    """The servers that the head server lists, all of these agents among them.

    Args:
        known_locally: the names that are known without the head server, for messages.

    Raises:
        ConfigError: the head server does not list one of the agents, or not the environment server for all of them.
        Unreachable: it does not respond, or is not a head server.
    """
    from ng_rollouts.agents.head_server import fetch_server_config

    head = config.head_server
    wanted = ", ".join(f"{name!r} ({counted(rows, 'row')})" for name, rows in rows_by_agent.items())
    try:
        servers = await fetch_server_config(head, wanted, config.wait_for_agent_s, config.http_engine)
    except Unreachable as error:
        hints = "".join(did_you_mean(name, known_locally) for name in rows_by_agent)
        raise Unreachable(f"{error}; agents known without it: {', '.join(sorted(known_locally))}{hints}") from error
    known = sorted({*known_locally, *servers.agents, *servers.environments})
    legacy = config.environment_server_name
    if legacy is not None and legacy not in servers.environments:
        hint = did_you_mean(legacy, servers.environments)
        raise ConfigError(f"environment_server_name={legacy} is not an environment server of the head server{hint}")
    for name, rows in rows_by_agent.items():
        if name not in servers.agents and name not in servers.environments:
            sources = f"the config, the packaged examples and the head server http://{head.host}:{head.port}"
            message = f"unknown agent {name!r} ({counted(rows, 'row')}){did_you_mean(name, known)}"
            raise ConfigError(f"{message}: known agents are {', '.join(known)} (from {sources})")
    return servers
