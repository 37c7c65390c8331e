"""What is written down of a run, while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ng_rollouts.http.load_balancer import Pool
from ng_rollouts.metrics.group_aggregator import Tally
from ng_rollouts.metrics.result_rows import facts_of
from ng_rollouts.metrics.score_table import Scores
from ng_rollouts.outputs.failures import FailuresFile
from ng_rollouts.outputs.journal import Finished, Journal
from ng_rollouts.outputs.resume import Earlier
from ng_rollouts.run.client_load import Load
from ng_rollouts.scheduling.circuit_breaker import Breaker
from ng_rollouts.scheduling.counters import Counts
from ng_rollouts.types import Attempt, Facts, Failure, Json, Key, Result, Rollout, agent_of


@dataclass(slots=True, kw_only=True)
class Book:
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
    scores: Scores
    tally: Tally
    counts: Counts
    breakers: dict[str, Breaker]
    answer_key: str | None = None
    goes_on: bool = False
    collected_before: int = 0
    given: dict[str, set[str]] = field(default_factory=dict)
    earlier: Earlier = field(default_factory=Earlier)
    terminal: int = 0
    load: Load | None = None
    pools: list[Pool] = field(default_factory=list)
    unscored: bool = False
    executor_told: list[str] = field(default_factory=list)
    seen: Callable[[bytes], None] | None = None
    lost: Callable[[int], None] | None = None
    last_failure: Attempt | None = None
    finished: Finished | None = None
    began: float = field(default_factory=time.time)

    @property
    def owes_any(self) -> bool:
        """Whether anything is left to collect."""
        return self.counts.settled < self.counts.planned

    @property
    def resumable(self) -> bool:
        """Whether a resume would have anything to do."""
        return self.owes_any or self.counts.failed > self.terminal

    def failed_of(self, score: str) -> int:
        """Failures that would have given a score; of an agent that gave nothing at all, only a reward is expected."""
        by_agent = self.failures.by_agent.items()
        return sum(count for agent, count in by_agent if score in self.given.get(agent, ("reward",)))

    def take_over(self, position: int, key: Key, row: Json) -> None:
        """Figure in a row that an earlier command collected."""
        facts = facts_of(row, self.answer_key)
        self._figure_in(position, key, agent_of(row), facts)
        self.counts.earlier_input_tokens += facts.tokens.get("input_tokens", 0)
        self.counts.earlier_output_tokens += facts.tokens.get("output_tokens", 0)

    def keep(self, rollout: Rollout, result: Result) -> None:
        """Write a rollout down, and count it."""
        self.journal.append(rollout.position, result.line)
        if self.seen:
            self.seen(result.line)
        self._figure_in(rollout.position, rollout.key, rollout.agent, result.facts)
        self.counts.collected += 1
        counts = self.counts.by_agent[rollout.agent]
        counts.collected += 1
        counts.output_tokens += result.facts.tokens.get("output_tokens", 0)
        self.counts.input_tokens += result.facts.tokens.get("input_tokens", 0)
        self.counts.output_tokens += result.facts.tokens.get("output_tokens", 0)
        self.breakers[rollout.agent].success()

    def give_up(self, failure: Failure) -> None:
        """Write a failure down, and count it.

        Raises:
            StoppedEarly: there is no point in going on.
        """
        self.failures.append(failure, self.earlier.attempts.get(failure.rollout.key, 0))
        self.tally.lack(failure.rollout.key)
        if self.lost:
            self.lost(failure.rollout.key.task_index)
        self.counts.failed += 1
        self.terminal += failure.terminal
        self.last_failure = last = failure.attempts[-1]
        self.breakers[failure.rollout.agent].failure(last.failure_class, last.message)

    def _figure_in(self, position: int, key: Key, agent: str, facts: Facts) -> None:
        self.scores.record(position, facts.scores)
        self.tally.record(key, agent, facts)
        self.given.setdefault(agent, set()).update(facts.scores)
        if "reward" in facts.scores:
            self.counts.reward.add(facts.scores["reward"])
