"""Where the planned rollouts of a run are."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

from ng_rollouts.metrics.latency_histogram import Latencies
from ng_rollouts.metrics.running_stats import Moments
from ng_rollouts.types import Json, Key


@dataclass(slots=True)
class AgentCounts:
    """What an agent did for this command."""

    collected: int = 0
    output_tokens: int = 0
    latencies: Latencies = field(default_factory=Latencies)

    def figures(self, seconds: float) -> Json:
        """Latency percentiles in seconds, and how much a second."""
        return {
            "latency_s": self.latencies.percentiles(),
            "rollouts_per_s": self.collected / seconds,
            "output_tokens_per_s": self.output_tokens / seconds,
        }


@dataclass(slots=True, kw_only=True)
class Counts:
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
    started: dict[Key, float] = field(default_factory=dict)
    answered: int = 0
    answered_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    earlier_input_tokens: int = 0
    earlier_output_tokens: int = 0
    most_in_flight: int = 0
    by_agent: defaultdict[str, AgentCounts] = field(default_factory=lambda: defaultdict(AgentCounts))
    reward: Moments = field(default_factory=Moments)

    @property
    def latencies(self) -> Latencies:
        """Of all attempts."""
        merged = Latencies()
        for counts in self.by_agent.values():
            merged.merge(counts.latencies)
        return merged

    @property
    def in_flight(self) -> int:
        """Rollouts that are being tried."""
        return len(self.started)

    @property
    def settled(self) -> int:
        """Rollouts that will not be tried again."""
        return self.collected + self.failed

    def oldest(self) -> tuple[Key, float] | None:
        """The rollout that has been in flight longest, and for how many seconds."""
        for key, started in self.started.items():
            return key, time.monotonic() - started
        return None
