"""How much of the time of its slots a collector leaves unused, as the agent sees it."""

from __future__ import annotations

from collections.abc import Sequence


def idle_share(arrived: Sequence[float], answered: Sequence[float], parallel: int) -> float:
    """The share of the slots' time in which they had no request at the agent although work was left.

    Measured from the moment when `parallel` requests were first in flight until the last request arrived.

    Args:
        arrived, answered: the times of requests and replies, in seconds, in ascending order.

    Raises:
        ValueError: so many were never in flight before the last request arrived.
    """
    end = arrived[-1]
    changes = sorted([*((time, 1) for time in arrived), *((time, -1) for time in answered if time < end)])
    in_flight, idle, before = 0, 0.0, None
    for time, change in changes:
        if before is not None:
            idle += (parallel - in_flight) * (time - before)
        in_flight += change
        if before is None and in_flight == parallel:
            began = before = time
        elif before is not None:
            before = time
    if before is None or began == end:
        raise ValueError(f"{parallel} requests were never in flight")
    return idle / (parallel * (end - began))
