"""The limits of one rollout, checked before each of its turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

from ng_rollouts.config.parameters import Prices
from ng_rollouts.models.request import token_counts
from ng_rollouts.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """The output tokens that the next turn may have.

    Attributes:
        tokens: their number. Below 1, the next turn does not begin.
        limit: the parameter that limits them.
    """

    tokens: float = inf
    limit: str = ""

    def lower(self, turn: Json) -> Json:
        """The request of a turn, whose `max_output_tokens` is lowered. One without it is left as it is.

        A server refuses a value that does not fit into its context, so none is added.
        """
        return {**turn, "max_output_tokens": max(1, int(self.tokens))} if self.lowers(turn) else turn

    def lowers(self, turn: Json) -> bool:
        """True for a turn whose own `max_output_tokens` is larger."""
        own = turn.get("max_output_tokens")
        return isinstance(own, int) and own > self.tokens

    def name_limit(self, turn: Json, response: Json) -> Json:
        """The response to a turn, with this limit as the reason if it was cut off because the turn was lowered."""
        details = response.get("incomplete_details")
        is_cut = isinstance(details, dict) and details.get("reason") == "max_output_tokens"
        return {**response, "incomplete_details": {"reason": self.limit}} if is_cut and self.lowers(turn) else response


_UNLIMITED = Allowance()


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutLimits:
    """The tokens and the cost that all requests of a rollout may use together.

    Attributes:
        max_tokens: input and output tokens, as the usage in replies reports them; None for no limit.
        max_cost: their cost; None for no limit.
        prices: for the cost.
    """

    max_tokens: int | None = None
    max_cost: float | None = None
    prices: Prices = field(default_factory=Prices)

    def allowance(self, usage: Json, last_usage: Any) -> Allowance:
        """The output tokens that the next turn may have.

        Args:
            usage: the usage of all turns so far.
            last_usage: that of the last turn. The prompt of the next one has at least the tokens of both its parts.
        """
        if self.max_tokens is None and self.max_cost is None:
            return _UNLIMITED
        read, written = token_counts(usage)
        read += sum(token_counts(last_usage))
        allowances = []
        if self.max_tokens is not None:
            allowances.append(Allowance(tokens=self.max_tokens - read - written, limit="max_rollout_tokens"))
        if self.max_cost is not None:
            left, price = self.max_cost - self.prices.cost(read, written), self.prices.cost(0, 1)
            tokens = left / price if price else (inf if left > 0 else 0)
            allowances.append(Allowance(tokens=tokens, limit="max_rollout_cost"))
        return min(allowances, key=lambda each: each.tokens)
