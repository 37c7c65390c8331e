"""Aggregate metrics of agents in NeMo Gym's format, and means and histogram of scores for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from types import MappingProxyType

from ng_rollouts.metrics.aggregate import AgentStats, Coverage
from ng_rollouts.metrics.group_aggregator import AgentMetrics
from ng_rollouts.metrics.score_stats import ScoreStats
from ng_rollouts.types import Json

_BLOCKS = " ▁▂▃▄▅▆▇█"
_EMPTY: Mapping[str, Json] = MappingProxyType({})
_MAX_SCORES = 4
"""How many scores a line for the terminal lists."""

_KEY_METRIC_PREFIXES = ("mean/", "pass@", "majority@", "coverage/")


def aggregate_metrics(
    agents: Mapping[str, AgentMetrics], agent_side: Mapping[str, Json] = _EMPTY, speed: Mapping[str, Json] = _EMPTY
) -> list[Json]:
    """An entry for each agent: NeMo Gym's fields, and `statistics` with everything beyond them.

    Args:
        agents: the metrics of each agent, by its name.
        agent_side: fields that an agent computed itself, by its name; they replace the fields computed here.
        speed: latency and throughput of this command, by the agent's name; they are added to `statistics`.
    """
    return [
        {
            "agent_ref": {"name": name},
            "agent_metrics": (nemo_gym_metrics := metrics.stats.nemo_gym_metrics()),
            "key_metrics": {
                key: value for key, value in nemo_gym_metrics.items() if key.startswith(_KEY_METRIC_PREFIXES)
            },
            "group_level_metrics": metrics.group_metrics(),
            "group_level_metrics_left_out": metrics.groups_left_out,
            "repeat_level_metrics": metrics.stats.repeat_level_metrics(),
            "repeat_level_metrics_left_out": metrics.stats.repeats_left_out,
            "statistics": {**metrics.stats.statistics(), **speed.get(name, {})},
            **({"perf_summary": perf} if (perf := metrics.stats.perf_summary()) else {}),
            **agent_side.get(name, {}),
        }
        for name, metrics in agents.items()
    ]


def score_line(stats: AgentStats, coverage: Coverage) -> str:
    """Means with intervals, and what they are over."""
    scores = dict(islice(stats.scores.items(), _MAX_SCORES))
    means = [_mean_text(name, score, stats.rollouts) for name, score in scores.items()]
    over = f"over {stats.tasks} task{'s' * (stats.tasks != 1)}"
    if any(score.half_width is not None for score in scores.values()):
        over = f"95 % interval, {over}"
    return f"{', '.join(means) or 'no scores'} ({'; '.join(filter(None, (over, coverage.text)))})"


def _mean_text(name: str, score: ScoreStats, rollouts: int) -> str:
    half_width = "" if score.half_width is None else f" ± {score.half_width:.3f}"
    fewer = f" over {score.sum_n:,} of {rollouts:,} rollouts" if score.sum_n != rollouts else ""
    return f"{name} {score.mean:.3f}{half_width}{fewer}"


def format_histogram(aggregate: AgentStats, name: str = "reward") -> str | None:
    """The distribution of a score as a line of block characters; None if it has fewer than two values."""
    column = aggregate.columns.get(name)
    if column is None or column.count < 2:
        return None
    counts = column.histogram()
    maximum = max(counts)
    # Rounded up (-(-a // b)), so that only an empty bin is blank.
    blocks = "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // maximum)] for count in counts)
    low, high = min(0.0, column.minimum), max(1.0, column.maximum)
    return f"{name} {low:g} |{blocks}| {high:g}"
