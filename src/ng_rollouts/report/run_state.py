"""The heading of a page: what was run, when, and whether the run is finished."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ng_rollouts.jsonl import loads
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.storage.lock import has_name, holder_of
from ng_rollouts.types import Json

RUNNING, FINISHED, UNFINISHED, UNKNOWN = "running", "finished", "unfinished", "unknown"

_MAX_PARAMETERS = 6
"""Sampling parameters in the heading; the table of the run has all."""

_SIGNAL = 128
"""Exit codes above it are those of signals."""


def side_file(path: Path) -> Json:
    """The JSON object in a side file; empty if it does not exist or cannot be read: the page is useful without it."""
    try:
        value = loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def is_running(paths: OutputPaths) -> bool:
    """Whether a process writes the output."""
    with suppress(OSError):
        while True:
            with paths.output.open("rb") as file:
                if holder_of(file.fileno()) is not None:
                    return True
                # A run that puts its output in order replaces it: the lock is then on the new file.
                if has_name(file.fileno(), paths.output):
                    return False
    return False


def heading_of(paths: OutputPaths, rollouts: int, failed: int, agents: list[str], *, running: bool) -> Json:
    """State and description of the run, as page.js reads them.

    Args:
        rollouts, failed: number of rollouts in the output, and of failures.
        agents: the names of the agents in the rows.
        running: whether the run writes the output.
    """
    summary, manifest = side_file(paths.summary), side_file(paths.manifest)
    status = side_file(paths.status) if running else {}
    if running:
        planned = _number(status.get("planned")) or _number(manifest.get("rollouts"))
        word = "paused" if status.get("paused") is True else "running"
        state, text = RUNNING, ", ".join([word, *_progress(status, planned, rollouts, failed)])
    else:
        state, text = _state(summary, manifest, rollouts)
    return {"state": state, "text": text, "description": list(_description(summary, manifest, agents))}


def _state(summary: Json, manifest: Json, rollouts: int) -> tuple[str, str]:
    planned = _number(summary.get("planned")) or _number(manifest.get("rollouts"))
    if not summary:
        of_planned = f" of {planned:,} planned" if planned else ""
        is_whole = bool(planned) and rollouts >= (planned or 0)
        text = f"{rollouts:,}{of_planned} rollouts" + ("" if is_whole else ", the outcome of the run is not known")
        return (FINISHED if is_whole else UNKNOWN), text
    counts = [f"{_number(summary.get('collected')) or 0:,} of {planned or 0:,} rollouts"]
    counts += [f"{failed:,} failed" for failed in [_number(summary.get("failed"))] if failed]
    if summary.get("finished") is not None and not summary.get("not_done"):
        return FINISHED, ", ".join(["finished", *counts])
    code = _number(summary.get("exit_code")) or 0
    return UNFINISHED, ", ".join([*counts, "interrupted" if code > _SIGNAL else "stopped early"])


def _progress(status: Json, planned: int | None, rollouts: int, failed: int) -> Iterator[str]:
    """The numbers of a run that is being collected: counts of the rows, and the rest from its status file."""
    yield f"{rollouts:,}" + (f" of {planned:,}" if planned else "") + " rollouts"
    if failed:
        yield f"{failed:,} failed"
    if in_flight := _number(status.get("in_flight")):
        yield f"{in_flight:,} in flight"
    rate, left = status.get("rollouts_per_s"), status.get("left_s")
    if isinstance(rate, (int, float)) and rate:
        yield f"{rate:,.1f} per second"
    if isinstance(left, (int, float)):
        yield f"{_duration(left)} left"


def _description(summary: Json, manifest: Json, agents: list[str]) -> Iterator[str]:
    """Agent, model, parameters and date, as far as they are known."""
    yield ", ".join(agents[:_MAX_PARAMETERS]) + (" …" if len(agents) > _MAX_PARAMETERS else "")
    settings = manifest.get("model")
    model = settings.get("policy_model_name") if isinstance(settings, dict) else None
    if isinstance(model, str):
        yield model
    params = manifest.get("responses_create_params")
    for name, value in list(params.items())[:_MAX_PARAMETERS] if isinstance(params, dict) else ():
        if isinstance(value, (str, int, float)):
            yield f"{name} {value}"
    if isinstance(repeats := manifest.get("num_repeats"), int) and repeats > 1:
        yield f"{repeats} repeats"
    with suppress(ValueError, TypeError):
        began = datetime.fromisoformat(str(summary["began"])) if "began" in summary else None
        if began:
            yield f"{began:%d %b %Y, %H:%M} UTC"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
