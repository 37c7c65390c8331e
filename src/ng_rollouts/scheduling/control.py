"""Changes a schedule while it runs: pause, resume, another limit, another number of attempts, cancelled tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ng_rollouts.scheduling.hedging import Hedging
from ng_rollouts.types import Rollout, RolloutKey


def _nothing_runs() -> None:
    """Do nothing: no scheduler has to be woken up."""


def _none_in_flight() -> Iterable[Rollout]:
    """The rollouts in flight before a scheduler runs."""
    return ()


def _always() -> bool:
    """Allow all rollouts."""
    return True


def _nothing_to_cancel(_: int) -> int:
    """The number of cancelled attempts before a scheduler runs."""
    return 0


def _single(_: RolloutKey) -> int:
    """The number of attempts at a rollout in flight without hedging."""
    return 1


@dataclass(slots=True)
class ScheduleControl:
    """The settings of a schedule that may change while it runs, and its hedging. All its users run in one event loop.

    Attributes:
        hedging: when a rollout gets a second attempt; None for never.
        resumed: set unless nothing may start.
        cancelled: indices of tasks whose rollouts are not attempted.
        may_start: whether another attempt may start. Once it says no, rollouts that wait are left without an outcome.
        max_attempts: replaces that of the retry policy; None to keep it.
        wake: set by the scheduler; makes it look at the limit and at the rollouts again.
        cancel_in_flight: set by the scheduler; ends the attempts of a task, and returns their number.
        in_flight: set by the scheduler; the rollouts that are being attempted.
        attempts_of: set by the scheduler; how many attempts at a rollout are in flight.
    """

    hedging: Hedging | None = None
    may_start: Callable[[], bool] = _always
    resumed: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: set[int] = field(default_factory=set)
    max_attempts: int | None = None
    wake: Callable[[], None] = _nothing_runs
    cancel_in_flight: Callable[[int], int] = _nothing_to_cancel
    in_flight: Callable[[], Iterable[Rollout]] = _none_in_flight
    attempts_of: Callable[[RolloutKey], int] = _single

    def __post_init__(self) -> None:
        self.resumed.set()

    @property
    def is_paused(self) -> bool:
        """Whether nothing may start."""
        return not self.resumed.is_set()

    def pause(self) -> None:
        """Start nothing; attempts in flight finish."""
        self.resumed.clear()

    def resume(self) -> None:
        """Start rollouts again."""
        self.resumed.set()

    def cancel(self, task_index: int) -> int:
        """Attempt no rollout of a task any more; those without an outcome fail. Returns the attempts that were ended.

        A rollout that has not started fails when its turn comes.
        """
        self.cancelled.add(task_index)
        return self.cancel_in_flight(task_index)
