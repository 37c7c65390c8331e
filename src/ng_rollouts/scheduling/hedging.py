"""Second attempts at rollouts that take long, once slots are idle ("hedged requests").

The first answer wins, and the other attempt is cancelled. If both attempts fail, both count.

Source: J. Dean and L. A. Barroso, "The Tail at Scale", Communications of the ACM 56 (2), 2013.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import inf

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.types import Result, Rollout, RolloutKey

Call = Callable[[Rollout, int], Awaitable[Result]]
"""One attempt at a rollout, given the number of attempts before it; raises AttemptFailed."""

FailureSink = Callable[[AttemptFailed, float], None]
"""Receives the failure of an attempt that has just ended, and its duration in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedging:
    """When a rollout gets a second attempt.

    Attributes:
        allows: whether a rollout may have two attempts at a time.
        seconds: how long the first one has to be in flight; None for a quantile of the durations so far.
        quantile: that quantile, from 0 to below 1.
    """

    allows: Callable[[Rollout], bool]
    seconds: float | None = None
    quantile: float = 0.99

    def after_s(self, counters: RunCounters) -> float:
        """How long the first attempt has to be in flight, in seconds; infinite while too few durations are known."""
        if self.seconds is not None:
            return self.seconds
        # At least one duration has to lie above the quantile.
        if counters.attempts_done * (1 - self.quantile) < 1 - 1e-9:
            return inf
        return counters.latencies.quantile(self.quantile) or 0.0


@dataclass(slots=True, eq=False)
class _HedgedRollout:
    """A rollout with one or two attempts in flight.

    Attributes:
        number: the number of attempts before the first one.
        began: when the first one began (`time.monotonic`).
        add_failure: receives the failure of one attempt if both fail; `outcome` has that of the other one.
        outcome: the result that arrived first; a failure if all attempts have failed.
        tasks: those of the attempts; `in_flight` of them have not ended.
        failed: the failure of an attempt that ended, and its seconds.
    """

    rollout: Rollout
    number: int
    began: float
    add_failure: FailureSink
    outcome: asyncio.Future[Result]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    in_flight: int = 0
    failed: tuple[AttemptFailed, float] | None = None

    def cancel(self) -> None:
        """Cancel the attempts in flight."""
        for task in self.tasks:
            task.cancel()

    def fail(self, failure: AttemptFailed, seconds: float) -> None:
        """Take the failure of an attempt that has ended; after the last one, the outcome is known."""
        ended = [each for each in (self.failed, (failure, seconds)) if each]
        ended.sort(key=lambda each: bool(each[0].kept))  # stable: an answer comes last, because the last one is kept
        self.failed = ended[-1]
        if self.in_flight == 0 and not self.outcome.done():
            for each in ended[:-1]:
                self.add_failure(*each)
            self.outcome.set_exception(self.failed[0])


class Hedger:
    """Makes attempts, of which each may get a second one.

    Args:
        call: makes one attempt.
        tasks: owns the attempts; an unexpected error in one of them ends the group.
    """

    def __init__(self, call: Call, hedging: Hedging, counters: RunCounters, tasks: asyncio.TaskGroup) -> None:
        self._call = call
        self._hedging = hedging
        self._counters = counters
        self._tasks = tasks
        self._single: dict[_HedgedRollout, None] = {}  # those with one attempt, oldest first
        self._hedged: dict[RolloutKey, _HedgedRollout] = {}  # those that have had two, until they have an outcome

    async def attempt(self, rollout: Rollout, number: int, add_failure: FailureSink) -> Result:
        """Make an attempt at a rollout, and perhaps a second one.

        Args:
            number: the number of attempts before this one.
            add_failure: receives the failure of one attempt if both fail; the other one is raised.

        Raises:
            AttemptFailed: all attempts failed.
        """
        outcome: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        hedged = _HedgedRollout(rollout, number, time.monotonic(), add_failure, outcome)
        self._single[hedged] = None
        self._start(hedged, number)
        try:
            return await outcome
        except asyncio.CancelledError:
            hedged.cancel()
            await asyncio.wait(hedged.tasks)
            if hedged.failed and hedged.failed[0].kept:
                raise hedged.failed[0] from None
            raise
        finally:
            self._single.pop(hedged, None)
            self._hedged.pop(rollout.key, None)
            hedged.cancel()

    def attempts_of(self, key: RolloutKey) -> int:
        """How many attempts at a rollout are in flight."""
        hedged = self._hedged.get(key)
        return hedged.in_flight if hedged else 1

    def next_at(self) -> float:
        """When the oldest rollout with a single attempt is overdue (`time.monotonic`); infinite if there is none."""
        while (hedged := next(iter(self._single), None)) and not self._hedging.allows(hedged.rollout):
            del self._single[hedged]
        return inf if hedged is None else hedged.began + self._hedging.after_s(self._counters)

    def start_second(self, end: Callable[[], None]) -> None:
        """Make a second attempt at the oldest rollout with a single one.

        Args:
            end: called when the attempt has ended, even if it was cancelled before its first step.
        """
        hedged = next(iter(self._single))
        del self._single[hedged]
        self._hedged[hedged.rollout.key] = hedged
        self._counters.hedged += 1
        self._start(hedged, hedged.number + 1).add_done_callback(lambda _: end())

    def _start(self, hedged: _HedgedRollout, number: int) -> asyncio.Task[None]:
        task = self._tasks.create_task(self._run(hedged, number))
        hedged.tasks.append(task)
        hedged.in_flight += 1
        return task

    async def _run(self, hedged: _HedgedRollout, number: int) -> None:
        began = time.monotonic()
        try:
            result = await self._call(hedged.rollout, number)
        except AttemptFailed as failure:
            hedged.in_flight -= 1
            self._single.pop(hedged, None)
            hedged.fail(failure, time.monotonic() - began)
        else:
            self._succeed(hedged, result, is_second=number > hedged.number)

    def _succeed(self, hedged: _HedgedRollout, result: Result, *, is_second: bool) -> None:
        if hedged.outcome.done():
            tokens = result.stats.tokens
            self._counters.failed_tokens.add(tokens.get("input_tokens", 0), tokens.get("output_tokens", 0))
            return
        self._single.pop(hedged, None)
        self._counters.hedged_won += is_second
        hedged.outcome.set_result(result)
