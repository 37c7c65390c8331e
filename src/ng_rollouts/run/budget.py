"""What tokens cost, and whether there are any left to spend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ng_rollouts.config.parameters import Prices
from ng_rollouts.scheduling.counters import RunCounters

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """Prices and a budget, over a run's counts."""

    prices: Prices
    max_tokens: int | None

    @property
    def has_prices(self) -> bool:
        """Whether there is a price."""
        return self.prices.input is not None or self.prices.output is not None

    def spent(self, counters: RunCounters) -> float:
        """What the tokens of this command cost so far, in the currency of the prices."""
        return self.price(counters.input_tokens, counters.output_tokens)

    def price(self, input_tokens: int, output_tokens: int) -> float:
        """What so many tokens cost."""
        return (input_tokens * (self.prices.input or 0.0) + output_tokens * (self.prices.output or 0.0)) / _MILLION

    def is_spent(self, counters: RunCounters) -> bool:
        """Whether no new rollouts are to be taken up."""
        return self.max_tokens is not None and counters.input_tokens + counters.output_tokens >= self.max_tokens

    def notes(self, counters: RunCounters, collected_before: int) -> Iterator[str]:
        """The cost so far, and of all planned rollouts if the rest costs as much each."""
        if not self.has_prices:
            return
        cost = self.spent(counters)
        yield f"cost={cost:.4g}"
        if collected := counters.collected - collected_before:
            yield f"projected={cost + cost / collected * (counters.planned - counters.settled):.4g}"

    def told(self, counters: RunCounters) -> Iterator[str]:
        """The last lines on what was spent."""
        if counters.input_tokens or counters.output_tokens:
            line = f"tokens: {counters.input_tokens} in, {counters.output_tokens} out"
            yield line + (f", cost {self.spent(counters):.4g}" if self.has_prices else "")
        elif counters.collected and (self.max_tokens is not None or self.has_prices):
            yield "warning: the replies tell no usage, so neither a budget of tokens nor a cost can be kept"
        if self.is_spent(counters) and counters.settled < counters.planned:
            yield (
                f"the budget of max_total_tokens={self.max_tokens} is spent: no more rollouts were taken up, "
                f"{counters.planned - counters.settled} are left for a resume with a budget of its own"
            )
