"""The last rollouts: longest first and second attempts shorten them, and change no result. In virtual time."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from importlib import import_module
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.scheduling.concurrency import FixedLimit
from ng_rollouts.scheduling.control import ScheduleControl
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.hedging import Hedger, Hedging
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.scheduling.scheduler import schedule
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Failure, Result, Rollout, RolloutKey, RolloutStats
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def tail() -> Iterator[Any]:
    """The module of `benchmarks` that simulates runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield import_module("tail")
        for name in ("tail", "virtual_time"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_longest_first_shortens_the_tail(tail: Any, seed: int) -> None:
    """With estimates that are off by a factor of 2.7, the last 5 % of the results take at most 70 % of the time."""
    in_order, *longest_first = tail.order_cases(seed).values()
    for each in longest_first:
        assert each.tail_s <= 0.7 * in_order.tail_s
        assert each.ended[-1] <= in_order.ended[-1]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_second_attempts_shorten_the_tail_behind_a_slow_server(tail: Any, seed: int) -> None:
    """They go to other servers, use idle slots only, take at most 5 % more work, and give each row once."""
    plain, *hedged = tail.hedge_cases(seed).values()
    for each in hedged:
        assert each.tail_s <= 0.7 * plain.tail_s
        assert each.attempt_seconds <= 1.05 * plain.attempt_seconds
        assert 0 < each.counters.hedged_won <= each.counters.hedged <= tail.SLOTS
        assert each.most_in_flight <= tail.SLOTS
        assert sorted(each.rows) == list(range(tail.ROLLOUTS))


ALWAYS = Hedging(allows=lambda _: True, seconds=1)


class Outcomes:
    """Attempts with given durations and failures, and what came of each rollout."""

    def __init__(self, durations: list[list[float]], failing: set[tuple[int, int]], *, kept: bool = False) -> None:
        self.durations = durations
        self.failing = failing
        self.kept_numbers = {0} if kept else set()
        self.numbers: list[tuple[int, int]] = []
        self.outcomes: Counter[int] = Counter()
        self.failures: list[Failure] = []
        self.in_flight: Counter[int] = Counter()
        self.most_in_flight = self.most_of_one = 0

    async def attempt(self, rollout: Rollout, number: int) -> Result:
        """Take as long as planned; fail if planned."""
        position = rollout.position
        self.numbers.append((position, number))
        self.in_flight[position] += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight.total())
        self.most_of_one = max(self.most_of_one, self.in_flight[position])
        try:
            await asyncio.sleep(self.durations[position][number % 2])
        except asyncio.CancelledError:
            if number in self.kept_numbers:  # its scoring was ended
                raise self.failure(number) from None
            raise
        finally:
            self.in_flight[position] -= 1
        if (position, number) in self.failing:
            raise self.failure(number)
        return Result(line=b"{}", stats=RolloutStats(scores={}, tokens={"output_tokens": 5}))

    def failure(self, number: int) -> AttemptFailed:
        """The failure of an attempt, with an answer if it is one of `kept_numbers`."""
        kept = {"response": {"usage": {"output_tokens": 7}}} if number in self.kept_numbers else {}
        return AttemptFailed("made_up", f"attempt {number}", retryable=not kept, kept=kept)

    def record(self, rollout: Rollout, _: Result) -> None:
        """Count a row."""
        self.outcomes[rollout.position] += 1

    def give_up(self, failure: Failure) -> None:
        """Count a failure."""
        self.outcomes[failure.rollout.position] += 1
        self.failures.append(failure)


def collect(
    tail: Any,
    outcomes: Outcomes,
    slots: int,
    hedging: Hedging,
    later: Callable[[ScheduleControl], Coroutine[Any, Any, None]] | None = None,
) -> RunCounters:
    """Schedule the rollouts of `outcomes` in virtual time, while `later` changes the schedule; the counters."""
    counters = RunCounters(planned=len(outcomes.durations))
    control = ScheduleControl(hedging=hedging)

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            if later:
                tasks.create_task(later(control))
            await scheduled()

    def scheduled() -> Coroutine[Any, Any, None]:
        return schedule(
            (
                Rollout(position=each, key=RolloutKey(each, 0), agent="a", prompt_id="", row={})
                for each in range(counters.planned)
            ),
            outcomes.attempt,
            outcomes,
            limit=FixedLimit(slots),
            policy=RetryPolicy(max_attempts=3, jitter=lambda: 0.0),
            counters=counters,
            stop=Stop(0),
            control=control,
        )

    tail.run_virtually(run())
    return counters


@given(
    durations=st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, 8.0]), min_size=2, max_size=2), max_size=9),
    failing=st.sets(st.tuples(st.integers(0, 8), st.integers(0, 3))),
    slots=st.integers(1, 5),
    seconds=st.sampled_from([0.5, 1.0, 2.0]),
    kept=st.booleans(),
)
def test_each_rollout_has_one_outcome_with_second_attempts(
    tail: Any, durations: list[list[float]], failing: set[tuple[int, int]], slots: int, seconds: float, *, kept: bool
) -> None:
    """Whatever fails and in whichever order attempts end: one outcome each, two attempts at a time, slots as configured.

    No number of an attempt is used twice, so that servers can tell attempts apart.
    """
    outcomes = Outcomes(durations, failing, kept=kept)
    counters = collect(tail, outcomes, slots, Hedging(allows=lambda _: True, seconds=seconds))
    assert outcomes.outcomes == dict.fromkeys(range(len(durations)), 1)
    assert len(set(outcomes.numbers)) == len(outcomes.numbers)
    assert outcomes.most_in_flight <= slots
    assert outcomes.most_of_one <= 2
    assert counters.in_flight == counters.waiting == 0
    assert counters.hedged_won <= counters.hedged <= len(outcomes.numbers) / 2


def test_attempts_of_a_rollout_are_counted(tail: Any) -> None:
    """A rollout has one attempt in flight, two once it is hedged, and one after one of them has failed."""
    seen = []

    async def look(control: ScheduleControl) -> None:
        for _ in range(3):
            await asyncio.sleep(0.9)
            seen.append(control.attempts_of(RolloutKey(0, 0)))

    collect(tail, Outcomes([[2.0, 8.0]], {(0, 0)}), 2, ALWAYS, later=look)
    assert seen == [1, 2, 1]


def test_rollout_whose_attempt_has_just_failed_gets_no_second_one() -> None:
    """Not even before the scheduler has taken the failure."""

    async def fail(_: Rollout, __: int) -> Result:
        raise AttemptFailed("http_400", "wrong", status=400)

    async def run() -> float:
        async with asyncio.TaskGroup() as tasks:
            hedger = Hedger(fail, ALWAYS, RunCounters(planned=1), tasks)
            attempt = asyncio.ensure_future(hedger.attempt(Rollout(0, RolloutKey(0, 0), "a", "", {}), 0, print))
            await asyncio.sleep(0)  # it begins
            assert hedger.next_at() < inf
            await asyncio.sleep(0)  # it fails
            assert not attempt.done()
            at = hedger.next_at()
            await asyncio.wait([attempt])
            assert attempt.exception()
        return at

    assert asyncio.run(run()) == inf


def test_failure_leaves_the_rollout_to_the_other_attempt(tail: Any) -> None:
    """A failed first attempt is not retried while the second one is in flight, whose result counts."""
    outcomes = Outcomes([[5.0, 9.0]], {(0, 0)})
    counters = collect(tail, outcomes, 2, ALWAYS)
    assert outcomes.numbers == [(0, 0), (0, 1)]
    assert (outcomes.failures, counters.hedged, counters.hedged_won) == ([], 1, 1)


def test_answer_without_a_score_is_kept_if_the_second_attempt_fails(tail: Any) -> None:
    """The failure that has an answer is the last one, as the failures file needs it."""
    outcomes = Outcomes([[5.0, 9.0]], {(0, 0), (0, 1)}, kept=True)
    collect(tail, outcomes, 2, ALWAYS)
    [failure] = outcomes.failures
    assert [attempt.message for attempt in failure.attempts] == ["attempt 1", "attempt 0"]
    assert failure.attempts[-1].kept


def test_answer_that_arrives_second_is_counted_and_dropped(tail: Any) -> None:
    """Of two attempts that end at the same moment, one gives the row; the tokens of the other are counted as lost."""
    outcomes = Outcomes([[5.0, 4.0]], set())
    counters = collect(tail, outcomes, 2, ALWAYS)
    assert outcomes.outcomes == {0: 1}
    assert counters.failed_tokens.output in (0, 5)


@pytest.mark.parametrize(("planned", "hedged"), [(99, 0), (100, 1)])
def test_percentile_needs_a_duration_above_it(tail: Any, planned: int, hedged: int) -> None:
    """`p99` takes effect once 100 durations are known."""
    outcomes = Outcomes([*[[1.0, 1.0]] * planned, [50.0, 1.0]], set())
    counters = collect(tail, outcomes, 200, Hedging(allows=lambda _: True, quantile=0.99))
    assert counters.hedged == hedged


def test_rollout_that_may_not_run_twice_has_one_attempt(tail: Any) -> None:
    """Only rollouts that `allows` accepts get a second attempt."""
    outcomes = Outcomes([[50.0, 1.0], [50.0, 1.0]], set())
    collect(tail, outcomes, 9, Hedging(allows=lambda rollout: rollout.position == 1, seconds=1))
    assert sorted(outcomes.numbers) == [(0, 0), (1, 0), (1, 1)]


def test_paused_run_starts_no_second_attempt(tail: Any) -> None:
    """An overdue rollout gets its second attempt when the run goes on, also if no other event wakes the scheduler."""

    async def pause(control: ScheduleControl) -> None:
        await asyncio.sleep(0.5)
        control.pause()
        await asyncio.sleep(20)
        assert outcomes.numbers == [(0, 0)]
        control.resume()

    outcomes = Outcomes([[50.0, 1.0]], set())
    collect(tail, outcomes, 2, ALWAYS, pause)
    assert outcomes.numbers == [(0, 0), (0, 1)]
    assert outcomes.outcomes == {0: 1}


@pytest.mark.parametrize(("second_s", "kept"), [(50.0, set()), (50.0, {0}), (50.0, {1}), (2.0, {1})])
def test_cancelling_a_task_ends_both_attempts(tail: Any, second_s: float, kept: set[int]) -> None:
    """One failure is recorded, nothing is in flight any more, and an answer without a score is kept."""

    async def cancel(control: ScheduleControl) -> None:
        await asyncio.sleep(10)
        assert control.cancel(0) == 1

    outcomes = Outcomes([[60.0, second_s]], {(0, 1)})
    outcomes.kept_numbers = kept
    counters = collect(tail, outcomes, 2, ALWAYS, cancel)
    [failure] = outcomes.failures
    assert failure.attempts[-1].failure_class == "cancelled"
    assert bool(failure.attempts[-1].kept) == bool(kept)
    assert outcomes.in_flight.total() == counters.in_flight == 0
