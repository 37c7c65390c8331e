"""A client for NeMo Gym's head server, which lists agents and their addresses."""

from __future__ import annotations

from typing import Any

from ng_rollouts.agents.urls import is_url
from ng_rollouts.config.parameters import HeadServer
from ng_rollouts.errors import AttemptFailed, Unreachable
from ng_rollouts.http.client import Http, Reply, TimeLimits, open_http
from ng_rollouts.jsonl import loads
from ng_rollouts.types import Json

_LIMITS = TimeLimits(connect_s=5.0, total_s=30.0)
_ATTEMPTS = 3
_RETRY_FOR_S = 10.0


async def fetch_agent_urls(head: HeadServer, wanted: str, engine: str) -> dict[str, str]:
    """The URL of each agent that a head server lists, by the agent's name.

    Args:
        wanted: the agents to look up, for the message if the server does not respond.

    Raises:
        Unreachable: the server does not respond, or is not a head server.
    """
    import yaml  # noqa: PLC0415 - only runs that use a head server need it

    address = f"http://{head.host}:{head.port}"
    fix = "start the servers, or give +agent_url=URL, +agents.NAME.url=URL, +head_server.host= or +head_server.port="
    try:
        async with open_http(_LIMITS, engine) as http:
            reply = await _get_with_retries(http, f"{address}/global_config_dict_yaml")
    except AttemptFailed as error:
        message = f"the head server at {address} cannot be reached ({error.message}) to look up {wanted}"
        raise Unreachable(f"{message}: {fix}") from error
    if reply.status != 200:
        raise Unreachable(f"the head server at {address} replied with HTTP {reply.status}: {fix}")
    try:
        # the body is a JSON string that contains YAML
        return listed_agents(yaml.safe_load(loads(reply.body)), head)
    except (ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise Unreachable(f"the server at {address} is not a NeMo Gym head server: {fix}") from error


def listed_agents(global_config: Any, head: HeadServer) -> dict[str, str]:
    """The URL of each agent in a head server's global config; entries without an address are skipped."""
    listed = {}
    for name, entry in global_config.items() if isinstance(global_config, dict) else ():
        kinds = entry.get("responses_api_agents") if isinstance(entry, dict) else None
        for server in kinds.values() if isinstance(kinds, dict) else ():
            host, port = _resolved(server, "host", global_config), _resolved(server, "port", global_config)
            # a server that listens on all interfaces is reached through the host of the head server
            host = head.host if host == "0.0.0.0" else host  # noqa: S104 - read, not bound
            # an IPv6 address needs brackets in a URL (RFC 3986, section 3.2.2)
            url = f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"
            if host and port and is_url(url):
                listed[str(name)] = url
    return listed


def _resolved(server: Any, field: str, global_config: Json) -> Any:
    """A field of a server's entry, with an OmegaConf interpolation resolved; None if it cannot be resolved."""
    value = server.get(field) if isinstance(server, dict) else None
    if not isinstance(value, str) or "${" not in value:
        return value
    from omegaconf import OmegaConf  # noqa: PLC0415 - few configs need it here
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    try:
        return OmegaConf.select(OmegaConf.create({**global_config, "_value": value}), "_value")
    except OmegaConfBaseException:
        return None


async def _get_with_retries(http: Http, url: str) -> Reply:
    import stamina  # noqa: PLC0415 - only runs that use a head server need it
    from stamina.instrumentation import set_on_retry_hooks  # noqa: PLC0415

    # by default, stamina logs every retry
    set_on_retry_hooks([])
    async for attempt in stamina.retry_context(on=AttemptFailed, attempts=_ATTEMPTS, timeout=_RETRY_FOR_S):
        with attempt:
            return await http.get(url)
    raise AssertionError("stamina yields until success or raises")
