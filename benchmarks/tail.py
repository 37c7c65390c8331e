"""Simulates the end of a run in virtual time: what `dispatch=longest_first` and `hedge_after` are worth.

The scheduler and the load balancer are those of the program. A server takes a rollout's duration, times its slowness.
`python benchmarks/tail.py` prints the table of `README.md`.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import exp

from virtual_time import run_virtually

from ng_rollouts.http.attempt_endpoints import avoiding_first
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.scheduling.concurrency import FixedLimit
from ng_rollouts.scheduling.control import ScheduleControl
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.hedging import Hedging
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.scheduling.scheduler import schedule
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Failure, Result, Rollout, RolloutKey, RolloutStats

ROLLOUTS, SLOTS, SERVERS = 1000, 64, 8

_MEDIAN_S = 10.0
_LAST_SHARE = 0.05


@dataclass(kw_only=True)
class Simulation:
    """A run over a pool of servers.

    Attributes:
        durations: of each rollout, in seconds, on a server of slowness 1.
        order: the rollouts in the order in which they are sent.
        slowness: factors on durations, by server.
        slow_from_s: when these begin to hold; before that, all servers have slowness 1.
        ended: when each rollout had its result, in order.
    """

    durations: Sequence[float]
    order: Sequence[int]
    slowness: Sequence[float] = (1.0,) * SERVERS
    slow_from_s: float = 0.0
    hedging: Hedging | None = None
    slots: int = SLOTS
    counters: RunCounters = field(default_factory=lambda: RunCounters(planned=ROLLOUTS))
    ended: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    attempt_seconds: float = 0.0
    most_in_flight: int = 0
    _in_flight: int = 0

    def run(self) -> Simulation:
        """Run to the end."""
        self._balancer = LoadBalancer([str(server) for server in range(len(self.slowness))])
        run_virtually(
            schedule(
                self._rollouts(),
                avoiding_first(self._attempt),
                self,
                limit=FixedLimit(self.slots),
                policy=RetryPolicy(),
                counters=self.counters,
                stop=Stop(0),
                control=ScheduleControl(hedging=self.hedging),
            )
        )
        return self

    @property
    def tail_s(self) -> float:
        """Seconds that the last 5 % of the results took."""
        return self.ended[-1] - self.ended[round(len(self.ended) * (1 - _LAST_SHARE)) - 1]

    def record(self, rollout: Rollout, _: Result) -> None:
        """Keep when a rollout had its result."""
        self.ended.append(asyncio.get_running_loop().time())
        self.rows.append(rollout.position)

    def give_up(self, failure: Failure) -> None:
        """Fail: no attempt of the simulation fails."""
        raise AssertionError(failure)

    def _rollouts(self) -> Iterator[Rollout]:
        for position in self.order:
            yield Rollout(position=position, key=RolloutKey(position, 0), agent="a", prompt_id="", row={})

    async def _attempt(self, rollout: Rollout, _: int) -> Result:
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        began = asyncio.get_running_loop().time()
        try:
            await self._balancer.send(rollout.position, lambda url: self._serve(int(url), rollout.position))
        finally:
            self._in_flight -= 1
            self.attempt_seconds += asyncio.get_running_loop().time() - began
        return Result(line=b"{}", stats=RolloutStats(scores={}))

    async def _serve(self, server: int, position: int) -> None:
        """Work through a rollout, at the speed that the server has at the time."""
        left, loop = self.durations[position], asyncio.get_running_loop()
        if (fast_s := min(left, self.slow_from_s - loop.time())) > 0:
            await asyncio.sleep(fast_s)
            left -= fast_s
        await asyncio.sleep(left * self.slowness[server])


def lognormal(seed: int, sigma: float) -> list[float]:
    """Durations whose logarithm is normal."""
    draw = random.Random(seed)
    return [_MEDIAN_S * exp(draw.gauss(0, sigma)) for _ in range(ROLLOUTS)]


def longest_first(durations: Sequence[float], seed: int, error: float) -> list[int]:
    """The rollouts by an estimate of their durations, which is off by a factor whose logarithm is normal."""
    draw = random.Random(seed)
    estimates = [duration * exp(draw.gauss(0, error)) for duration in durations]
    return sorted(range(len(durations)), key=lambda position: -estimates[position])


def hedging(threshold: str | float) -> Hedging:
    """Second attempts after a percentile such as `p99`, or after seconds."""
    if isinstance(threshold, str):
        return Hedging(allows=lambda _: True, quantile=float(threshold[1:]) / 100)
    return Hedging(allows=lambda _: True, seconds=threshold)


def order_cases(seed: int) -> dict[str, Simulation]:
    """The same run in the order of the input, and longest first by estimates of different quality."""
    durations = lognormal(seed, 1.0)
    cases = {"in order": Simulation(durations=durations, order=range(ROLLOUTS)).run()}
    for error in (0.0, 0.5, 1.0):
        name = "longest first, exact" if not error else f"longest first, off by a factor of {exp(error):.1f}"
        cases[name] = Simulation(durations=durations, order=longest_first(durations, seed, error)).run()
    return cases


def hedge_cases(seed: int, slowness: float = 10.0) -> dict[str, Simulation]:
    """A run in which one of the servers becomes slow midway, without and with second attempts."""
    durations = lognormal(seed, 0.5)
    cases = {}
    for threshold in (None, "p99", "p95", "p90", 30.0):
        cases[f"hedge_after={threshold or 'null'}"] = Simulation(
            durations=durations,
            order=range(ROLLOUTS),
            slowness=(slowness, *(1.0,) * (SERVERS - 1)),
            slow_from_s=90,
            hedging=None if threshold is None else hedging(threshold),
        ).run()
    return cases


def main() -> None:
    """Print a table of medians over seeds."""
    for cases in (order_cases, hedge_cases):
        runs = [cases(seed) for seed in range(20)]
        sys.stdout.write("| | last 5 % of the results | change | whole run | second attempts (first) | extra work |\n")
        sys.stdout.write("|---|---|---|---|---|---|\n")
        base = next(iter(runs[0]))
        for name in runs[0]:
            of = [run[name] for run in runs]
            change = statistics.median(run[name].tail_s / run[base].tail_s - 1 for run in runs)
            hedged = statistics.mean(each.counters.hedged for each in of)
            won = statistics.mean(each.counters.hedged_won for each in of)
            extra = statistics.median(run[name].attempt_seconds / run[base].attempt_seconds - 1 for run in runs)
            cells = [
                name,
                f"{statistics.median(each.tail_s for each in of):.0f} s",
                f"{change:+.0%}",
                f"{statistics.median(each.ended[-1] for each in of):.0f} s",
                f"{hedged:.0f} ({won:.0f})",
                f"{extra:+.1%}",
            ]
            sys.stdout.write(f"| {' | '.join(cells)} |\n")
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
