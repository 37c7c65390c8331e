"""Rollouts as they complete -> figures of whole groups, holding only the groups that are not yet whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ng_rollouts.metrics.aggregate import Aggregate, by_agent, group_figures
from ng_rollouts.metrics.score_stats import scores_of
from ng_rollouts.types import Facts, Json, Key

MOST_GROUPS_TOLD = 5000
"""So many tasks have their own figures in the aggregate file; `ng_reward_profile` has those of all."""


@dataclass(slots=True)
class AgentTally:
    """The figures of one agent.

    Attributes:
        groups: its tasks by index; emptied once there are too many to tell.
    """

    aggregate: Aggregate = field(default_factory=Aggregate)
    groups: dict[int, list[Facts]] = field(default_factory=dict)
    groups_left_out: bool = False

    def add(self, task_index: int, group: list[Facts]) -> None:
        self.aggregate.add(group)
        if self.groups_left_out:
            return
        self.groups[task_index] = group
        if len(self.groups) > MOST_GROUPS_TOLD:
            self.groups_left_out = True
            self.groups.clear()

    def group_figures(self) -> list[Json]:
        """The figures of its tasks, in order."""
        return [group_figures(index, group, scores_of(group)) for index, group in sorted(self.groups.items())]


@dataclass(slots=True)
class Tally:
    """Figures by agent.

    Args:
        group_size: rollouts that a task has when whole.
        keep_incomplete: whether groups that lack some are figured in, at the end.
    """

    group_size: Callable[[int], int]
    keep_incomplete: bool = False
    agents: dict[str, AgentTally] = field(default_factory=dict)
    _open: dict[int, dict[int, tuple[str, Facts]]] = field(default_factory=dict)
    _lacking: set[int] = field(default_factory=set)

    def record(self, key: Key, agent: str, facts: Facts) -> None:
        """Take a rollout in; the last one of its group has the group figured in."""
        if self.group_size(key.task_index) == 1:
            self._of(agent).add(key.task_index, [facts])
            return
        if key.task_index in self._lacking:
            return
        group = self._open.setdefault(key.task_index, {})
        group[key.rollout_index] = agent, facts
        if len(group) == self.group_size(key.task_index):
            self._close(key.task_index)

    def lack(self, key: Key) -> None:
        """A rollout failed for good, so that its group will not be whole."""
        if not self.keep_incomplete:
            self._open.pop(key.task_index, None)
            self._lacking.add(key.task_index)

    def end(self) -> None:
        """No more will come."""
        for task_index in list(self._open) if self.keep_incomplete else ():
            self._close(task_index)
        for tally in self.agents.values():
            tally.aggregate.end()

    def _close(self, task_index: int) -> None:
        group = self._open.pop(task_index)
        for agent, ordered in by_agent(group[index] for index in sorted(group)).items():
            self._of(agent).add(task_index, ordered)

    def _of(self, agent: str) -> AgentTally:
        tally = self.agents.get(agent)
        if tally is None:
            tally = self.agents[agent] = AgentTally()
        return tally


def tallied(groups: Iterable[tuple[int, str, list[Facts]]]) -> dict[str, AgentTally]:
    """Figures by agent of groups that are there: task index, agent, rollouts in order."""
    agents: dict[str, AgentTally] = {}
    for task_index, agent, group in groups:
        agents.setdefault(agent, AgentTally()).add(task_index, group)
    for tally in agents.values():
        tally.aggregate.end()
    return agents
