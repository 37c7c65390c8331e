"""Where the requests of an attempt go, so that a second attempt at the same rollout goes elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ng_rollouts.types import Rollout, RolloutKey

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttemptEndpoints:
    """The endpoints of an attempt.

    Attributes:
        avoided: those that it uses only if a load balancer has no others.
        visited: those that its requests were sent to.
    """

    avoided: frozenset[Any] = frozenset()
    visited: set[Any] = field(default_factory=set)


ATTEMPT_ENDPOINTS: ContextVar[AttemptEndpoints | None] = ContextVar("attempt_endpoints", default=None)
"""The endpoints of the attempt that sends; None if they are not kept."""


def avoiding_first(call: Callable[[Rollout, int], Awaitable[T]]) -> Callable[[Rollout, int], Awaitable[T]]:
    """Attempts of which a second one at a rollout goes to other endpoints than the one in flight, if there are others.

    Each attempt has to run in its own asyncio task.
    """
    firsts: dict[RolloutKey, AttemptEndpoints] = {}  # of the first attempts in flight

    async def attempt(rollout: Rollout, number: int) -> T:
        first = firsts.get(rollout.key)
        own = AttemptEndpoints(avoided=frozenset(first.visited) if first else frozenset())
        ATTEMPT_ENDPOINTS.set(own)
        if first:
            return await call(rollout, number)
        firsts[rollout.key] = own
        try:
            return await call(rollout, number)
        finally:
            del firsts[rollout.key]

    return attempt
