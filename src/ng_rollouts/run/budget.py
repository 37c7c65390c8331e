"""The limits of a run: tokens, what they cost, and time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Self

from ng_rollouts.config.parameters import Prices
from ng_rollouts.console import counted, log
from ng_rollouts.errors import UsageError, WallTimeOver
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Tokens

_MIN_DURATIONS = 5
"""Durations that have to be known before they limit the start of rollouts."""

_PROBABLY = 0.75
"""A rollout starts if this share of the rollouts so far would have ended in the time that is left."""

_FRESH_S = 0.25
"""How long a quantile of the durations is used. It takes 0.1 ms, which each rollout would otherwise cost."""

_END_SHARE, _MIN_END_S, _MAX_END_S = 0.01, 1.0, 60.0
"""The share of the wall time that is kept for the end of the run, and its bounds in seconds."""

_MAX_END_SHARE = 0.5
"""The most that is kept of a short time."""

_SLURM_END = "SLURM_JOB_END_TIME"
"""The variable of a Slurm job with the time of its end, in seconds since 1970."""


@dataclass(slots=True)
class ProbableDuration:
    """The time in which most of this command's rollouts end, in seconds; 0 while too few have ended."""

    _seconds: float = 0.0
    _fresh_until: float = -inf

    def at(self, now: float, counters: RunCounters) -> float:
        """The value at a time (`time.monotonic`), at most `_FRESH_S` seconds old."""
        if now >= self._fresh_until:
            self._fresh_until = now + _FRESH_S
            is_known = counters.attempts_done >= _MIN_DURATIONS
            self._seconds = counters.latencies.quantile(_PROBABLY) or 0.0 if is_known else 0.0
        return self._seconds


@dataclass(slots=True)
class TimeBudget:
    """The time in which rollouts may start.

    Attributes:
        seconds: from the first rollout on; None for no limit.
        margin_s: the time that has to be left for a rollout to start; None for a quantile of the durations so far.
        is_over: whether a rollout was not started for lack of time.
        began: when the first rollout asked (`time.monotonic`); None before that.
    """

    seconds: float | None
    margin_s: float | None
    is_over: bool = False
    began: float | None = None
    _duration: ProbableDuration = field(default_factory=ProbableDuration)

    def allows(self, counters: RunCounters) -> bool:
        """Whether a rollout may start now."""
        if self.seconds is not None:
            now = time.monotonic()
            self.began = now if self.began is None else self.began
            left = self.seconds - (now - self.began)
            margin = self._duration.at(now, counters) if self.margin_s is None else self.margin_s
            self.is_over = self.is_over or left <= 0 or left < margin
        return not self.is_over


@dataclass(slots=True)
class WallTime:
    """The time in which this command has to end.

    Attributes:
        ends_at: when nothing may be in flight any more (`time.monotonic`); None for no limit.
        limit: what sets the limit, for messages.
        is_over: whether a rollout was not started or was cancelled for lack of time.
        margin_s: the seconds from `ends_at` to the end of the command.
        wanted_margin_s: the parameter that sets these; None for a share of the time.
        began: when the command began (`time.monotonic`).
    """

    ends_at: float | None = None
    limit: str = ""
    is_over: bool = False
    margin_s: float = 0.0
    wanted_margin_s: float | None = None
    began: float = 0.0
    _duration: ProbableDuration = field(default_factory=ProbableDuration)
    _settled_before: int = 0
    _oldest_s: float = 0.0  # how long the oldest rollout was in flight when it was cancelled
    _end_now: Callable[[], None] | None = None  # set while the end is enforced
    _timer: asyncio.TimerHandle | None = None
    _has_ended: bool = False

    @classmethod
    def of(cls, max_wall_s: float | None, margin_s: float | None, began: float) -> Self:
        """The earlier end of `max_wall_s` and of the Slurm job, less the margin.

        Args:
            margin_s: the seconds kept for the end of the run; None for a share of the time.
            began: when the command began (`time.monotonic`).
        """
        wall = cls(wanted_margin_s=margin_s, began=began)
        ends = [] if max_wall_s is None else [(began + max_wall_s, f"max_wall_s={max_wall_s:g}")]
        if (slurm_s := _slurm_seconds_left()) is not None:
            ends.append((time.monotonic() + slurm_s, "the end of the Slurm job"))
        if ends:
            wall._set_end(*min(ends))
        return wall

    def move(self, max_wall_s: float | None) -> None:
        """Replace the limit while the command runs, also that of the Slurm job, whose end may have been moved.

        Args:
            max_wall_s: seconds from the command's beginning; None for no limit.

        Raises:
            UsageError: the time is over already, or would be.
        """
        if self._has_ended:
            raise UsageError("max_wall_s cannot be changed any more: the time is over, and the run ends")
        if max_wall_s is None:
            self.ends_at = None
        else:
            end = self.began + max_wall_s
            if end - self._margin_of(end) <= time.monotonic():
                margin = f", less {self._margin_of(end):g} s for the end of the run," if self._margin_of(end) else ""
                raise UsageError(f"max_wall_s={max_wall_s:g}{margin} is over already: drain ends the run")
            self._set_end(end, f"max_wall_s={max_wall_s:.15g}")
        self.is_over = False
        self._restart_timer()

    def _set_end(self, end: float, limit: str) -> None:
        self.margin_s = self._margin_of(end)
        self.ends_at, self.limit = end - self.margin_s, limit

    def _margin_of(self, end: float) -> float:
        """The time that is kept for the end of a command that has to end then."""
        seconds = end - self.began
        if self.wanted_margin_s is not None:
            return self.wanted_margin_s
        return min(_MAX_END_S, max(_MIN_END_S, _END_SHARE * seconds), _MAX_END_SHARE * seconds)

    @property
    def left_s(self) -> float:
        """Seconds until the command has to end; 0 after that, infinite without a limit."""
        return inf if self.ends_at is None else max(0.0, self.ends_at + self.margin_s - time.monotonic())

    def allows(self, counters: RunCounters) -> bool:
        """Whether a rollout that starts now will probably end in time."""
        if self.ends_at is not None and not self.is_over:
            now = time.monotonic()
            left = self.ends_at - now
            self.is_over = left <= 0 or left < self._duration.at(now, counters)
        return not self.is_over

    @asynccontextmanager
    async def preparing(self) -> AsyncIterator[None]:
        """Cancel the block when the time is over. It runs before the first rollout.

        Raises:
            WallTimeOver: the block was cancelled.
        """
        left = None if self.ends_at is None else max(0.0, self.ends_at - time.monotonic())
        try:
            async with asyncio.timeout(left) as timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise WallTimeOver(f"the time is over ({self.limit}) before the servers of this run answered") from None

    @contextmanager
    def enforced(self, stop: Stop, counters: RunCounters) -> Iterator[None]:
        """Cancel what is in flight when the time is over, while the block runs."""
        self._settled_before = counters.settled
        self._end_now = partial(self._end, stop, counters)
        self._restart_timer()
        try:
            yield
        finally:
            self._end_now = None
            self._restart_timer()

    def _restart_timer(self) -> None:
        """Let the time end when it has to, if that is enforced now."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._end_now and self.ends_at is not None:
            left = max(0.0, self.ends_at - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(left, self._end_now)

    def _end(self, stop: Stop, counters: RunCounters) -> None:
        self._has_ended = True
        # After a signal or `drain`, the run ends as it would have without this limit, only sooner.
        self.is_over = self.is_over or not stop.requested.is_set()
        if oldest := counters.oldest():
            self._oldest_s = oldest[1]
            cancelled = counted(counters.in_flight, "rollout", "in flight is cancelled", "in flight are cancelled")
            log(f"the time is over ({self.limit}): {cancelled}")
        stop.end_drain()

    def describe_end(self, counters: RunCounters) -> str:
        """Why the command ended with remaining rollouts, and what to do."""
        remain = counted(counters.planned - counters.settled, "rollout", "remains", "remain")
        over = f"the time is over ({self.limit}) and {remain}"
        if counters.settled > self._settled_before:
            return f"{over}: +resume_from_cache=true collects the rest"
        oldest = f" (the oldest was cancelled after {self._oldest_s:.3g} s in flight)" if self._oldest_s else ""
        return f"{over}: none ended in this time, so give more{oldest}"


def _slurm_seconds_left() -> float | None:
    """Seconds until the end of this Slurm job; None outside of a job, also if an ended job has left its variable."""
    try:
        left = float(os.environ[_SLURM_END]) - time.time()
    except (KeyError, ValueError):
        return None
    return left if 0 < left < inf else None


@dataclass(slots=True)
class Budget:
    """A token budget, which may change while a run runs, and prices.

    Attributes:
        prices: per million tokens, in any currency.
        max_tokens: tokens of this command, with judges and failed attempts, after which no new rollouts start; None for
            no limit.
        judge_prices: those of judges, as far as they differ from `prices`.
    """

    prices: Prices
    max_tokens: int | None
    judge_prices: Prices = field(default_factory=Prices)

    @property
    def has_prices(self) -> bool:
        """Whether the cost can be computed."""
        prices = (self.prices.input, self.prices.output, self.judge_prices.input, self.judge_prices.output)
        return any(price is not None for price in prices)

    def spent(self, counters: RunCounters) -> float:
        """The cost of this command so far, with judges and failed attempts."""
        return self.cost(counters.input_tokens, counters.output_tokens) + self.extra_cost(counters)

    def extra_cost(self, counters: RunCounters) -> float:
        """The cost of this command's judges and failed attempts."""
        return self.judge_cost(counters) + self.failed_cost(counters)

    def judge_cost(self, counters: RunCounters) -> float:
        """The cost of this command's judges."""
        tokens, own, default = counters.judge_tokens, self.judge_prices, self.prices
        return Prices(
            input=default.input if own.input is None else own.input,
            output=default.output if own.output is None else own.output,
        ).cost(tokens.input, tokens.output)

    def failed_cost(self, counters: RunCounters) -> float:
        """The cost of the answers of this command's failed attempts."""
        return self.prices.cost(counters.failed_tokens.input, counters.failed_tokens.output)

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """The cost of a number of tokens of answers, in the currency of the prices."""
        return self.prices.cost(input_tokens, output_tokens)

    def is_spent(self, counters: RunCounters) -> bool:
        """Whether the token budget is used up."""
        return self.max_tokens is not None and counters.total_tokens >= self.max_tokens

    def progress_notes(self, counters: RunCounters, collected_before: int) -> Iterator[str]:
        """The cost so far, and the projected cost of all planned rollouts, as `key=value`."""
        if not self.has_prices:
            return
        cost = self.spent(counters)
        yield f"cost={cost:.4g}"
        # From the mean cost of the rollouts of this command. Rollouts of earlier commands are not part of `cost`.
        if collected := counters.collected - collected_before:
            yield f"projected={cost + cost / collected * (counters.planned - counters.settled):.4g}"

    def summary_lines(self, counters: RunCounters) -> Iterator[str]:
        """Tokens, cost and budget, for the end of a run."""
        if counters.total_tokens:
            yield from self._token_lines(counters)
        elif counters.collected and (self.max_tokens is not None or self.has_prices):
            yield "warning: replies report no token usage, so budget and cost cannot be tracked"
        if self.is_spent(counters) and counters.settled < counters.planned:
            remaining = counters.planned - counters.settled
            yield (
                f"the budget max_total_tokens={self.max_tokens} is spent: no more rollouts were started; "
                f"resume to collect the remaining {remaining}, with a new budget"
            )

    def _token_lines(self, counters: RunCounters) -> Iterator[str]:
        answers = Tokens(counters.input_tokens, counters.output_tokens)
        parts = [
            ("tokens", answers, self.cost(answers.input, answers.output)),
            ("tokens of judges", counters.judge_tokens, self.judge_cost(counters)),
            ("tokens of failed attempts", counters.failed_tokens, self.failed_cost(counters)),
        ]
        parts = [part for part in parts if part[1].total]
        for name, tokens, cost in parts:
            yield f"{name}: {tokens.input} in, {tokens.output} out" + (f", cost {cost:.4g}" if self.has_prices else "")
        if self.has_prices and len(parts) > 1:
            yield f"cost of all: {self.spent(counters):.4g}"
