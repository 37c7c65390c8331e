"""The limit of one inference engine, steered by its gauges.

Engines such as vLLM, SGLang and TGI do not refuse requests. They queue them. When the KV cache is full, they preempt
requests and compute their tokens again. `GaugeLimit` is a state machine. It receives the gauges about once per second,
and does one of three things:

- **Cut.** The engine preempted since the last sample: the limit falls, and so does the share of the cache to fill.
- **Hold.** Some requests wait: the engine runs all that it can, and the small queue keeps it full. If more than a few
  wait for several samples, the limit falls by their number.
- **Move.** Nothing waits: the limit moves towards the number of requests that fill the cache. A step is at most half of
  the limit at first, and a tenth after the first decrease.

After a decrease, the limit does not fall again until the engine has as many requests less, or for ten seconds. Steps
are relative to the limit, so the limit also fits rollouts that call tools. If a rollout has several requests at once, a
queue may stay, which costs no throughput.

**Other clients of the engine.** Only our share of a queue counts, and a queue does not lower the limit below half of
the requests that run. So a queue of others leaves us what we have, up to half of the engine. The limit does not grow
while requests of others wait. Preemptions and a full cache lower it, even if others cause them, down to 1.

**The number that fills the cache** is a prediction, because a request's share of the cache grows with its age. The mean
duration of a request is estimated as the time that requests have run, divided by the requests that have completed. The
estimate is too long while few have completed, so the limit starts carefully. In a steady state, requests in flight are
as old on average as a request lasts (exact for exponential durations). Younger requests will grow by that proportion.
"""

from __future__ import annotations

import math

from ng_rollouts.types import EngineSample

FIRST_LIMIT = 16
"""Where the limit of an engine begins."""

_FIRST_GROWTH, _LATER_GROWTH, _LARGEST_DECREASE = 1.5, 1.1, 0.8
"""Factors by which a sample changes the limit at most: before the first decrease, after it, and downwards."""

_QUEUE_SHARE = 0.03
"""Requests that may wait, as a share of those that run; at least one."""

_LONG_QUEUE_SAMPLES = 3
"""A longer queue in this many samples in a row lowers the limit. New requests wait for a moment in any engine."""

_FAIR_SHARE = 0.5
"""A queue does not lower the limit below this share of the requests that run: more of them would be of others."""

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

_LESS_FULL, _FULLER = 0.03, 0.0002
"""How much it falls with each cut, and how much it rises with each sample without preemptions."""


class GaugeLimit:
    """The limit of one engine.

    Args:
        ceiling: the largest limit.
        first: where it begins.
    """

    def __init__(self, ceiling: int, first: float = FIRST_LIMIT) -> None:
        self._ceiling = ceiling
        self._limit = float(min(first, ceiling))
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
    def is_known(self) -> bool:
        """True after a sample, until `lose`."""
        return self._last is not None

    @property
    def running(self) -> int:
        """Requests in the batch, by the last sample."""
        return self._last.running if self._last else 0

    def lose(self) -> None:
        """Wait for gauges, which are not known for now. The limit then continues from where it is."""
        self._last = None
        self._long_queues = 0

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
            self._shorten_queue(sample, sample.waiting - few)

    def _shorten_queue(self, sample: EngineSample, too_many: float) -> None:
        """Lower the limit by our share of what waits, but not below a fair share of what runs."""
        own_share = min(1.0, self._limit / (sample.running + sample.waiting))
        limit = max(self._limit - own_share * too_many, _FAIR_SHARE * sample.running)
        if limit < self._limit:
            self._decrease(limit, sample)

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

    Requests that complete are taken to have the mean age of those that run.
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
