"""The last lines of a run: what was collected, what failed, what is owed, what finishes the job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.outputs.failures import FailuresFile
from ng_rollouts.outputs.journal import Finished
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.redaction import display_command
from ng_rollouts.scheduling.counters import RunCounters

_NOT_FOR_A_RESUME = ("resume_from_cache=", "overwrite=", "retry_failed=", "canary=")


def summary(
    counters: RunCounters, failures: FailuresFile, paths: OutputPaths, finished: Finished | None, command: Sequence[str]
) -> Iterator[str]:
    """The lines, in order.

    Args:
        finished: what finishing left; None if the run ended before.
        command: what was typed, to be shown as the command that goes on.
    """
    told = f"collected {counters.collected} of {counters.planned} planned rollouts"
    if counters.failed:
        classes = ", ".join(f"{name}: {count}" for name, count in failures.by_class.most_common())
        told += f", failed {counters.failed} ({classes})"
    if finished and finished.set_aside:
        told += f", set aside {finished.set_aside}"
    remaining = counters.planned - counters.settled
    if remaining:
        told += f", not done {remaining}"
    yield told
    if counters.failed and failures.path.exists():
        yield f"what failed is in {failures.path}"
    if finished and finished.set_aside:
        yield f"rollouts whose group is not complete are in {paths.incomplete}"
    if not finished:
        yield f"what was collected is in {paths.output}, in the order it completed"
    if command:
        yield f"to go on: {resume_command(command)}"


def server_lines(load_balancers: Sequence[LoadBalancer]) -> Iterator[str]:
    """A line for each server of a pool that has several: how much it was asked, and how long it took."""
    for address in (
        address
        for load_balancer in load_balancers
        if len(load_balancer.endpoints) > 1
        for address in load_balancer.endpoints
    ):
        answered = address.requests_sent - address.failed - address.in_flight
        line = f"{address.shown}: {answered} answered"
        if address.failed:
            line += f", {address.failed} failed"
        if answered > 0:
            line += f", {address.mean_seconds:.2f} s on average"
        yield line


def resume_command(command: Sequence[str]) -> str:
    """The command that goes on where this one ended."""
    kept = [word for word in command if not word.lstrip("+").startswith(_NOT_FOR_A_RESUME)]
    return display_command([*kept, "+resume_from_cache=true"])
