"""The gauges of inference engines: what vLLM, SGLang and TGI serve at `/metrics`, in Prometheus' text format.

Names are those of vLLM's and SGLang's documentation of production metrics, and of TGI's reference of metrics. SGLang
serves them with `--enable-metrics`. An engine with several workers has a series for each of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.http.client import Http
from ng_rollouts.types import EngineSample

_TEXT = r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"'
_LABELS = rf'\{{[^"}}\n]*(?:{_TEXT}[^"}}\n]*)*\}}'
_LINE = re.compile(rf"^[ \t]*([a-zA-Z_:][\w:]*)(?:[ \t]*{_LABELS})?[ \t]+(\S+)", re.MULTILINE)
"""A sample of the text format: a name, labels, a value. A timestamp may follow, and an exemplar with other labels."""

_LARGEST = 1e15
"""No count of requests is larger."""


class _Names(NamedTuple):
    """The names of an engine's metrics, the newest first."""

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    cache: tuple[str, ...] = ()
    preemptions: tuple[str, ...] = ()


_ENGINES = {
    "vllm": _Names(
        running=("vllm:num_requests_running",),
        waiting=("vllm:num_requests_waiting",),
        cache=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        preemptions=("vllm:num_preemptions_total",),
    ),
    "sglang": _Names(
        running=("sglang:num_running_reqs",),
        waiting=("sglang:num_queue_reqs",),
        cache=("sglang:token_usage",),
        # The last one is a gauge of recent ones in some versions. If it rises, requests were retracted, too.
        preemptions=("sglang:num_retracted_requests_total", "sglang:num_retracted_reqs"),
    ),
    "tgi": _Names(running=("tgi_batch_current_size",), waiting=("tgi_queue_size",)),
}


def metrics_url(url: str) -> str:
    """The address of the metrics of a server: `/metrics` beside `/v1`, or else at the root."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    prefix = path.removesuffix("/v1") if path.endswith("/v1") else ""
    return urlunsplit((parts.scheme, parts.netloc, f"{prefix}/metrics", "", ""))


async def read_gauges(url: str, http: Http) -> EngineSample | None:
    """Read the gauges at an address; None if it does not serve those of a known engine."""
    try:
        reply = await http.get(url)
    except AttemptFailed:
        return None
    return parse_gauges(reply.body.decode("utf-8", "replace"), time.monotonic()) if reply.status == 200 else None


def parse_gauges(text: str, at: float) -> EngineSample | None:
    """The gauges in a text of a time; None if it has not those of a known engine."""
    values = _values(text)
    for engine, names in _ENGINES.items():
        running, waiting = _series(values, names.running), _series(values, names.waiting)
        if running and waiting:
            cache = _series(values, names.cache)
            return EngineSample(
                at=at,
                engine=engine,
                running=int(sum(running)),
                waiting=int(sum(waiting)),
                cache=min(1.0, max(cache)) if cache else None,
                preemptions=int(sum(_series(values, names.preemptions))),
            )
    return None


_NAMES = {name for names in _ENGINES.values() for group in names for name in group}


def _values(text: str) -> dict[str, list[float]]:
    """The values of all series of the known metrics."""
    values: dict[str, list[float]] = {}
    for name, value in _samples(text):
        values.setdefault(name, []).append(value)
    return values


def _samples(text: str) -> Iterator[tuple[str, float]]:
    for match in _LINE.finditer(text):
        if match[1] in _NAMES:
            try:
                value = float(match[2])
            except ValueError:
                continue
            if 0 <= value <= _LARGEST:  # not so for NaN
                yield match[1], value


def _series(values: dict[str, list[float]], names: tuple[str, ...]) -> list[float]:
    return next((values[name] for name in names if name in values), [])
