"""The budgets of a run: tokens, what they cost, and time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from ng_rollouts.config.parameters import Prices
from ng_rollouts.scheduling.counters import RunCounters

_MILLION = 1_000_000


_MIN_DURATIONS = 5
"""Durations that have to be known before the margin of a time budget is taken from them."""

_MARGIN_QUANTILE = 0.75


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

    def allows(self, counters: RunCounters) -> bool:
        """Whether a rollout may start now."""
        if self.seconds is not None:
            now = time.monotonic()
            self.began = now if self.began is None else self.began
            left = self.seconds - (now - self.began)
            self.is_over = self.is_over or left <= 0 or left < self._margin(counters)
        return not self.is_over

    def _margin(self, counters: RunCounters) -> float:
        if self.margin_s is not None:
            return self.margin_s
        if counters.attempts_done < _MIN_DURATIONS:
            return 0.0
        return counters.latencies.quantile(_MARGIN_QUANTILE) or 0.0


@dataclass(frozen=True, slots=True)
class Budget:
    """A token budget and prices.

    Attributes:
        prices: per million tokens, in any currency.
        max_tokens: input and output tokens of this command after which no new rollouts start; None for no limit.
    """

    prices: Prices
    max_tokens: int | None

    @property
    def has_prices(self) -> bool:
        """Whether the cost can be computed."""
        return self.prices.input is not None or self.prices.output is not None

    def spent(self, counters: RunCounters) -> float:
        """The cost of this command so far."""
        return self.cost(counters.input_tokens, counters.output_tokens)

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """The cost of a number of tokens, in the currency of the prices."""
        return (input_tokens * (self.prices.input or 0.0) + output_tokens * (self.prices.output or 0.0)) / _MILLION

    def is_spent(self, counters: RunCounters) -> bool:
        """Whether the token budget is used up."""
        return self.max_tokens is not None and counters.input_tokens + counters.output_tokens >= self.max_tokens

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
        if counters.input_tokens or counters.output_tokens:
            line = f"tokens: {counters.input_tokens} in, {counters.output_tokens} out"
            yield line + (f", cost {self.spent(counters):.4g}" if self.has_prices else "")
        elif counters.collected and (self.max_tokens is not None or self.has_prices):
            yield "warning: replies report no token usage, so budget and cost cannot be tracked"
        if self.is_spent(counters) and counters.settled < counters.planned:
            remaining = counters.planned - counters.settled
            yield (
                f"the budget max_total_tokens={self.max_tokens} is spent: no more rollouts were started; "
                f"resume to collect the remaining {remaining}, with a new budget"
            )
