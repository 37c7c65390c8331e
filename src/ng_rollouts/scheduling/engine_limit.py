"""The limit for all inference engines together, steered by their gauges where they are known.

Each engine has a `GaugeLimit`. The limit for all is their sum, if each engine gets requests by its own limit. An engine
without gauges then counts as the mean of the others. If the requests are spread evenly, as behind a router, the engine
with the smallest limit decides: the limit is that, times the number of engines.

Without any gauges, it is an `AdaptiveLimit` under a `ThroughputCap`: it follows refusals (429, 503), and stops where
more parallelism does not raise the throughput. A refusal by an engine with gauges, or by a proxy before it, starts an
`AdaptiveLimit` at the current number, which then is an upper bound.

If the gauges of all engines are lost, their last limits hold. The `ThroughputCap` begins there, and its probes raise it
as far as that gives more throughput. When gauges are found again, the limit of their engine continues.
"""

from __future__ import annotations

from collections.abc import Callable

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.scheduling.concurrency import AdaptiveLimit
from ng_rollouts.scheduling.gauge_limit import FIRST_LIMIT, GaugeLimit
from ng_rollouts.scheduling.retry import OVERLOAD_STATUSES
from ng_rollouts.scheduling.throughput_cap import ThroughputCap
from ng_rollouts.types import EngineSample

_USED = 0.9
"""The share of the limit that has to be in flight for it to grow: else, growth would say nothing about the engine."""


class EngineAwareLimit:
    """The limit for all engines together.

    Attributes:
        current: the number of rollouts that may be in flight.
        steered_by: the signal that decides: `vllm_gauges` or those of another engine, the `throughput`, or `refusals`.
        on_rise: called when the limit has risen without an outcome.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._engines: dict[str, GaugeLimit] = {}
        self._seen: dict[str, int] = {}  # successes until an engine's last sample
        self._successes = 0
        self._expected = 0
        self._evenly = False
        self._kinds: set[str] = set()
        self._known: list[GaugeLimit] = []  # with gauges
        self._mean: float | None = None  # of these, or else of the last ones; None if no engine has had gauges
        self._number = 0  # of engines
        self._bound = 0.0  # for all engines, by their gauges
        self._refusals = AdaptiveLimit(ceiling)
        self._was_refused = False
        self._throughput = ThroughputCap()
        self.on_rise: Callable[[], None] = lambda: None
        self.current = self._refusals.current
        self.steered_by = "throughput"

    def of(self, address: str) -> float | None:
        """The limit of an engine: the mean of the others, if only theirs are known; None if none has had gauges."""
        limit = self._engines.get(address)
        return limit.current if limit and (limit.is_known or not self._known) else self._mean

    def _measure(self) -> None:
        """Compute what depends on all engines: once per sample, not for each rollout."""
        self._known = [limit for limit in self._engines.values() if limit.is_known]
        # The limits with gauges, or else the last ones of all engines.
        deciding = self._known or list(self._engines.values())
        self._mean = sum(each.current for each in deciding) / len(deciding) if deciding else None
        self._number = max(self._expected, len(deciding))
        least = min((limit.current for limit in deciding), default=0)
        self._bound = self._number * (least if self._evenly else self._mean or 0.0)

    def set_ceiling(self, ceiling: int) -> None:
        """Lower the limit to a new ceiling at once, or let it grow up to that."""
        self._ceiling = ceiling
        self._refusals.set_ceiling(ceiling)
        for limit in self._engines.values():
            limit.set_ceiling(ceiling)
        self._measure()
        self._update()

    def expect(self, engines: int, *, evenly: bool = False) -> None:
        """Set the number of engines.

        Args:
            evenly: whether all get equally many requests. If not, each gets them in proportion to its limit.
        """
        if (engines, evenly) != (self._expected, self._evenly):
            self._expected, self._evenly = engines, evenly
            self._measure()
            self._update()

    def observe(self, address: str, sample: EngineSample, in_flight: int) -> None:
        """Receive the gauges of an engine.

        Args:
            in_flight: the rollouts that use the engines at present, of all engines together.
        """
        if address not in self._engines:
            self._engines[address] = GaugeLimit(self._ceiling, self._mean or FIRST_LIMIT)
            self._measure()
        limit = self._engines[address]
        self._kinds.add(sample.engine)
        running = sum(each.running for each in self._known)
        share = limit.running / running if running else 1.0
        completed = share * (self._successes - self._seen.get(address, self._successes))
        self._seen[address] = self._successes
        limit.observe(sample, completed, is_used=in_flight >= _USED * self._total_if(limit))
        self._measure()
        self._update()
        self.on_rise()

    def lose(self, address: str) -> None:
        """Continue without the gauges of an engine, until they are observed again."""
        limit = self._engines.get(address)
        if limit is None or not limit.is_known:
            return
        limit.lose()
        self._seen.pop(address, None)
        self._measure()
        if not self._known:
            self._continue_without_gauges(max(1, int(self._bound)))
        self._update()

    def _continue_without_gauges(self, first: int) -> None:
        """Begin at a limit that gauges have found, without what was measured before."""
        self._throughput = ThroughputCap(first)
        if not self._was_refused:  # until now, it has not followed the limit
            self._refusals = AdaptiveLimit(self._ceiling, first)

    def _total_if(self, limit: GaugeLimit) -> float:
        """The rollouts in flight with which an engine has as many as its limit."""
        return limit.current * self._number if self._evenly else self._bound

    def record_success(self, now: float) -> None:
        """Count an attempt that succeeded."""
        self._successes += 1
        if not self._known:
            self._throughput.record_success(self.current, now)
        # A limit that is not reached learns nothing from successes.
        if self._refusals.current <= self.current:
            self._refusals.record_success(now)
        self._update()

    def record_failure(self, failure: AttemptFailed, started: float, now: float) -> None:
        """Count an attempt that began at `started` and failed at `now`."""
        if failure.status in OVERLOAD_STATUSES and not self._was_refused:
            self._was_refused = True
            if self._known:  # until now, it has not followed the limit
                self._refusals = AdaptiveLimit(self._ceiling, self.current)
        self._refusals.record_failure(failure, started, now)
        self._update()

    def _update(self) -> None:
        bound: float
        if has_gauges := bool(self._known):
            bound, name = self._bound, f"{'+'.join(sorted(self._kinds))}_gauges"
        else:
            bound, name = self._throughput.current, "throughput"
        follows_refusals = self._was_refused or not has_gauges
        refusals = self._refusals.current if follows_refusals else self._ceiling
        self.current = max(1, int(min(self._ceiling, bound, refusals)))
        self.steered_by = "refusals" if self._was_refused and refusals < bound else name
