"""Whether the client or the servers set the pace."""

from __future__ import annotations

import asyncio
import time

import pytest

from ng_rollouts.run.client_load import ClientLoad, measure_client_load


async def watched(*, working: bool) -> ClientLoad:
    async with measure_client_load() as load:
        for _ in range(5):
            until = time.thread_time() + 0.03
            while working and time.thread_time() < until:
                pass
            await asyncio.sleep(0.0 if working else 0.03)
    return load


def test_a_busy_client_is_told_from_an_idle_one() -> None:
    """By its own processor time, so that a slow machine changes nothing."""
    busy, idle = asyncio.run(watched(working=True)), asyncio.run(watched(working=False))
    assert busy.busy > idle.busy


@pytest.mark.parametrize(("seconds", "busy", "told"), [(60.0, 0.97, True), (60.0, 0.5, False), (1.0, 0.97, False)])
def test_what_to_do_is_told_where_something_can_be_done(seconds: float, busy: float, *, told: bool) -> None:
    """Of long runs that the client bounds."""
    load = ClientLoad(seconds=seconds, busy=busy)
    assert ("split the run" in load.describe()) == told
    assert f"client busy {busy:.0%}" in load.describe()
