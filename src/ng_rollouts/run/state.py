"""What is written down of a run, while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.metrics.group_aggregator import GroupAggregator
from ng_rollouts.metrics.result_rows import stats_of
from ng_rollouts.metrics.score_table import ScoreTable
from ng_rollouts.outputs.failures import FailuresFile
from ng_rollouts.outputs.journal import Finished, Journal
from ng_rollouts.outputs.resume import PriorFailures
from ng_rollouts.run.client_load import ClientLoad
from ng_rollouts.scheduling.circuit_breaker import CircuitBreaker
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.types import Attempt, Failure, Json, Result, Rollout, RolloutKey, RolloutStats, agent_of


@dataclass(slots=True, kw_only=True)
class RunState:
    """Files, counts and figures of a run.

    Attributes:
        goes_on: whether an earlier command began it.
        collected_before: rollouts that were there when this command began.
        given: the scores that agents give, by agent.
        terminal: failures that no resume would try again.
        unscored: whether an agent gives no rewards.
        began: seconds since 1970.
        executor_told: what there is to tell of who made the attempts.
        seen: is told of each row that is written, as JSON.
        lost: is told of each task that a rollout failed of for good.
    """

    journal: Journal
    failures: FailuresFile
    scores: ScoreTable
    aggregator: GroupAggregator
    counters: RunCounters
    circuit_breakers: dict[str, CircuitBreaker]
    answer_key: str | None = None
    resumed: bool = False
    collected_before: int = 0
    given: dict[str, set[str]] = field(default_factory=dict)
    earlier: PriorFailures = field(default_factory=PriorFailures)
    terminal: int = 0
    load: ClientLoad | None = None
    load_balancers: list[LoadBalancer] = field(default_factory=list)
    unscored: bool = False
    executor_told: list[str] = field(default_factory=list)
    seen: Callable[[bytes], None] | None = None
    lost: Callable[[int], None] | None = None
    last_failure: Attempt | None = None
    finished: Finished | None = None
    began: float = field(default_factory=time.time)

    @property
    def has_remaining(self) -> bool:
        """Whether anything is left to collect."""
        return self.counters.settled < self.counters.planned

    @property
    def resumable(self) -> bool:
        """Whether a resume would have anything to do."""
        return self.has_remaining or self.counters.failed > self.terminal

    def failed_of(self, score: str) -> int:
        """Failures that would have given a score; of an agent that gave nothing at all, only a reward is expected."""
        by_agent = self.failures.by_agent.items()
        return sum(count for agent, count in by_agent if score in self.given.get(agent, ("reward",)))

    def restore(self, position: int, key: RolloutKey, row: Json) -> None:
        """Figure in a row that an earlier command collected."""
        stats = stats_of(row, self.answer_key)
        self._add_to_metrics(position, key, agent_of(row), stats)
        self.counters.earlier_input_tokens += stats.tokens.get("input_tokens", 0)
        self.counters.earlier_output_tokens += stats.tokens.get("output_tokens", 0)

    def record(self, rollout: Rollout, result: Result) -> None:
        """Write a rollout down, and count it."""
        self.journal.append(rollout.position, result.line)
        if self.seen:
            self.seen(result.line)
        self._add_to_metrics(rollout.position, rollout.key, rollout.agent, result.stats)
        self.counters.collected += 1
        counters = self.counters.by_agent[rollout.agent]
        counters.collected += 1
        counters.output_tokens += result.stats.tokens.get("output_tokens", 0)
        self.counters.input_tokens += result.stats.tokens.get("input_tokens", 0)
        self.counters.output_tokens += result.stats.tokens.get("output_tokens", 0)
        self.circuit_breakers[rollout.agent].success()

    def give_up(self, failure: Failure) -> None:
        """Write a failure down, and count it.

        Raises:
            StoppedEarly: there is no point in going on.
        """
        self.failures.append(failure, self.earlier.attempts.get(failure.rollout.key, 0))
        self.aggregator.lack(failure.rollout.key)
        if self.lost:
            self.lost(failure.rollout.key.task_index)
        self.counters.failed += 1
        self.terminal += failure.terminal
        self.last_failure = last = failure.attempts[-1]
        self.circuit_breakers[failure.rollout.agent].failure(last.failure_class, last.message)

    def _add_to_metrics(self, position: int, key: RolloutKey, agent: str, stats: RolloutStats) -> None:
        self.scores.record(position, stats.scores)
        self.aggregator.record(key, agent, stats)
        self.given.setdefault(agent, set()).update(stats.scores)
        if "reward" in stats.scores:
            self.counters.reward.add(stats.scores["reward"])
