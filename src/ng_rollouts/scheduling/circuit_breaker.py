"""Ends a run after repeated failures that the remaining rollouts would repeat."""

from __future__ import annotations

from ng_rollouts.errors import UNREACHABLE, FailureClass, StoppedEarly

_FATAL = UNREACHABLE | {FailureClass.CERTIFICATE, "http_401", "http_403", "http_404"}
"""Classes that no other task is likely to escape: nobody there or to be trusted, credentials refused, no such agent."""


_FATAL_AT_FIRST = 3


_FATAL_LATER = 10


_ALIKE_AT_FIRST = 20


class CircuitBreaker:
    """Ends a run that is going nowhere, by the failures of one agent.

    Before the first success: `_FATAL` failures of a few rollouts, or any class shared by the first twenty. After
    it: `_FATAL` failures of ten rollouts in a row.

    Args:
        agent: its name.
        rollouts: how many are planned.
    """

    def __init__(self, agent: str, rollouts: int) -> None:
        self._agent = agent
        self._rollouts = rollouts
        self._succeeded = False
        self._in_a_row = 0
        self._kind = ""

    def record_success(self) -> None:
        """A rollout was answered."""
        self._succeeded = True
        self._in_a_row = 0

    def record_failure(self, failure_class: str, message: str) -> None:
        """A rollout failed for good.

        Raises:
            StoppedEarly: there is no point in going on.
        """
        kind = "pointless" if failure_class in _FATAL else failure_class
        self._in_a_row = self._in_a_row + 1 if kind == self._kind else 1
        self._kind = kind
        if self._in_a_row >= self._most():
            what = "the last" if self._succeeded else "the first"
            count = f"{what} {self._in_a_row} rollouts" if self._in_a_row > 1 else "the rollout"
            raise StoppedEarly(
                f"{count} of agent {self._agent!r} failed alike, so going on is pointless: {failure_class}: {message}"
            )

    def _most(self) -> float:
        if self._kind == "pointless":
            return _FATAL_LATER if self._succeeded else min(_FATAL_AT_FIRST, self._rollouts)
        return float("inf") if self._succeeded else _ALIKE_AT_FIRST
