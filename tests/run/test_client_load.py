"""The load of the client: is the client or are the servers the bottleneck?"""

from __future__ import annotations

import asyncio
import time

import pytest

from ng_rollouts.run.client_load import ClientLoad, measure_client_load


async def measured(*, working: bool) -> ClientLoad:
    """The load of a client that computes or waits, five times 30 ms."""
    async with measure_client_load() as load:
        for _ in range(5):
            until = time.thread_time() + 0.03
            while working and time.thread_time() < until:
                pass
            await asyncio.sleep(0.0 if working else 0.03)
    return load


def test_busy_client_has_a_higher_load_than_an_idle_one() -> None:
    """The load is measured in CPU time of the client, so it does not depend on the speed of the machine."""
    busy, idle = asyncio.run(measured(working=True)), asyncio.run(measured(working=False))
    assert busy.busy > idle.busy


@pytest.mark.parametrize(
    ("seconds", "busy", "is_advised"),
    [(60.0, 0.97, True), (60.0, 0.5, False), (1.0, 0.97, False)],
    ids=["busy", "idle", "too short to judge"],
)
def test_advice_is_given_if_the_client_is_the_bottleneck(seconds: float, busy: float, *, is_advised: bool) -> None:
    """The advice to split a run is given only for a long run with a busy client."""
    load = ClientLoad(seconds=seconds, busy=busy)
    assert ("split the run" in load.describe()) == is_advised
    assert f"client busy {busy:.0%}" in load.describe()
