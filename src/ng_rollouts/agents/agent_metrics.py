"""Figures that agents take themselves: NeMo Gym's `POST /aggregate_metrics`, for agents that a head server lists."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from ng_rollouts.agents.base import Agent
from ng_rollouts.agents.remote_agent import usage_of
from ng_rollouts.chat import is_chat
from ng_rollouts.console import log
from ng_rollouts.errors import AttemptFailed
from ng_rollouts.http.client import TimeLimits
from ng_rollouts.http.json_reply import json_object
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.types import Json, agent_of

_LIMITS = TimeLimits(connect_s=10.0, idle_s=300.0, total_s=300.0)
_TOLD_AFTER_S = 3.0
_CHUNK = 1 << 20
_NOT_SENT = frozenset({"response", "responses_create_params"})
_FIELDS = {"agent_metrics": dict, "key_metrics": dict, "group_level_metrics": list}


def metrics_urls(agents: Mapping[str, Agent]) -> dict[str, str]:
    """The agents that aggregate their own metrics, with the URL to ask."""
    return {name: url for name, agent in agents.items() if (url := agent.aggregate_metrics_url)}


async def agent_side_metrics(urls: Mapping[str, str], output: Path) -> dict[str, Json]:
    """What agents that a head server lists make of the finished rows; one that makes nothing of them is a note.

    The bodies are sent from disk: they are as long as the output.
    """
    with ExitStack() as stack:
        try:
            bodies = {name: stack.enter_context(TemporaryFile(dir=output.parent)) for name in urls}
            await asyncio.to_thread(_write_bodies, output, bodies)
        except OSError as error:
            log(f"note: agents are not asked for their own metrics: {error.strerror}")
            return {}
        telling = asyncio.get_running_loop().call_later(
            _TOLD_AFTER_S,
            log,
            f"waiting for the metrics of {', '.join(urls)} (at most {_LIMITS.total_s:g} s; Ctrl-C goes on without)",
        )
        try:
            replies = await asyncio.gather(*(_ask(name, url, bodies[name]) for name, url in urls.items()))
        finally:
            telling.cancel()
    return {name: reply for name, reply in zip(urls, replies, strict=True) if reply is not None}


async def _ask(name: str, url: str, body: IO[bytes]) -> Json | None:
    from ng_rollouts.http.httpx_client import HttpxClient  # noqa: PLC0415 - few runs need it

    length = body.tell()
    body.seek(0)
    try:
        async with HttpxClient(_LIMITS) as http:
            reply = json_object(await http.post(url, _chunks(body), {"content-length": str(length)}))
    except AttemptFailed as error:
        what = "has no metrics of its own" if error.status in (404, 405) else f"gives none of its own: {error.message}"
        log(f"note: agent {name!r} {what}; the figures are this program's")
        return None
    if not all(isinstance(reply.get(field, kind()), kind) for field, kind in _FIELDS.items()):
        log(f"note: agent {name!r} gives metrics of another shape; the figures are this program's")
        return None
    if not reply.get("key_metrics") and not reply.get("agent_metrics"):
        log(f"note: agent {name!r} has no metrics of its own; the figures are this program's")
        return None
    return {field: reply[field] for field in _FIELDS if field in reply}


async def _chunks(body: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := body.read(_CHUNK):
        yield chunk


def _write_bodies(output: Path, bodies: Mapping[str, IO[bytes]]) -> None:
    """The rows of each agent, without what is heavy, as NeMo Gym sends them."""
    begun: set[str] = set()
    with output.open("rb") as rows:
        for row in map(loads, rows):
            name = agent_of(row)
            if name in bodies:
                bodies[name].write(b"," if name in begun else b'{"verify_responses":[')
                bodies[name].write(dumps(_lightened(row)))
                begun.add(name)
    for name, body in bodies.items():
        body.write(b"]}" if name in begun else b'{"verify_responses":[]}')


def _lightened(row: Json) -> Json:
    light = {key: value for key, value in row.items() if key not in _NOT_SENT and not is_chat(value)}
    if usage := usage_of(row):
        light["response"] = {"usage": usage}
    return light
