"""What the page tells of a run as a whole."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.report.task_index import ASIDE, FAILED, FINISHED, TaskIndex
from ng_rollouts.types import Json

_CURVES = ("pass@{}", "pass^{}", "majority@{}")
_OF_THE_SUMMARY = (
    "began wall_s planned collected failed coverage attempts attempts_per_s latency_s tokens output_tokens_per_s cost "
    "most_in_flight seed exit_code command versions"
).split()
_TOLD_OF_ROWS = ("model", "temperature", "top_p", "max_output_tokens")
_MOST_VALUES = 8
_OF_THE_MANIFEST = "agent_name num_repeats responses_create_params prompt_template model rows rows_digest".split()


class SharedParameters:
    """What the rows themselves tell of model and sampling, where all agree or few values occur."""

    def __init__(self) -> None:
        self._values: dict[str, Counter[str]] = {}

    def add(self, row: Json) -> None:
        """Take a row in."""
        params, response = row.get("responses_create_params"), row.get("response")
        told = {name: params.get(name) for name in _TOLD_OF_ROWS} if isinstance(params, dict) else {}
        if isinstance(response, dict) and response.get("model"):
            told["model"] = response["model"]
        for name, value in told.items():
            if isinstance(value, (str, int, float)):
                known = self._values.setdefault(name, Counter())
                if len(known) <= _MOST_VALUES or str(value) in known:
                    known[str(value)[:80]] += 1

    def stats(self) -> Iterator[list[str]]:
        """A line for each."""
        for name, values in self._values.items():
            if len(values) == 1:
                yield [f"{name} (of the rows)", next(iter(values))]
            elif len(values) <= _MOST_VALUES:
                yield [
                    f"{name} (of the rows)",
                    ", ".join(f"{value} ({count}×)" for value, count in values.most_common()),
                ]


def overview_of(
    paths: OutputPaths,
    index: TaskIndex,
    aggregate: AgentStats,
    failures: Counter[str],
    parameters: SharedParameters,
    score: str,
) -> Json:
    """The overview of one file, as the page reads it."""
    summary, manifest = _read(paths.summary), _read(paths.manifest)
    statistics = aggregate.statistics()
    latency = summary.get("latency_s") or {}
    return {
        "name": paths.finished.name,
        "cards": list(_cards(index, statistics, summary, score)),
        "scores": statistics["scores"],
        "curves": list(_curves(aggregate, score)),
        "latency_histogram": summary.get("latency_histogram") or [],
        "latency": [[name, value] for name, value in latency.items() if isinstance(value, (int, float))],
        "failures": dict(failures.most_common()),
        "facts": [
            *([name, summary[name]] for name in _OF_THE_SUMMARY if summary.get(name) is not None),
            *([name, manifest[name]] for name in _OF_THE_MANIFEST if manifest.get(name)),
            *parameters.stats(),
        ],
    }


def _cards(index: TaskIndex, statistics: Json, summary: Json, score: str) -> Iterator[list[Any]]:
    yield ["tasks", len(index.tasks)]
    yield ["rollouts", index.kinds.count(FINISHED)]
    of_score = statistics["scores"].get(score)
    if of_score:
        interval = of_score["interval_95"]
        half = f" ± {(interval[1] - interval[0]) / 2:.3f}" if interval else ""
        yield [f"mean {score}", f"{of_score['mean']:.3f}{half}"]
    for name, of_other in statistics["scores"].items():
        if name == "accuracy" != score:
            yield ["mean accuracy", f"{of_other['mean']:.3f}"]
    yield ["failed", index.kinds.count(FAILED)]
    if aside := index.kinds.count(ASIDE):
        yield ["set aside, in no figure", aside]
    if statistics["share_truncated"]:
        yield ["cut off", f"{100 * statistics['share_truncated']:.1f} %"]
    if "share_distinct_answers" in statistics:
        yield ["distinct answers", f"{100 * statistics['share_distinct_answers']:.0f} %"]
    if summary.get("cost"):
        yield ["cost", summary["cost"]]


def _curves(aggregate: AgentStats, score: str) -> Iterator[Json]:
    metrics = aggregate.nemo_gym_metrics()
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
