"""Where the planned rollouts of a run are."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

from ng_rollouts.metrics.latency_histogram import LatencyHistogram
from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.types import Json, RolloutKey


@dataclass(slots=True)
class AgentCounters:
    """What an agent did for this command."""

    collected: int = 0
    output_tokens: int = 0
    latencies: LatencyHistogram = field(default_factory=LatencyHistogram)

    def figures(self, seconds: float) -> Json:
        """Latency percentiles in seconds, and how much a second."""
        return {
            "latency_s": self.latencies.percentiles(),
            "rollouts_per_s": self.collected / seconds,
            "output_tokens_per_s": self.output_tokens / seconds,
        }


@dataclass(slots=True, kw_only=True)
class RunCounters:
    """Where the planned rollouts are; those in none of these have not been taken up.

    Attributes:
        started: when each rollout in flight was sent (`time.monotonic`), oldest first.
        answered: attempts that ended, well or not, and how many seconds they took in all.
        input_tokens, output_tokens: of the rollouts that this command collected.
        earlier_input_tokens, earlier_output_tokens: of those that were there before.
        by_agent: what each agent did for this command.
        reward: of all rollouts collected, by this command or before.
    """

    planned: int
    collected: int = 0
    failed: int = 0
    waiting: int = 0
    in_flight_since: dict[RolloutKey, float] = field(default_factory=dict)
    attempts_done: int = 0
    attempt_seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    earlier_input_tokens: int = 0
    earlier_output_tokens: int = 0
    most_in_flight: int = 0
    by_agent: defaultdict[str, AgentCounters] = field(default_factory=lambda: defaultdict(AgentCounters))
    reward: RunningStats = field(default_factory=RunningStats)

    @property
    def latencies(self) -> LatencyHistogram:
        """Of all attempts."""
        merged = LatencyHistogram()
        for counters in self.by_agent.values():
            merged.merge(counters.latencies)
        return merged

    @property
    def in_flight(self) -> int:
        """Rollouts that are being tried."""
        return len(self.in_flight_since)

    @property
    def settled(self) -> int:
        """Rollouts that will not be tried again."""
        return self.collected + self.failed

    def oldest(self) -> tuple[RolloutKey, float] | None:
        """The rollout that has been in flight longest, and for how many seconds."""
        for key, in_flight_since in self.in_flight_since.items():
            return key, time.monotonic() - in_flight_since
        return None
