"""A limit that keeps inference engines full without overfilling them, steered by the engines' own gauges.

Engines such as vLLM, SGLang and TGI do not refuse requests. They queue them. When the KV cache is full, they preempt
requests and compute their tokens again. `GaugeLimit` is the state machine of one engine. A sample of its gauges, about
one per second, is a transition:

- **Cut.** The engine preempted since the last sample: the limit falls, and so does the share of the cache to fill.
- **Hold.** Some requests wait: the engine runs all that it can, and the small queue hides the way to it. If more than a
  few wait for several samples, the limit falls by their number.
- **Move.** Nothing waits: the limit moves towards the number of requests that fill the cache, in steps of at most half
  its size at first, and of a tenth after the first decrease.

After a decrease, the limit does not fall again before the engine has as many requests less, or for ten seconds. All
steps are relative to the current limit, so other clients of the engine, and rollouts that call tools, do not matter.

The number that fills the cache is a prediction, because a request's share of the cache grows with its age. The mean
duration of a request is estimated as the time that requests have run, divided by the requests that have completed. It
is long while few have completed, so the limit starts carefully. In a steady state, requests in flight are as old on
average as a request lasts (exact for exponential durations). Younger requests will grow by that proportion.

`EngineAwareLimit` adds the limits of all engines. Without gauges, it is an `AdaptiveLimit` under a `ThroughputCap`: it
follows refusals (429, 503), and stops where more parallelism does not raise the throughput. A refusal by an engine with
gauges, or by a proxy before it, starts an `AdaptiveLimit` at the current number, which then is an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.scheduling.concurrency import AdaptiveLimit
from ng_rollouts.scheduling.retry import OVERLOAD_STATUSES
from ng_rollouts.scheduling.throughput_cap import ThroughputCap

FIRST_LIMIT = 16
"""Where the limit of an engine begins."""

_FIRST_GROWTH, _LATER_GROWTH, _LARGEST_DECREASE = 1.5, 1.1, 0.8
"""Factors by which a sample changes the limit at most: before the first decrease, after it, and downwards."""

_QUEUE_SHARE = 0.03
"""Requests that may wait, as a share of those that run; at least one."""

_LONG_QUEUE_SAMPLES = 3
"""A longer queue in this many samples in a row lowers the limit. New requests wait for a moment in any engine."""

_CUT = 0.85
"""After preemptions, the limit falls to this share."""

_SETTLE_S = 10.0
"""How long a decrease waits for the requests in flight, at most."""

_FULL, _LEAST_FULL = 0.92, 0.80
"""The share of the cache to fill, without preemptions and after many."""

_MIN_MEMORY_S = 60.0
"""Durations are averages over this time and twice the mean duration, so that they follow an engine."""

_FIRST_COMPLETION = 0.5
"""Before the first request has completed, this many are taken to have."""

_USED = 0.9
"""The share of the limit that has to be in flight for it to grow: else, growth would say nothing about the engine."""

_LESS_FULL, _FULLER = 0.03, 0.0002
"""How much it falls with each cut, and how much it rises with each sample without preemptions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSample:
    """The gauges of an engine at a time.

    Attributes:
        at: the time in seconds, of any clock.
        running: requests in the batch.
        waiting: requests in the queue.
        cache: the used share of the KV cache, from 0 to 1; None if the engine does not say.
        preemptions: preempted requests since the start of the engine; 0 if the engine does not say.
    """

    at: float
    running: int
    waiting: int
    cache: float | None = None
    preemptions: int = 0


class GaugeLimit:
    """The limit of one engine.

    Args:
        ceiling: the largest limit.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._limit = float(min(FIRST_LIMIT, ceiling))
        self._last: EngineSample | None = None
        self._target = _FULL
        self._long_queues = 0
        self._ages = _Ages()
        self._growth = _FIRST_GROWTH
        self._settled_at = math.inf  # requests at the engine, from which on the limit may fall again
        self._settled_by = -math.inf

    def set_ceiling(self, ceiling: int) -> None:
        """Lower the limit to a new ceiling at once, or let it grow up to that."""
        self._ceiling = ceiling
        self._limit = min(self._limit, float(ceiling))

    @property
    def current(self) -> int:
        """The number of requests that may be in flight."""
        return max(1, int(self._limit))

    @property
    def running(self) -> int:
        """Requests in the batch, by the last sample."""
        return self._last.running if self._last else 0

    def observe(self, sample: EngineSample, completed: float, *, is_used: bool = True) -> None:
        """Move to the next limit.

        Args:
            completed: requests that the engine completed since the last sample.
            is_used: whether about as much is in flight as the limit allows. If not, it does not grow.
        """
        last, self._last = self._last, sample
        if last is None or sample.at <= last.at:
            return
        self._ages.observe(sample, sample.at - last.at, completed)
        few = max(1.0, _QUEUE_SHARE * sample.running)
        self._long_queues = self._long_queues + 1 if sample.waiting > few else 0
        # Less preemptions than before means that the engine has started again.
        if sample.preemptions > last.preemptions:
            self._cut(sample)
            return
        self._target = min(_FULL, self._target + _FULLER)
        if sample.waiting == 0:
            self._move(sample, is_used=is_used)
        elif self._long_queues >= _LONG_QUEUE_SAMPLES:
            self._decrease(self._limit - (sample.waiting - few), sample)

    def _cut(self, sample: EngineSample) -> None:
        if self._decrease(_CUT * self._limit, sample):
            self._target = max(_LEAST_FULL, self._target - _LESS_FULL)

    def _move(self, sample: EngineSample, *, is_used: bool) -> None:
        """Towards the limit that fills the cache."""
        grown = self._ages.grown_cache(sample)
        wanted = self._limit * (self._target / grown if grown else self._growth)
        if wanted < self._limit:
            self._decrease(max(wanted, _LARGEST_DECREASE * self._limit), sample)
        elif is_used:
            self._limit = min(self._ceiling, wanted, self._growth * self._limit)

    def _decrease(self, limit: float, sample: EngineSample) -> bool:
        """Lower the limit, if an earlier decrease has had its effect; False if not."""
        requests = sample.running + sample.waiting
        if requests > self._settled_at and sample.at < self._settled_by:
            return False
        self._growth = _LATER_GROWTH
        before, self._limit = self.current, max(1.0, limit)
        self._settled_at, self._settled_by = requests - (before - self.current), sample.at + _SETTLE_S
        return True


class _Ages:
    """Estimates how much of the cache the running requests will use when they are as old as requests get.

    Attributes:
        mean_age: of the running requests, in seconds. Those that complete are taken to have the mean age.
    """

    def __init__(self) -> None:
        self._running_s = 0.0  # recent time of requests in the batch, the sum over all of them
        self._completed = 0.0  # requests that completed in the same time
        self._total_age_s = 0.0
        self._running = 0
        self._least_share = math.inf  # of the cache, of a request: that of its prompt

    def observe(self, sample: EngineSample, seconds: float, completed: float) -> None:
        """Count the time since the last sample."""
        kept = math.exp(-seconds / (_MIN_MEMORY_S + 2 * self.mean_duration_s))
        self._running_s = kept * self._running_s + self._running * seconds
        self._completed = kept * self._completed + completed
        left = max(0.0, 1 - completed / self._running) if self._running else 0.0
        self._total_age_s = (self._total_age_s + self._running * seconds) * left
        self._running = sample.running
        if sample.running and sample.cache:
            self._least_share = min(self._least_share, sample.cache / sample.running)

    @property
    def mean_duration_s(self) -> float:
        """The mean duration of a request: long as long as few have completed."""
        return self._running_s / max(_FIRST_COMPLETION, self._completed)

    def grown_cache(self, sample: EngineSample) -> float | None:
        """The share of the cache that the running requests will use; None if the engine does not say."""
        if sample.cache is None or not sample.running or not self._total_age_s:
            return None
        prompts = min(sample.cache, sample.running * self._least_share)
        growth = self.mean_duration_s * sample.running / self._total_age_s
        return prompts + (sample.cache - prompts) * max(1.0, growth)


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
        self._kinds: set[str] = set()
        self._refusals = AdaptiveLimit(ceiling)
        self._was_refused = False
        self._throughput = ThroughputCap()
        self.on_rise: Callable[[], None] = lambda: None
        self.current = self._refusals.current
        self.steered_by = "throughput"

    def of(self, address: str) -> int | None:
        """The limit of an engine; None if its gauges are not known."""
        return self._engines[address].current if address in self._engines else None

    def set_ceiling(self, ceiling: int) -> None:
        """Lower the limit to a new ceiling at once, or let it grow up to that."""
        self._ceiling = ceiling
        self._refusals.set_ceiling(ceiling)
        for limit in self._engines.values():
            limit.set_ceiling(ceiling)
        self._update()

    def expect(self, engines: int) -> None:
        """Set the number of engines. Those without gauges are taken to be like the others."""
        self._expected = engines
        self._update()

    def observe(self, address: str, sample: EngineSample, in_flight: int, engine: str = "engine") -> None:
        """Receive the gauges of an engine.

        Args:
            in_flight: the rollouts in flight, with all engines.
            engine: what it is, for `steered_by`.
        """
        limit = self._engines.setdefault(address, GaugeLimit(self._ceiling))
        self._kinds.add(engine)
        running = sum(each.running for each in self._engines.values())
        share = limit.running / running if running else 1.0
        completed = share * (self._successes - self._seen.get(address, self._successes))
        self._seen[address] = self._successes
        limit.observe(sample, completed, is_used=in_flight >= _USED * self.current)
        self._update()
        self.on_rise()

    def lose(self, address: str) -> None:
        """Continue without the gauges of an engine."""
        self._engines.pop(address, None)
        self._update()

    def record_success(self, now: float) -> None:
        """Count an attempt that succeeded."""
        self._successes += 1
        if not self._engines:
            self._throughput.record_success(self.current, now)
        # A limit that is not reached learns nothing from successes.
        if self._refusals.current <= self.current:
            self._refusals.record_success(now)
        self._update()

    def record_failure(self, failure: AttemptFailed, started: float, now: float) -> None:
        """Count an attempt that began at `started` and failed at `now`."""
        if failure.status in OVERLOAD_STATUSES and not self._was_refused:
            self._was_refused = True
            if self._engines:  # until now, it has not followed the limit
                self._refusals = AdaptiveLimit(self._ceiling, self.current)
        self._refusals.record_failure(failure, started, now)
        self._update()

    def _update(self) -> None:
        if self._engines:
            known = [each.current for each in self._engines.values()]
            bound = sum(known) * max(1.0, self._expected / len(known))
            name = f"{'+'.join(sorted(self._kinds))}_gauges"
        else:
            bound, name = self._throughput.current, "throughput"
        follows_refusals = self._was_refused or not self._engines
        refusals = self._refusals.current if follows_refusals else self._ceiling
        self.current = max(1, int(min(self._ceiling, bound, refusals)))
        self.steered_by = "refusals" if self._was_refused and refusals < bound else name
