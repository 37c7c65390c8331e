"""How fast requests may go out: evenly, by requests and by tokens a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

_CHARACTERS_A_TOKEN = 4
_TOKENS_UNKNOWN = 512
"""Guesses for the first requests; later ones go by what earlier ones took."""


@dataclass(slots=True)
class Ticket:
    """A request that was let through, and the tokens it was taken to cost."""

    tokens: float


class Pace:
    """Lets requests through one interval after another, never in bursts.

    Each request moves the time of the next by its share of a minute; when its reply tells what it really took, the
    difference moves it again. Idle time is not saved up.

    Args:
        requests_per_minute, tokens_per_minute: bounds; None for none.
        clock: seconds, as `time.monotonic` has them.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token_s = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._next_at = 0.0
        self._usual: float | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether there is anything to wait for."""
        return bool(self._request_s or self._token_s)

    async def wait(self, characters: int, output_tokens: int | None = None) -> Ticket:
        """Wait for the turn of a request of so many characters."""
        ticket, seconds = self.take(characters, output_tokens)
        if seconds > 0:
            await asyncio.sleep(seconds)
        return ticket

    def take(self, characters: int, output_tokens: int | None = None) -> tuple[Ticket, float]:
        """A turn, and in how many seconds it comes."""
        if not self.is_bounded:
            return Ticket(0.0), 0.0
        now = self._clock()
        guess = characters / _CHARACTERS_A_TOKEN + (output_tokens or _TOKENS_UNKNOWN)
        ticket = Ticket(guess if self._usual is None else self._usual)
        turn = max(now, self._next_at)
        self._next_at = turn + max(self._request_s, ticket.tokens * self._token_s)
        return ticket, turn - now

    def settle(self, ticket: Ticket, tokens: int) -> None:
        """Tell what a request really took; 0 if that is unknown."""
        if not self._token_s or not tokens:
            return
        self._usual = tokens if self._usual is None else 0.9 * self._usual + 0.1 * tokens
        before = max(self._request_s, ticket.tokens * self._token_s)
        self._next_at += max(self._request_s, tokens * self._token_s) - before
