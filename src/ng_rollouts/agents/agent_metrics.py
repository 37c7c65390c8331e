"""Metrics that agents compute themselves: NeMo Gym's `POST /aggregate_metrics`, for agents listed by a head server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from ng_rollouts.agents.base import Agent
from ng_rollouts.chat import is_chat
from ng_rollouts.console import log
from ng_rollouts.errors import AttemptFailed, ConfigError
from ng_rollouts.http.client import TimeLimits
from ng_rollouts.http.json_reply import json_object
from ng_rollouts.jsonl import dumps
from ng_rollouts.types import Json, agent_of

_LIMITS = TimeLimits(connect_s=10.0, idle_s=300.0, total_s=300.0)
_NOTICE_AFTER_S = 3.0
"""Replies that arrive sooner need no notice that the run is waiting."""

_CHUNK_BYTES = 1 << 20
_NOT_SENT = frozenset(
    ("response", "responses_create_params", "ng_agent_observations", "ng_model_call_capture", "ng_trajectory")
)
"""Large fields, which NeMo Gym does not send either. Of `response`, the fields in `_SENT_OF_RESPONSE` are sent."""

_SENT_OF_RESPONSE = ("usage", "incomplete_details")

_FIELDS = {
    "agent_metrics": dict,
    "key_metrics": dict,
    "group_level_metrics": list,
    "repeat_level_metrics": list,
    "perf_summary": dict,
}
"""The fields of a reply that are kept, and their types. One that is null or missing is computed here."""


def metrics_urls(agents: Mapping[str, Agent]) -> dict[str, str]:
    """The URL for aggregate metrics of each agent that has one, by the agent's name."""
    return {name: url for name, agent in agents.items() if (url := agent.aggregate_metrics_url)}


async def agent_side_metrics(urls: Mapping[str, str], folder: Path, rows: Iterable[Json]) -> dict[str, Json]:
    """Request the metrics of rows from each agent.

    An agent that returns none is left out, with a note on stderr. Request bodies are streamed from temporary files,
    because together they are about as large as the output.

    Args:
        folder: where the temporary files are.
        rows: the rows in order, of all agents.
    """
    with ExitStack() as stack:
        try:
            bodies = {name: stack.enter_context(TemporaryFile(dir=folder)) for name in urls}
            await asyncio.to_thread(_write_bodies, rows, bodies)
        except OSError as error:
            log(f"note: agents' own metrics are not requested: {error.strerror}")
            return {}
        notice = asyncio.get_running_loop().call_later(
            _NOTICE_AFTER_S,
            log,
            f"waiting for the metrics of {', '.join(urls)} (at most {_LIMITS.total_s:g} s; Ctrl-C skips them)",
        )
        try:
            replies = await asyncio.gather(*(_request_metrics(name, url, bodies[name]) for name, url in urls.items()))
        finally:
            notice.cancel()
    return {name: reply for name, reply in zip(urls, replies, strict=True) if reply is not None}


async def _request_metrics(name: str, url: str, body: IO[bytes]) -> Json | None:
    # of the two engines, only httpx streams a request body
    from ng_rollouts.http.httpx_client import HttpxClient  # noqa: PLC0415 - few runs need it

    length = body.tell()
    body.seek(0)
    try:
        async with HttpxClient(_LIMITS) as http:
            reply = json_object(await http.post(url, _chunks(body), {"content-length": str(length)}))
    except AttemptFailed as error:
        # 404 and 405 are normal: the endpoint is optional
        missing = error.status in (404, 405)
        reason = "has no /aggregate_metrics" if missing else f"did not return metrics ({error.message})"
        log(f"note: agent {name!r} {reason}; metrics are computed here")
        return None
    except ConfigError as error:  # httpx does not support every proxy that the engine of the run does
        log(f"note: agent {name!r} is not asked for its metrics ({error}); metrics are computed here")
        return None
    reply = {field: reply[field] for field in _FIELDS if reply.get(field) is not None}
    if not all(isinstance(value, _FIELDS[field]) for field, value in reply.items()):
        log(f"note: agent {name!r} returned metrics in an unexpected format; metrics are computed here")
        return None
    if not reply.get("key_metrics") and not reply.get("agent_metrics"):
        log(f"note: agent {name!r} returned no metrics; metrics are computed here")
        return None
    return reply


async def _chunks(body: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := body.read(_CHUNK_BYTES):
        yield chunk


def _write_bodies(rows: Iterable[Json], bodies: Mapping[str, IO[bytes]]) -> None:
    """Write each agent's request body, `{"verify_responses": [row, ...]}`, in one pass over the rows."""
    started: set[str] = set()
    for row in rows:
        name = agent_of(row)
        if name in bodies:
            bodies[name].write(b"," if name in started else b'{"verify_responses":[')
            bodies[name].write(dumps(_without_large_fields(row)))
            started.add(name)
    for name, body in bodies.items():
        body.write(b"]}" if name in started else b'{"verify_responses":[]}')


def _without_large_fields(row: Json) -> Json:
    """A row as NeMo Gym sends it: without chat messages and the fields in `_NOT_SENT`."""
    small = {key: value for key, value in row.items() if key not in _NOT_SENT and not is_chat(value)}
    response = row.get("response")
    if isinstance(response, dict):
        sent = {name: response[name] for name in _SENT_OF_RESPONSE if response.get(name) is not None}
        if sent:
            small["response"] = sent
    return small
