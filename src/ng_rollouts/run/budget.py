"""What tokens cost, and whether there are any left to spend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ng_rollouts.config.parameters import Prices
from ng_rollouts.scheduling.counters import Counts

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Costs:
    """Prices and a budget, over a run's counts."""

    prices: Prices
    most_tokens: int | None

    @property
    def are_known(self) -> bool:
        """Whether there is a price."""
        return self.prices.input is not None or self.prices.output is not None

    def spent(self, counts: Counts) -> float:
        """What the tokens of this command cost so far, in the currency of the prices."""
        return self.price(counts.input_tokens, counts.output_tokens)

    def price(self, input_tokens: int, output_tokens: int) -> float:
        """What so many tokens cost."""
        return (input_tokens * (self.prices.input or 0.0) + output_tokens * (self.prices.output or 0.0)) / _MILLION

    def budget_is_spent(self, counts: Counts) -> bool:
        """Whether no new rollouts are to be taken up."""
        return self.most_tokens is not None and counts.input_tokens + counts.output_tokens >= self.most_tokens

    def notes(self, counts: Counts, collected_before: int) -> Iterator[str]:
        """The cost so far, and of all planned rollouts if the rest costs as much each."""
        if not self.are_known:
            return
        cost = self.spent(counts)
        yield f"cost={cost:.4g}"
        if collected := counts.collected - collected_before:
            yield f"projected={cost + cost / collected * (counts.planned - counts.settled):.4g}"

    def told(self, counts: Counts) -> Iterator[str]:
        """The last lines on what was spent."""
        if counts.input_tokens or counts.output_tokens:
            line = f"tokens: {counts.input_tokens} in, {counts.output_tokens} out"
            yield line + (f", cost {self.spent(counts):.4g}" if self.are_known else "")
        elif counts.collected and (self.most_tokens is not None or self.are_known):
            yield "warning: the replies tell no usage, so neither a budget of tokens nor a cost can be kept"
        if self.budget_is_spent(counts) and counts.settled < counts.planned:
            yield (
                f"the budget of max_total_tokens={self.most_tokens} is spent: no more rollouts were taken up, "
                f"{counts.planned - counts.settled} are left for a resume with a budget of its own"
            )
