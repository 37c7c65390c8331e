"""What the page tells of a run as a whole."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ng_rollouts.aggregates import Aggregate
from ng_rollouts.outputs import OutputPaths
from ng_rollouts.records import Json
from ng_rollouts.report.index import ASIDE, FAILED, Index

_CURVES = ("pass@{}", "pass^{}", "majority@{}")
_OF_THE_SUMMARY = (
    "began wall_s planned collected failed coverage attempts attempts_per_s tokens output_tokens_per_s cost "
    "most_in_flight seed exit_code command versions"
).split()
_OF_THE_MANIFEST = "agent_name num_repeats responses_create_params prompt_template model rows rows_digest".split()


def overview_of(paths: OutputPaths, index: Index, aggregate: Aggregate, failures: Counter[str], score: str) -> Json:
    """The overview of one file, as the page reads it."""
    summary, manifest = _read(paths.summary), _read(paths.manifest)
    figures = aggregate.figures()
    latency = summary.get("latency_s") or {}
    return {
        "name": paths.output.name,
        "cards": list(_cards(index, figures, summary, score)),
        "scores": figures["scores"],
        "curves": list(_curves(aggregate, score)),
        "latency": [[name, value] for name, value in latency.items() if isinstance(value, (int, float))],
        "failures": dict(failures.most_common()),
        "facts": [
            *([name, summary[name]] for name in _OF_THE_SUMMARY if summary.get(name) is not None),
            *([name, manifest[name]] for name in _OF_THE_MANIFEST if manifest.get(name)),
        ],
    }


def _cards(index: Index, figures: Json, summary: Json, score: str) -> Iterator[list[Any]]:
    yield ["tasks", len(index.tasks)]
    yield ["rollouts", len(index.kinds) - index.kinds.count(FAILED)]
    of_score = figures["scores"].get(score)
    if of_score:
        interval = of_score["interval_95"]
        half = f" ± {(interval[1] - interval[0]) / 2:.3f}" if interval else ""
        yield [f"mean {score}", f"{of_score['mean']:.3f}{half}"]
    for name, of_other in figures["scores"].items():
        if name == "accuracy" != score:
            yield ["mean accuracy", f"{of_other['mean']:.3f}"]
    yield ["failed", index.kinds.count(FAILED)]
    if aside := index.kinds.count(ASIDE):
        yield ["set aside", aside]
    if figures["share_truncated"]:
        yield ["cut off", f"{100 * figures['share_truncated']:.1f} %"]
    if "share_distinct_answers" in figures:
        yield ["distinct answers", f"{100 * figures['share_distinct_answers']:.0f} %"]
    if summary.get("cost"):
        yield ["cost", summary["cost"]]


def _curves(aggregate: Aggregate, score: str) -> Iterator[Json]:
    metrics = aggregate.of_nemo_gym()
    for form in _CURVES:
        values: list[float] = []
        while (key := f"{form.format(len(values) + 1)}/{score}") in metrics:
            values.append(metrics[key])
        if values:
            yield {"name": form.format("k"), "values": values}


def _read(path: Path) -> Json:
    """A side file, if it is there and can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
