"""Figures of agents for files and the terminal, and the gates they are held against."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.metrics.group_aggregator import AgentMetrics
from ng_rollouts.types import Json

_BLOCKS = " ▁▂▃▄▅▆▇█"
_NONE: Mapping[str, Json] = MappingProxyType({})
_KEY_FIGURES = ("mean/", "pass@", "majority@")


def aggregate_metrics(
    agents: Mapping[str, AgentMetrics], agent_side: Mapping[str, Json] = _NONE, speed: Mapping[str, Json] = _NONE
) -> list[Json]:
    """An entry for each agent: NeMo Gym's four fields, and `statistics` with what goes beyond them.

    Args:
        of_agents: what agents say of themselves, by name; it goes before what is figured here.
        of_command: what a command tells of its own speed, by agent.
    """
    return [
        {
            "agent_ref": {"name": name},
            "agent_metrics": (metrics := aggregator.stats.nemo_gym_metrics()),
            "key_metrics": {key: value for key, value in metrics.items() if key.startswith(_KEY_FIGURES)},
            "group_level_metrics": aggregator.group_metrics(),
            "group_level_metrics_left_out": aggregator.groups_left_out,
            "statistics": {**aggregator.stats.statistics(), **speed.get(name, {})},
            **agent_side.get(name, {}),
        }
        for name, aggregator in agents.items()
    ]


def format_histogram(aggregate: AgentStats, name: str = "reward") -> str | None:
    """A score's distribution in a line of blocks; None if there is none to see."""
    column = aggregate.columns.get(name)
    if column is None or column.count < 2:
        return None
    bars = column.histogram()
    tallest = max(bars)
    blocks = "".join(_BLOCKS[-(-bar * (len(_BLOCKS) - 1) // tallest)] for bar in bars)
    low, high = min(0.0, column.minimum), max(1.0, column.maximum)
    return f"{name} {low:g} |{blocks}| {high:g}"
