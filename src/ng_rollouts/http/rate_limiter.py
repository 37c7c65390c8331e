"""How fast requests may go out: evenly, by requests and by tokens a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

_CHARACTERS_A_TOKEN = 4
_TOKENS_UNKNOWN = 512
"""Guesses for the first requests; later ones go by what earlier ones took."""

_SENT_BEFORE_KNOWN = 4
"""Until a reply has told what requests take, so many are out at most."""

_LOOK_AGAIN_S = 0.25
"""Replies that come while a turn is waited for may move it."""


@dataclass(slots=True)
class Reservation:
    """A request that was let through, and by how many seconds it moved the next one."""

    cost_s: float


_FREE = Reservation(0.0)


class RateLimiter:
    """Lets requests through one after another, never in bursts.

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
        self._unsettled = 0
        self._queue = asyncio.Lock()

    @property
    def is_unbounded(self) -> bool:
        """Whether there is nothing to wait for."""
        return not self._request_s and not self._token_s

    async def acquire(self, characters: int, output_tokens: int | None = None) -> Reservation:
        """Wait for the turn of a request of so many characters; turns come in the order they are asked for."""
        if self.is_unbounded:
            return _FREE
        async with self._queue:
            while self._token_s and self._usual is None and self._unsettled >= _SENT_BEFORE_KNOWN:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_AGAIN_S)
            while (seconds := self.seconds_to_turn()) > 0:  # noqa: ASYNC110 - what is waited for is time
                await asyncio.sleep(min(seconds, _LOOK_AGAIN_S))
            return self.reserve(characters, output_tokens)

    def seconds_to_turn(self) -> float:
        """Seconds until the next request may go."""
        return self._next_at - self._clock()

    def reserve(self, characters: int, output_tokens: int | None = None) -> Reservation:
        """The turn that has come."""
        guess = characters / _CHARACTERS_A_TOKEN + (output_tokens or _TOKENS_UNKNOWN)
        self._unsettled += 1
        reservation = Reservation(self._cost_s(guess if self._usual is None else self._usual))
        self._next_at = max(self._clock(), self._next_at) + reservation.cost_s
        return reservation

    def settle(self, reservation: Reservation, tokens: int) -> None:
        """Tell what an answered request really took; 0 if that is unknown."""
        if reservation is _FREE:
            return
        self._unsettled -= 1
        if self._token_s and not tokens and self._usual is None:
            self._usual = _TOKENS_UNKNOWN
        if self._token_s and tokens:
            self._usual = tokens if self._usual is None else 0.9 * self._usual + 0.1 * tokens
            self._next_at += self._cost_s(tokens) - reservation.cost_s

    def cancel(self, reservation: Reservation) -> None:
        """Tell that a request was not sent, or not answered: it took no tokens."""
        if reservation is _FREE:
            return
        self._unsettled -= 1
        self._next_at -= reservation.cost_s - min(reservation.cost_s, self._request_s)

    def _cost_s(self, tokens: float) -> float:
        return max(self._request_s, tokens * self._token_s)
