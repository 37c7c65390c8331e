"""A client for NeMo Gym's head server, which lists agents and their addresses."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ng_rollouts.agents.server_config import ServerConfig, parse_server_config
from ng_rollouts.config.parameters import HeadServer
from ng_rollouts.console import log
from ng_rollouts.errors import AttemptFailed, Unreachable
from ng_rollouts.http.client import POLL_EVERY_S, Http, Reply, TimeLimits, open_http
from ng_rollouts.http.json_reply import parsed

_LIMITS = TimeLimits(connect_s=5.0, total_s=30.0)
_MAX_REPLY_BYTES = 16_000_000
"""The global config of many servers has less than one megabyte. YAML is slow to parse."""


async def fetch_server_config(head: HeadServer, wanted: str, seconds: float, engine: str) -> ServerConfig:
    """The servers that a head server lists.

    Args:
        wanted: the names to look up, for messages while the server does not respond.
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
        return parse_server_config(_parsed_yaml(parsed(reply)), head)
    except (ValueError, AttributeError, RecursionError, TypeError, yaml.YAMLError) as error:
        raise Unreachable(f"the server at {address} is not a NeMo Gym head server: {fix}") from error


def _parsed_yaml(text: Any) -> Any:
    """The value of a YAML text of another program, with every scalar as text.

    Merge keys stay keys: a few of them, nested, stand for gigabytes. Integers stay text: some take quadratic time.
    """
    import yaml  # noqa: PLC0415 - only runs that use a head server need it

    # libyaml's, where it is built in
    return yaml.load(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # noqa: S506 - constructs text only


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
