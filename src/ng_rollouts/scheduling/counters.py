"""Counters of a run: rollouts by state, tokens, and durations of attempts."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from ng_rollouts.metrics.latency_histogram import LatencyHistogram
from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.types import Json, RolloutKey, RolloutStats, Tokens


@dataclass(slots=True)
class AgentCounters:
    """Rollouts, tokens and latencies of one agent, for this command."""

    collected: int = 0
    output_tokens: int = 0
    latencies: LatencyHistogram = field(default_factory=LatencyHistogram)

    def statistics(self, seconds: float) -> Json:
        """Latency percentiles in seconds, and throughput, for a command that took `seconds`."""
        return {
            "latency_s": self.latencies.percentiles(),
            "rollouts_per_s": self.collected / seconds,
            "output_tokens_per_s": self.output_tokens / seconds,
        }


@dataclass(slots=True, kw_only=True)
class RunCounters:
    """Where the planned rollouts are; those in none of these states have not started.

    Attributes:
        collected, failed: rollouts with an outcome, of this command or an earlier one.
        unscored: failed rollouts that have an answer.
        waiting: rollouts that wait for a retry.
        waiting_for: failure class of the latest attempt that is retried.
        in_flight_since: when each rollout in flight started (`time.monotonic`), oldest first.
        attempts_done: attempts of this command that ended, successful or not.
        attempt_seconds: how long these took in total.
        has_earlier_answers: whether this command scores answers of earlier commands, and asks no model for new ones.
        input_tokens, output_tokens: of the rollouts that this command collected.
        judge_tokens: of the judges that this command asked.
        failed_tokens: of this command's attempts that failed, were cancelled, or answered second, and of answers that
            were asked for again.
        earlier_input_tokens, earlier_output_tokens: of the rollouts that earlier commands collected, and of the answers
            of earlier commands that this one scored.
        hedged, hedged_won: second attempts that began while the first one was in flight, and those that answered first.
        most_in_flight: the largest number of rollouts in flight at once.
        truncated, empty: collected rollouts whose response is incomplete, or complete without text and tool call.
        masked: collected rollouts whose result is not a measurement, by reason.
        reward: of all collected rollouts, for progress; exact means come from the score table.
    """

    planned: int
    has_earlier_answers: bool = False
    collected: int = 0
    failed: int = 0
    unscored: int = 0
    waiting: int = 0
    waiting_for: str = ""
    in_flight_since: dict[RolloutKey, float] = field(default_factory=dict)
    attempts_done: int = 0
    attempt_seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    judge_tokens: Tokens = field(default_factory=Tokens)
    failed_tokens: Tokens = field(default_factory=Tokens)
    earlier_input_tokens: int = 0
    earlier_output_tokens: int = 0
    hedged: int = 0
    hedged_won: int = 0
    most_in_flight: int = 0
    truncated: int = 0
    empty: int = 0
    masked: Counter[str] = field(default_factory=Counter)
    by_agent: defaultdict[str, AgentCounters] = field(default_factory=lambda: defaultdict(AgentCounters))
    reward: RunningStats = field(default_factory=RunningStats)

    @property
    def latencies(self) -> LatencyHistogram:
        """Of all attempts of this command."""
        merged = LatencyHistogram()
        for counters in self.by_agent.values():
            merged.merge(counters.latencies)
        return merged

    @property
    def total_tokens(self) -> int:
        """Tokens that this command used: of collected rollouts, judges and failed attempts."""
        return self.input_tokens + self.output_tokens + self.judge_tokens.total + self.failed_tokens.total

    @property
    def in_flight(self) -> int:
        """Rollouts that are being attempted."""
        return len(self.in_flight_since)

    @property
    def measured(self) -> int:
        """Collected rollouts whose result is a measurement."""
        return self.collected - self.masked.total()

    @property
    def settled(self) -> int:
        """Rollouts with an outcome."""
        return self.collected + self.failed

    def oldest(self) -> tuple[RolloutKey, float] | None:
        """The rollout that has been in flight longest, and for how many seconds; None if none is."""
        for key, since in self.in_flight_since.items():
            return key, time.monotonic() - since
        return None

    def seconds_of(self, key: RolloutKey) -> float:
        """How long a rollout has been in flight, in seconds; 0 if it is not."""
        now = time.monotonic()
        return now - self.in_flight_since.get(key, now)

    def begin_attempt(self, key: RolloutKey) -> None:
        """Count a rollout as in flight."""
        self.in_flight_since[key] = time.monotonic()
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight_since))

    def end_attempt(self, key: RolloutKey, agent: str, seconds: float) -> None:
        """Count an attempt that ended after `seconds`, successful or not."""
        self.attempts_done += 1
        self.attempt_seconds += seconds
        self.by_agent[agent].latencies.add(seconds)
        del self.in_flight_since[key]

    def record(self, agent: str, stats: RolloutStats, *, is_answered_earlier: bool = False) -> None:
        """Count a rollout that this command collected.

        Args:
            is_answered_earlier: whether the answer is one of an earlier command, which used its tokens.
        """
        self.collected += 1
        by_agent = self.by_agent[agent]
        by_agent.collected += 1
        if is_answered_earlier or self.has_earlier_answers:
            self.restore(stats)
            return
        input_tokens, output_tokens = _tokens(stats)
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        by_agent.output_tokens += output_tokens
        self._add_outcome(stats)

    def restore(self, stats: RolloutStats) -> None:
        """Add tokens, reward and kind of response of a rollout that an earlier command collected or answered."""
        input_tokens, output_tokens = _tokens(stats)
        self.earlier_input_tokens += input_tokens
        self.earlier_output_tokens += output_tokens
        self._add_outcome(stats)

    def _add_outcome(self, stats: RolloutStats) -> None:
        self.truncated += stats.truncated
        self.empty += stats.empty
        if stats.masked:
            self.masked[stats.masked] += 1
        if "reward" in stats.scores:
            self.reward.add(stats.scores["reward"])


def _tokens(stats: RolloutStats) -> tuple[int, int]:
    return stats.tokens.get("input_tokens", 0), stats.tokens.get("output_tokens", 0)
