"""The state of a run: its files, counters and metrics, new or restored from an existing output.

Other modules read the state. Only its own methods change it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from operator import or_
from typing import Protocol

from ng_rollouts.agents.base import Agent, KnowsTurns
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import counted, log
from ng_rollouts.errors import FailureClass
from ng_rollouts.health.rollout import health_of
from ng_rollouts.health.run_health import RunHealth
from ng_rollouts.health.selection import checks_of
from ng_rollouts.metrics.group_aggregator import GroupAggregator
from ng_rollouts.metrics.result_rows import stats_of
from ng_rollouts.metrics.score_table import ScoreNames, ScoreTable
from ng_rollouts.outputs.counted_as_zero import Counted, ZeroRules
from ng_rollouts.outputs.failures import FailuresFile
from ng_rollouts.outputs.journal import Finished, Journal
from ng_rollouts.outputs.open_journal import open_for_resume, open_new
from ng_rollouts.outputs.resume import PriorFailures, check_rows, prior_failures, read_back
from ng_rollouts.redaction import redact
from ng_rollouts.run.prepare import PreparedRun
from ng_rollouts.scheduling.circuit_breaker import CircuitBreaker
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.types import Attempt, Failure, Json, Result, Rollout, RolloutKey, RolloutStats, agent_of, key_of


class RowSubscriber(Protocol):
    """Receives rows while they are collected."""

    def put(self, line: bytes) -> None:
        """Receive a row that was written, as JSON."""
        ...

    def drop_task(self, task_index: int) -> None:
        """Learn that a rollout of a task failed, so that its group stays incomplete."""
        ...

    async def wait_for_capacity(self) -> None:
        """Wait until it can receive more rows."""
        ...


@dataclass(slots=True)
class _FailedHere:
    """A failure of this command that may be attempted again.

    Attributes:
        attempts: number of attempts in all commands so far.
        unscored: 1 if it has an answer, otherwise 0.
        is_queued: whether it waits to be attempted again, or is in flight again. It then does not count as failed.
    """

    failure_class: str
    agent: str
    key: RolloutKey
    attempts: int
    unscored: int
    is_queued: bool = False


class RunState:
    """Files, counters and metrics of a run.

    Attributes:
        journal, failures: the files that results are written to.
        scores: every score by rollout, for means in file order.
        aggregator: statistics by agent, over complete groups.
        health: the health of the rollouts; None with `disable_health_check`.
        counters: numbers for progress, status file and summary.
        prior: failures that an earlier command left.
        is_resumed: whether an earlier command began the run.
        collected_before: rollouts that were collected when this command began.
        scored_by_resume, asked_by_resume: failures of this command with an answer, by what a resume does: it scores the
            answer, or asks for another one.
        first_failure, last_failure: the last attempt of the first and of the latest failure of this command.
        counted: for every position, whether its rollout has no row and counts as 0; empty before the run is finished.
        finished: numbers of rows in the finished output and set aside; None before it is finished.
        began: when this command began, in seconds since 1970, to show.
    """

    def __init__(self, config: CollectConfig, prepared: PreparedRun, journal: Journal) -> None:
        plan = prepared.plan
        self.journal = journal
        self.failures = FailuresFile(prepared.paths.failures)
        self.scores = ScoreTable(plan.rollouts)
        self.zero_rules = ZeroRules.of(config.count_as_zero)
        self._new_aggregator = partial(
            GroupAggregator,
            plan.group_size(),
            keep_incomplete=config.incomplete_groups == "keep",
            completes_late=self.zero_rules.adds_rollouts,
        )
        self.aggregator = self._new_aggregator()
        self.counted = bytearray()
        self.counters = RunCounters(planned=plan.rollouts, has_earlier_answers=prepared.is_rescoring)
        ignored = checks_of("health_check_ignored_checks", config.health_check_ignored_checks)
        self._new_health = partial(RunHealth, plan.rollouts, plan.group_size(), ignored)
        self.health = None if config.disable_health_check else self._new_health()
        self.prior = PriorFailures()
        self.is_resumed = False
        self.collected_before = 0
        self.scored_by_resume = self.asked_by_resume = 0
        self.first_failure: Attempt | None = None
        self._first_failed = -1  # its position
        self.last_failure: Attempt | None = None
        self.finished: Finished | None = None
        self.began = time.time()
        self._began = time.monotonic()
        self._answer_key = config.answer_key
        self._score_names = ScoreNames()
        self._circuit_breakers = {agent: CircuitBreaker(agent, plan.rollouts) for agent in plan.agents}
        self._terminal_failures = 0
        self._subscriber: RowSubscriber | None = None
        self._agents: Mapping[str, Agent] = {}
        self._failed_here: dict[int, _FailedHere] = {}  # by position
        self._recovered = False  # whether a rollout that failed has been collected since
        self._reused: set[RolloutKey] = set()  # rollouts whose answer is one of an earlier command
        # Without a manifest, nothing shows that an answer is one of this model.
        self._has_own_answers = prepared.prior_manifest is not None

    @property
    def wall_s(self) -> float:
        """How long this command has run, in seconds."""
        return time.monotonic() - self._began

    @property
    def measured(self) -> int:
        """Rollouts that the means are over: those in complete groups, or before the end all that are collected."""
        if self.finished is None:
            return self.counters.measured
        return sum(metrics.stats.rollouts for metrics in self.aggregator.agents.values())

    @property
    def has_remaining(self) -> bool:
        """Whether rollouts remain to be collected."""
        return self.counters.settled < self.counters.planned

    @property
    def is_resumable(self) -> bool:
        """Whether a resume would have anything to do."""
        return self.has_remaining or self.counters.failed > self._terminal_failures

    def failed_with_score(self, score: str) -> int:
        """Failures that would have had this score; an agent that never replied is assumed to give only a reward."""
        by_agent = self.failures.by_agent.items()
        return sum(count for agent, count in by_agent if score in (self.scores.names_of(agent) or ("reward",)))

    def restore(self, prepared: PreparedRun, *, retry_failed: bool, retry_timeouts: bool = False) -> None:
        """Read the rows and failures of an earlier command; no file is changed.

        Raises:
            OutputError: a row does not belong to this run.
        """
        locate = prepared.plan.locator()
        read_back(self.journal, locate, self._restore_row, has_manifest=prepared.prior_manifest is not None)
        # An output of NeMo Gym has no manifest: its rows themselves have to show that they belong to this input.
        if prepared.prior_manifest is None:
            check_rows(self.journal, prepared.tasks.rollouts(prepared.plan), prepared.paths.materialized_inputs)
        self.prior = prior_failures(
            self.failures, locate, self.journal, retry=retry_failed, retry_timeouts=retry_timeouts
        )
        self.is_resumed = True
        self.counters.collected = self.collected_before = self.journal.count
        self.counters.failed = len(self.prior.not_retried)
        self.counters.unscored = self.prior.unscored
        self._terminal_failures = self.prior.terminal
        # Earlier rows show that the configuration works, so the breakers use their higher limits.
        if self.counters.collected:
            for circuit_breaker in self._circuit_breakers.values():
                circuit_breaker.record_success()

    def subscribe(self, subscriber: RowSubscriber) -> None:
        """Pass every row and failure from now on to a subscriber."""
        self._subscriber = subscriber

    def use_agents(self, agents: Mapping[str, Agent]) -> None:
        """Set the agents, which say what they can score again, and whose servers a circuit breaker names."""
        self._agents = agents
        for name, agent in agents.items():
            self._circuit_breakers[name].name_servers(_urls_of(agent))

    def where(self, rollout: Rollout) -> Json:
        """The agent of a rollout in flight, the addresses of its servers, and its turns, if this process knows them."""
        agent = self._agents[rollout.agent]
        turns = agent.turns_of(rollout.key) if isinstance(agent, KnowsTurns) else None
        return {"agent": rollout.agent, "servers": _urls_of(agent), "turns": turns}

    def may_run_twice(self, rollout: Rollout) -> bool:
        """True if a rollout may have two attempts in flight."""
        return not rollout.is_episode and self._agents[rollout.agent].may_run_twice

    def kept_answer(self, rollout: Rollout) -> Json | None:
        """The answer that an earlier command left unscored, if the agent can score it without asking its model."""
        answer = self.failures.answer(rollout.key) if self._has_own_answers else None
        if answer is None or not self._agents[rollout.agent].scores_again(answer):
            return None
        self._reused.add(rollout.key)
        return answer

    def record(self, rollout: Rollout, result: Result) -> None:
        """Write a rollout to the journal, then count it.

        Raises:
            StorageError: it could not be written.
        """
        # The journal is first: if it cannot be written, the row must not be counted, and must not reach the subscriber.
        self.journal.append(rollout.position, result.line)
        if self._failed_here:
            self._take_back(rollout.position)
        if self._subscriber:
            self._subscriber.put(result.line)
        stats = self._score_names.limit(result.stats)
        self._add_to_metrics(rollout.position, rollout.key, rollout.agent, stats)
        self.counters.record(rollout.agent, stats, is_answered_earlier=rollout.key in self._reused)
        self._reused.discard(rollout.key)
        if self.health and result.health:
            self.health.add(rollout.position, rollout.key, result.health)
        self._circuit_breakers[rollout.agent].record_success()

    def give_up(self, failure: Failure) -> None:
        """Write a failure to the failures file, then count it.

        Raises:
            StorageError: it could not be written.
            StoppedEarly: the circuit breaker opened.
        """
        earlier = self.prior.attempts.get(failure.rollout.key, 0)
        self.failures.append(failure, earlier)
        self._take_back(failure.rollout.position)
        self.aggregator.mark_incomplete(failure.rollout.key)
        if self.health:
            self.health.give_up(failure.rollout.key.task_index)
        if self._subscriber:
            self._subscriber.drop_task(failure.rollout.key.task_index)
        self.counters.failed += 1
        self._terminal_failures += failure.terminal
        self.last_failure = last = failure.attempts[-1]
        if self.first_failure is None:
            self.first_failure, self._first_failed = last, failure.rollout.position
        unscored_before = self.counters.unscored
        is_rescorable = self._count_unscored(failure)
        if not (failure.terminal or is_rescorable or last.failure_class == FailureClass.CANCELLED):
            self._failed_here[failure.rollout.position] = _FailedHere(
                failure_class=last.failure_class,
                agent=failure.rollout.agent,
                key=failure.rollout.key,
                attempts=earlier + len(failure.attempts),
                unscored=self.counters.unscored - unscored_before,
            )
        breaker = self._circuit_breakers[failure.rollout.agent]
        if last.is_earlier or last.failure_class == FailureClass.CANCELLED:
            return
        if is_rescorable and not self.counters.has_earlier_answers:
            # The model answered. Continuing is not pointless, because the answers can be scored later.
            breaker.record_success()
        else:
            # Last, because it may raise: the failure is then written and counted already.
            breaker.record_failure(last.failure_class, redact(last.message))

    def retry_failed(self, cancelled: Container[int] = ()) -> set[int]:
        """The positions of failures of this command that may be attempted again, each once until it fails again.

        Without those that no run should retry, those that were cancelled, and those with an answer, which a resume
        scores without asking the model.

        Args:
            cancelled: indices of tasks that are not attempted any more.
        """
        again = {
            position
            for position, each in self._failed_here.items()
            if not each.is_queued and each.key.task_index not in cancelled
        }
        for each in map(self._failed_here.__getitem__, again):
            each.is_queued = True
            self._count_failed(each, -1)
            self.prior.attempts[each.key] = each.attempts
        return again

    def leave_failed(self, positions: Iterable[int] | None = None) -> None:
        """Take back `retry_failed` for some positions, or for all that have no other outcome yet."""
        if positions is None:
            positions = [position for position, each in self._failed_here.items() if each.is_queued]
        for position in positions:
            failed = self._failed_here[position]
            failed.is_queued = False
            self._count_failed(failed, 1)

    @property
    def can_retry_failed(self) -> bool:
        """False if something else already relies on the failures: a Python program, or the judge of a group."""
        return self._subscriber is None and not self.counters.has_earlier_answers

    def _take_back(self, position: int) -> None:
        """Forget a failure, because its rollout was attempted again and has another outcome."""
        if self._failed_here.pop(position, None):
            self._recovered = True
            if position == self._first_failed:
                self.first_failure = None  # the next one that fails is as good an example

    def _count_failed(self, failed: _FailedHere, number: int) -> None:
        """Count a failure again, or no more: while its rollout is attempted again, it has no outcome."""
        self.counters.failed += number
        self.counters.unscored += number * failed.unscored
        self.asked_by_resume += number * failed.unscored
        self.failures.count(failed.failure_class, failed.agent, number)

    def _count_unscored(self, failure: Failure) -> bool:
        """Count a failure with an answer; True if a resume scores that without asking the model."""
        answer, agent = failure.attempts[-1].kept.get("response"), self._agents.get(failure.rollout.agent)
        is_new = isinstance(answer, dict) and agent is not None and agent.scores_again(answer)
        is_unscored = self.failures.is_unscored(failure)
        is_rescorable = is_new or (is_unscored and self.kept_answer(failure.rollout) is not None)
        self.counters.unscored += is_unscored
        self.scored_by_resume += is_rescorable
        self.asked_by_resume += is_unscored and not is_rescorable
        return is_rescorable

    @property
    def counted_as_zero(self) -> Counter[str]:
        """Number of rollouts that count as 0 in the metrics, by reason."""
        return sum((agent.stats.counted_as_zero for agent in self.aggregator.agents.values()), Counter[str]())

    def scored(self) -> bytes:
        """For every position, 1 if its rollout is collected or counts as 0, otherwise 0."""
        collected = self.journal.collected()
        return bytes(map(or_, collected, self.counted)) if self.counted else collected

    def finish(self, keep: bytes, counted: Iterable[tuple[int, Counted]] = ()) -> None:
        """Put the output in order, and complete the metrics.

        Args:
            keep: for every planned position in order, 1 if its row stays in the output, otherwise 0.
            counted: rollouts that count as 0, with their positions. It is read when the output is in order.

        Raises:
            StorageError: a file could not be written; the journal is unchanged.
        """
        if self._recovered:
            self._aggregate_again()
        self.finished = self.journal.finish(keep)
        for position, rollout in counted:
            self.counted = self.counted or bytearray(self.counters.planned)
            self.counted[position] = True
            stats = self._score_names.limit(rollout.stats(self._answer_key))
            self._add_to_metrics(position, rollout.key, rollout.agent, stats)
        self.aggregator.end()
        if self.health:
            self.health.end()

    def _aggregate_again(self) -> None:
        """Make metrics of groups and health again from the rows: a failure dropped what was held of its group."""
        self.aggregator, self.health = self._new_aggregator(), self.health and self._new_health()
        for position, row in self.journal.rows():
            key = key_of(row)
            assert key  # noqa: S101 - this run wrote or checked the row
            stats = self.zero_rules.apply(self._score_names.limit(stats_of(row, self._answer_key)))
            self.aggregator.record(key, agent_of(row), stats)
            if self.health:
                self.health.add(position, key, health_of(row))

    def settle_failures(self, locate: Callable[[RolloutKey], int | None]) -> None:
        """Remove rollouts that have since been collected from the failures file.

        Args:
            locate: the position of a key, if it is planned.

        Raises:
            StorageError: the file could not be written; it is unchanged.
        """
        # Failures of rollouts that are not planned any more stay in the file.
        has = self.journal.has
        self.failures.settle(lambda key: (position := locate(key)) is not None and has(position))

    def _restore_row(self, position: int, key: RolloutKey, row: Json) -> None:
        stats = self._score_names.limit(stats_of(row, self._answer_key))
        self._add_to_metrics(position, key, agent_of(row), stats)
        self.counters.restore(stats)
        if self.health:
            self.health.add(position, key, health_of(row))

    def _add_to_metrics(self, position: int, key: RolloutKey, agent: str, stats: RolloutStats) -> None:
        stats = self.zero_rules.apply(stats)
        if stats.counted_as_zero:
            self.counters.reward.add(stats.scores["reward"])
        self.scores.record(position, agent, stats.scores)
        self.aggregator.record(key, agent, stats)


def _urls_of(agent: Agent) -> list[str]:
    """The addresses that an agent's requests go to, without passwords."""
    return [endpoint.display_url for balancer in agent.load_balancers for endpoint in balancer.endpoints]


def restored_state(config: CollectConfig, prepared: PreparedRun, stack: AsyncExitStack) -> RunState | None:
    """The state that an earlier command left, if a resume is asked for and there is an output; no file is changed.

    Raises:
        OutputError: the output belongs to another run, or another process writes it.
    """
    paths = prepared.paths
    if not config.resume_from_cache or not paths.existing:
        return None
    journal = stack.enter_context(open_for_resume(paths, prepared.plan.rollouts))
    state = RunState(config, prepared, journal)
    state.restore(prepared, retry_failed=config.retry_failed, retry_timeouts=config.retry_terminal_timeouts)
    planned = counted(prepared.plan.rollouts, "rollout", "is collected", "are collected")
    message = f"resuming {paths.output}: {state.counters.collected} of {planned}"
    if state.prior.attempts:
        message += f", {len(state.prior.attempts)} failed and will be retried"
    if state.prior.not_retried:
        message += f", {len(state.prior.not_retried)} failed and will not be retried"
    log(message)
    if journal.unreadable:
        lines = counted(journal.unreadable, "line")
        log(f"warning: {lines} of {paths.output} left out, because they are not rows of this run")
    return state


def new_state(config: CollectConfig, prepared: PreparedRun, stack: AsyncExitStack) -> RunState:
    """An empty state; an existing output is renamed, or replaced with `overwrite=true`.

    Raises:
        OutputError: the output cannot be written, or another process writes it.
    """
    journal = open_new(prepared.paths, prepared.plan.rollouts, overwrite=config.overwrite)
    stack.enter_context(journal)
    if journal.backup:
        log(f"{journal.backup.with_suffix('')} exists: renamed to {journal.backup}, with its side files")
    return RunState(config, prepared, journal)
