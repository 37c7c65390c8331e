"""A NeMo Gym head server: asked for the agents it lists."""

from __future__ import annotations

from typing import Any

from ng_rollouts.agents.urls import is_url
from ng_rollouts.config.parameters import HeadServer
from ng_rollouts.errors import AttemptFailed, Unreachable
from ng_rollouts.http.client import Http, Reply, TimeLimits, open_http
from ng_rollouts.jsonl import loads
from ng_rollouts.types import Json

_LIMITS = TimeLimits(connect_s=5.0, total_s=30.0)
_ASKED_TIMES = 3
_ASKED_FOR_S = 10.0


async def ask_head_server(head: HeadServer, sought: str, engine: str) -> dict[str, str]:
    """The agents that a head server lists: names and addresses.

    Args:
        sought: what is to be looked up, for the message if nobody answers.

    Raises:
        Unreachable: it does not answer, or is no head server.
    """
    import yaml  # noqa: PLC0415 - only runs that ask need it

    address = f"http://{head.host}:{head.port}"
    cure = "start the servers, or give +agent_url=URL, +agents.NAME.url=URL, +head_server.host= or +head_server.port="
    try:
        async with open_http(_LIMITS, engine) as http:
            reply = await _patiently(http, f"{address}/global_config_dict_yaml")
    except AttemptFailed as error:
        message = f"the head server at {address} cannot be reached to look up {sought} ({error.message})"
        raise Unreachable(f"{message}: {cure}") from error
    if reply.status != 200:
        raise Unreachable(f"the head server at {address} answers HTTP {reply.status}: {cure}")
    try:
        return listed_agents(yaml.safe_load(loads(reply.body)), head)
    except (ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise Unreachable(f"what answers at {address} is no head server of NeMo Gym's: {cure}") from error


def listed_agents(global_config: Any, head: HeadServer) -> dict[str, str]:
    """Agent names and addresses in a head server's global config; entries without an address are left out."""
    listed = {}
    for name, entry in global_config.items() if isinstance(global_config, dict) else ():
        kinds = entry.get("responses_api_agents") if isinstance(entry, dict) else None
        for server in kinds.values() if isinstance(kinds, dict) else ():
            host, port = _plain(server, "host", global_config), _plain(server, "port", global_config)
            host = head.host if host == "0.0.0.0" else host  # noqa: S104 - read, not bound
            url = f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"
            if host and port and is_url(url):
                listed[str(name)] = url
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


async def _patiently(http: Http, url: str) -> Reply:
    import stamina  # noqa: PLC0415 - only runs that ask need it
    from stamina.instrumentation import set_on_retry_hooks  # noqa: PLC0415

    set_on_retry_hooks([])
    async for attempt in stamina.retry_context(on=AttemptFailed, attempts=_ASKED_TIMES, timeout=_ASKED_FOR_S):
        with attempt:
            return await http.get(url)
    raise AssertionError("stamina yields until success or raises")
