"""The overview of a run: its cards, scores, charts, failures and parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.metrics.agreement import ScoreChanges
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.report.live_index import LiveIndex
from ng_rollouts.report.run_state import side_file
from ng_rollouts.report.task_index import FAILED, FINISHED, INCOMPLETE, TaskIndex
from ng_rollouts.types import Json, RolloutKey

_CURVES = ("pass@{}", "pass^{}", "majority@{}")
"""The metrics that are shown as curves over k."""

_SUMMARY_KEYS = (
    "began wall_s planned collected failed coverage counted_as_zero attempts attempts_per_s latency_s tokens "
    "output_tokens_per_s cost most_in_flight seed exit_code command versions"
).split()
_MANIFEST_KEYS = "agent_name num_repeats responses_create_params prompt_template model rows rows_digest".split()
_ROW_PARAMETERS = ("model", "temperature", "top_p", "max_output_tokens")

_MAX_VALUES = 8
"""A parameter of the rows with more values than this is left out: its values would say little, and fill the table."""


class SharedParameters:
    """Model and sampling parameters that occur in the rows, if they have few distinct values.

    A file of NeMo Gym has no manifest and no summary: its rows are then the only source.
    """

    def __init__(self) -> None:
        self._values: dict[str, Counter[str]] = {}

    def add(self, row: Json) -> None:
        """Count the values of a row."""
        params, response = row.get("responses_create_params"), row.get("response")
        values = {name: params.get(name) for name in _ROW_PARAMETERS} if isinstance(params, dict) else {}
        # The model that answered, which an alias in the request may not name.
        if isinstance(response, dict) and response.get("model"):
            values["model"] = response["model"]
        for name, value in values.items():
            if isinstance(value, (str, int, float)):
                counts = self._values.setdefault(name, Counter())
                # One value more than is shown, so that `lines` can see that there are too many.
                if len(counts) <= _MAX_VALUES or str(value) in counts:
                    counts[str(value)[:80]] += 1

    def lines(self) -> Iterator[list[str]]:
        """Name and values of each parameter, with counts if there are several values."""
        for name, counts in self._values.items():
            if len(counts) == 1:
                yield [f"{name} (in the rows)", next(iter(counts))]
            elif len(counts) <= _MAX_VALUES:
                values = ", ".join(f"{value} ({count}×)" for value, count in counts.most_common())
                yield [f"{name} (in the rows)", values]


def overview_of(
    paths: OutputPaths,
    index: TaskIndex,
    aggregate: AgentStats,
    failures: Counter[str],
    parameters: SharedParameters,
    score: str,
) -> Json:
    """The overview of one file, with the keys that page.js reads.

    Args:
        failures: number of failed rollouts by failure class.
        score: the score that the cards and curves show.
    """
    summary, manifest = side_file(paths.summary), side_file(paths.manifest)
    statistics = aggregate.statistics()
    latency = summary.get("latency_s") or {}
    return {
        "name": paths.finished.name,
        "cards": list(_cards(index, statistics, summary, score)),
        "changes": listed_changes(_changes_of(index)),
        "scores": statistics["scores"],
        "curves": list(_curves(aggregate, score)),
        "latency_histogram": summary.get("latency_histogram") or [],
        "latency": [[name, value] for name, value in latency.items() if isinstance(value, (int, float))],
        "failures": dict(failures.most_common()),
        "facts": [
            *([name, summary[name]] for name in _SUMMARY_KEYS if summary.get(name) is not None),
            *([name, manifest[name]] for name in _MANIFEST_KEYS if manifest.get(name)),
            *parameters.lines(),
        ],
        "raw": {"summary": summary, "manifest": manifest},
    }


def live_overview(paths: OutputPaths, live: LiveIndex) -> Json:
    """The overview of a run that is being collected, with the same keys. What needs whole groups follows at its end."""
    status = side_file(paths.status)
    return {
        "name": paths.finished.name,
        "cards": list(live.cards()),
        "problems": live.problems.listed(),
        "changes": listed_changes(live.changes),
        "scores": {},
        "curves": [],
        "latency_histogram": [],
        "latency": [],
        "failures": {},
        "facts": [
            [name, value] for name, value in side_file(paths.manifest).items() if name in _MANIFEST_KEYS and value
        ],
        "raw": {"manifest": side_file(paths.manifest), "status": status},
    }


def listed_changes(changes: ScoreChanges) -> Json | None:
    """The changes as page.js reads them; None if no rollout had a score before."""
    return changes.summary() if changes else None


def _changes_of(index: TaskIndex) -> ScoreChanges:
    """The changes of the finished rollouts."""
    changes = ScoreChanges()
    for task, (start, end) in enumerate(pairwise(index.starts)):
        for position in range(start, end):
            if index.kinds[position] == FINISHED:
                # Rows of other programs may have no index: theirs is the place in the task.
                number = index.rollout_indices[position]
                key = RolloutKey(index.tasks[task], position - start if number is None else number)
                changes.add(key, index.previous[position], index.scores[position])
    return changes


def _cards(index: TaskIndex, statistics: Json, summary: Json, score: str) -> Iterator[list[Any]]:
    """Title and value of each card. Optional cards are left out where they have nothing to report."""
    yield ["tasks", len(index.tasks)]
    yield ["rollouts", index.kinds.count(FINISHED)]
    score_statistics = statistics["scores"].get(score)
    if score_statistics:
        interval = score_statistics["interval_95"]
        half_width = f" ± {(interval[1] - interval[0]) / 2:.3f}" if interval else ""
        measured, rollouts = score_statistics["rollouts"], len(index.kinds)
        over = f", over {measured:,} of {rollouts:,} rollouts" if measured < rollouts else ""
        yield [f"mean {score}{over}", f"{score_statistics['mean']:.3f}{half_width}"]
    for name, other in statistics["scores"].items():
        if name == "accuracy" != score:
            yield ["mean accuracy", f"{other['mean']:.3f}"]
    yield ["failed", index.kinds.count(FAILED)]
    if masked := statistics.get("masked"):
        reasons = ", ".join(f"{reason}: {count}" for reason, count in masked.items())
        yield [f"masked, not in any metric ({reasons})", sum(masked.values())]
    if incomplete := index.kinds.count(INCOMPLETE):
        yield ["set aside, not in any metric", incomplete]
    for name in ("truncated", "empty"):
        if share := statistics.get(f"share_{name}"):
            yield [name, f"{100 * share:.1f} %"]
    if "share_distinct_answers" in statistics:
        yield ["distinct answers within tasks", f"{100 * statistics['share_distinct_answers']:.1f} %"]
    if summary.get("cost"):
        yield ["cost", summary["cost"]]


def _curves(aggregate: AgentStats, score: str) -> Iterator[Json]:
    metrics = aggregate.nemo_gym_metrics()
    for template in _CURVES:
        values: list[float] = []
        # The keys run from k = 1 to the largest k without gaps.
        while (key := f"{template.format(len(values) + 1)}/{score}") in metrics:
            values.append(metrics[key])
        if values:
            yield {"name": template.format("k"), "values": values}
