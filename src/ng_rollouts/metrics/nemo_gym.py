"""Aggregate metrics of agents in NeMo Gym's format, and the histogram of a score for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.metrics.group_aggregator import AgentMetrics
from ng_rollouts.types import Json

_BLOCKS = " ▁▂▃▄▅▆▇█"
_EMPTY: Mapping[str, Json] = MappingProxyType({})
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
