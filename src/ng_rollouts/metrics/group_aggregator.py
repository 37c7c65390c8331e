"""Rollouts as they complete -> figures of whole groups, holding only the groups that are not yet whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ng_rollouts.metrics.aggregate import AgentStats, by_agent, group_metrics
from ng_rollouts.metrics.score_stats import scores_of
from ng_rollouts.types import Json, RolloutKey, RolloutStats

MAX_GROUPS_LISTED = 5000
"""So many tasks have their own figures in the aggregate file; `ng_reward_profile` has those of all."""


@dataclass(slots=True)
class AgentMetrics:
    """The figures of one agent.

    Attributes:
        groups: its tasks by index; emptied once there are too many to tell.
    """

    stats: AgentStats = field(default_factory=AgentStats)
    groups: dict[int, list[RolloutStats]] = field(default_factory=dict)
    groups_left_out: bool = False

    def add(self, task_index: int, group: list[RolloutStats]) -> None:
        self.stats.add(group)
        if self.groups_left_out:
            return
        self.groups[task_index] = group
        if len(self.groups) > MAX_GROUPS_LISTED:
            self.groups_left_out = True
            self.groups.clear()

    def group_metrics(self) -> list[Json]:
        """The figures of its tasks, in order."""
        return [group_metrics(index, group, scores_of(group)) for index, group in sorted(self.groups.items())]


@dataclass(slots=True)
class GroupAggregator:
    """Figures by agent.

    Args:
        group_size: rollouts that a task has when whole.
        keep_incomplete: whether groups that lack some are figured in, at the end.
    """

    group_size: Callable[[int], int]
    keep_incomplete: bool = False
    agents: dict[str, AgentMetrics] = field(default_factory=dict)
    _open: dict[int, dict[int, tuple[str, RolloutStats]]] = field(default_factory=dict)
    _missing: set[int] = field(default_factory=set)

    def record(self, key: RolloutKey, agent: str, stats: RolloutStats) -> None:
        """Take a rollout in; the last one of its group has the group figured in."""
        if self.group_size(key.task_index) == 1:
            self._of(agent).add(key.task_index, [stats])
            return
        if key.task_index in self._missing:
            return
        group = self._open.setdefault(key.task_index, {})
        group[key.rollout_index] = agent, stats
        if len(group) == self.group_size(key.task_index):
            self._close(key.task_index)

    def mark_incomplete(self, key: RolloutKey) -> None:
        """A rollout failed for good, so that its group will not be whole."""
        if not self.keep_incomplete:
            self._open.pop(key.task_index, None)
            self._missing.add(key.task_index)

    def end(self) -> None:
        """No more will come."""
        for task_index in list(self._open) if self.keep_incomplete else ():
            self._close(task_index)
        for aggregator in self.agents.values():
            aggregator.stats.end()

    def _close(self, task_index: int) -> None:
        group = self._open.pop(task_index)
        for agent, ordered in by_agent(group[index] for index in sorted(group)).items():
            self._of(agent).add(task_index, ordered)

    def _of(self, agent: str) -> AgentMetrics:
        aggregator = self.agents.get(agent)
        if aggregator is None:
            aggregator = self.agents[agent] = AgentMetrics()
        return aggregator


def aggregate_groups(groups: Iterable[tuple[int, str, list[RolloutStats]]]) -> dict[str, AgentMetrics]:
    """Figures by agent of groups that are there: task index, agent, rollouts in order."""
    agents: dict[str, AgentMetrics] = {}
    for task_index, agent, group in groups:
        agents.setdefault(agent, AgentMetrics()).add(task_index, group)
    for aggregator in agents.values():
        aggregator.stats.end()
    return agents
