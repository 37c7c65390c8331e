"""Aggregates rollouts into groups as they complete, and holds only the groups that are still incomplete."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ng_rollouts.metrics.aggregate import AgentStats, by_agent, group_metrics, measured
from ng_rollouts.metrics.score_stats import scores_of
from ng_rollouts.types import Json, RolloutKey, RolloutStats

MAX_GROUPS_LISTED = 5000
"""An agent with more tasks has no metrics by task in the aggregate file. `ng_reward_profile` writes them anyway."""


@dataclass(slots=True)
class AgentMetrics:
    """The metrics of one agent.

    Attributes:
        groups: the agent's groups by task index; emptied beyond `MAX_GROUPS_LISTED`.
        groups_left_out: whether `groups` was emptied.
    """

    stats: AgentStats = field(default_factory=AgentStats)
    groups: dict[int, list[RolloutStats]] = field(default_factory=dict)
    groups_left_out: bool = False

    def add(self, task_index: int, group: list[RolloutStats]) -> None:
        """Add the rollouts of one task, in order."""
        self.stats.add(group)
        group = measured(group)
        if self.groups_left_out or not group:
            return
        self.groups[task_index] = group
        if len(self.groups) > MAX_GROUPS_LISTED:
            self.groups_left_out = True
            self.groups.clear()

    def group_metrics(self) -> list[Json]:
        """The metrics of each task, in the order of the tasks."""
        return [group_metrics(index, group, scores_of(group)) for index, group in sorted(self.groups.items())]


@dataclass(slots=True)
class GroupAggregator:
    """Adds each group to the metrics of its agents once the group is complete.

    Args:
        group_size: returns the number of rollouts in a task's complete group.
        keep_incomplete: whether `end` adds incomplete groups too.
        completes_late: whether failed rollouts may be recorded later, so that their groups are held until then.
    """

    group_size: Callable[[int], int]
    keep_incomplete: bool = False
    completes_late: bool = False
    agents: dict[str, AgentMetrics] = field(default_factory=dict)
    _open: dict[int, dict[int, tuple[str, RolloutStats]]] = field(default_factory=dict)
    _incomplete: set[int] = field(default_factory=set)

    def record(self, key: RolloutKey, agent: str, stats: RolloutStats) -> None:
        """Add a rollout; the last one of a group completes it."""
        if self.group_size(key.task_index) == 1:
            # No group to wait for: this skips the dictionaries in runs with num_repeats=1.
            self._metrics_of(agent).add(key.task_index, [stats])
            return
        if key.task_index in self._incomplete:
            return
        group = self._open.setdefault(key.task_index, {})
        group[key.rollout_index] = agent, stats
        if len(group) == self.group_size(key.task_index):
            self._close(key.task_index)

    def mark_incomplete(self, key: RolloutKey) -> None:
        """Record that a rollout failed, so that its group stays incomplete."""
        if not self.keep_incomplete and not self.completes_late:
            # Release what is held of the group, and ignore its rollouts that are still in flight.
            self._open.pop(key.task_index, None)
            self._incomplete.add(key.task_index)

    def end(self) -> None:
        """Complete the metrics after the last rollout."""
        for task_index in list(self._open) if self.keep_incomplete else ():
            self._close(task_index)
        for metrics in self.agents.values():
            metrics.stats.end()

    def _close(self, task_index: int) -> None:
        group = self._open.pop(task_index)
        # Rollouts complete in any order, but majority@k and the means of the first k depend on rollout order.
        for agent, ordered in by_agent(group[index] for index in sorted(group)).items():
            self._metrics_of(agent).add(task_index, ordered)

    def _metrics_of(self, agent: str) -> AgentMetrics:
        metrics = self.agents.get(agent)
        if metrics is None:
            metrics = self.agents[agent] = AgentMetrics()
        return metrics


def aggregate_groups(groups: Iterable[tuple[int, str, list[RolloutStats]]]) -> dict[str, AgentMetrics]:
    """The metrics of each agent.

    Args:
        groups: for each group, the task index, the agent, and the rollouts in order.
    """
    agents: dict[str, AgentMetrics] = {}
    for task_index, agent, group in groups:
        agents.setdefault(agent, AgentMetrics()).add(task_index, group)
    for metrics in agents.values():
        metrics.stats.end()
    return agents
