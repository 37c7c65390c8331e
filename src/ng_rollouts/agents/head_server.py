"""A client for NeMo Gym's head server, which lists agents and their addresses."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from ng_rollouts.agents.urls import is_url
from ng_rollouts.config.parameters import HeadServer
from ng_rollouts.console import log
from ng_rollouts.errors import AttemptFailed, Unreachable
from ng_rollouts.http.client import POLL_EVERY_S, Http, Reply, TimeLimits, open_http
from ng_rollouts.http.json_reply import parsed
from ng_rollouts.types import Json

_LIMITS = TimeLimits(connect_s=5.0, total_s=30.0)
_REFERENCE = re.compile(r"\$\{([A-Za-z0-9_.-]+)\}")
"""A plain reference to another value of the config, from its root. Resolvers such as `${oc.env:NAME}` are none."""

_MAX_REFERENCES = 20

_NULLS = ("", "~", "null", "Null", "NULL")
"""The forms of a missing value in YAML."""

_MAX_REPLY_BYTES = 16_000_000
"""The global config of many servers has less than one megabyte. YAML is slow to parse."""


async def fetch_agent_urls(head: HeadServer, wanted: str, seconds: float, engine: str) -> dict[str, str]:
    """The URL of each agent that a head server lists, by the agent's name.

    Args:
        wanted: the agents to look up, for messages while the server does not respond.
        seconds: the time to wait for the server; 0 asks once.

    Raises:
        Unreachable: the server does not respond, or is not a head server.
    """
    import yaml  # noqa: PLC0415 - only runs that use a head server need it

    address = f"http://{head.host}:{head.port}"
    fix = "start the servers, or give +agent_url=URL, +agents.NAME.url=URL, +head_server.host= or +head_server.port="
    try:
        async with open_http(_LIMITS, engine, max_reply_bytes=_MAX_REPLY_BYTES) as http:
            reply = await _get_when_up(http, f"{address}/global_config_dict_yaml", f"{address}, for {wanted}", seconds)
    except AttemptFailed as error:
        message = f"the head server at {address} cannot be reached ({error.message}) to look up {wanted}"
        raise Unreachable(f"{message}: {fix}") from error
    if reply.status != 200:
        raise Unreachable(f"the head server at {address} replied with HTTP {reply.status}: {fix}")
    try:
        # the body is a JSON string that contains YAML
        return listed_agents(_parsed_yaml(parsed(reply)), head)
    except (ValueError, AttributeError, RecursionError, TypeError, yaml.YAMLError) as error:
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


def _parsed_yaml(text: Any) -> Any:
    """The value of a YAML text of another program, with every scalar as text.

    Merge keys stay keys: a few of them, nested, stand for gigabytes. Integers stay text: some take quadratic time.
    """
    import yaml  # noqa: PLC0415 - only runs that use a head server need it

    # libyaml's, where it is built in
    return yaml.load(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # noqa: S506 - constructs text only


def _resolved(server: Any, field: str, global_config: Json) -> Any:
    """A field of a server's entry, with `${a.b}` replaced by the value it refers to; None without such a value.

    The config is another program's text. OmegaConf would also resolve `${oc.env:NAME}` in it, and send the value of an
    environment variable to an address that the config names.
    """
    value = server.get(field) if isinstance(server, dict) else None
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


async def _get_when_up(http: Http, url: str, label: str, seconds: float) -> Reply:
    """The reply to a request, which is repeated until there is one.

    Args:
        label: address and purpose of the server, for the message that it is waited for.

    Raises:
        AttemptFailed: there was no reply within `seconds`.
    """
    deadline = time.monotonic() + seconds
    announced = False
    while True:
        try:
            return await http.get(url)
        except AttemptFailed as failure:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            if not announced:
                log(f"waiting up to {max(1, round(left))} s for the head server at {label} ({failure.failure_class})")
                announced = True
            await asyncio.sleep(min(POLL_EVERY_S, left))
