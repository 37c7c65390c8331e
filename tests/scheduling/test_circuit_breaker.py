"""The circuit breaker ends a run when its failures show that continuing is pointless."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ng_rollouts.errors import StoppedEarly
from ng_rollouts.scheduling.circuit_breaker import CircuitBreaker
from tests.conftest import FILES, RESUME, Ran, assert_complete, keys_of
from tests.servers import Served

Command = Callable[..., Ran]
Serve = Callable[..., Served]
Tasks = Callable[..., Path]


def test_breaker_opens_after_20_failures_of_one_class_without_a_success() -> None:
    """If no rollout has succeeded, 20 consecutive failures of the same class end the run."""
    breaker = CircuitBreaker("a", 1000)
    for _ in range(19):
        breaker.record_failure("http_500", "")
    with pytest.raises(StoppedEarly, match="the first 20 rollouts of agent 'a' failed in the same way"):
        breaker.record_failure("http_500", "")


def test_breaker_ignores_failures_of_alternating_classes() -> None:
    """Failures that differ in class are not consecutive failures of the same class, so they never end a run."""
    breaker = CircuitBreaker("a", 1000)
    for number in range(200):
        breaker.record_failure(f"http_50{number % 2}", "")


def test_breaker_opens_after_a_success_only_when_the_server_is_unreachable() -> None:
    """After a success, failures of tasks never end the run, but ten consecutive failures to connect do."""
    breaker = CircuitBreaker("a", 1000)
    breaker.record_success()
    for _ in range(100):
        breaker.record_failure("http_400", "")
    for _ in range(9):
        breaker.record_failure("connection_refused", "")
    with pytest.raises(StoppedEarly, match="the last 10 rollouts"):
        breaker.record_failure("connection_refused", "")


def test_breaker_opens_at_the_first_reply_without_required_ids() -> None:
    """One reply shows that the server has no token ids; after a success, it is a failure of its rollout only."""
    with pytest.raises(StoppedEarly, match="the rollout of agent 'a' failed"):
        CircuitBreaker("a", 1000).record_failure("no_token_ids", "")
    breaker = CircuitBreaker("a", 1000)
    breaker.record_success()
    for _ in range(100):
        breaker.record_failure("no_token_ids", "")


def test_breaker_opens_at_the_only_rollout_of_a_run() -> None:
    """A run with a single rollout ends at its first failure that does not depend on the task."""
    with pytest.raises(StoppedEarly, match="the rollout of agent"):
        CircuitBreaker("a", 1).record_failure("http_401", "no")


@pytest.mark.parametrize(("status", "what"), [("401", "credentials"), ("403", "credentials"), ("404", "address")])
def test_rejected_credentials_and_unknown_agents_stop_the_run(
    command: Command, serve: Serve, tasks: Tasks, status: str, what: str
) -> None:
    """A server that rejects the credentials or has no such agent ends the run after a few requests.

    The exit code is 3, and the last line has the server's address and reply, and what to check.
    """
    tasks(1000)
    server = serve(faults={status: 1.0})
    ran = command(*FILES, f"+agent_url={server.url}", "+num_samples_in_parallel=10")
    assert ran.code == 3
    last = ran.stderr.splitlines()[-1]
    assert f"of agent 'a' ({server.url}/run) failed in the same way" in last
    assert f"http_{status}: " in last
    assert "made up by the test server" in last
    assert f": check the {what}, " in last
    assert server.stats()["total"] < 50


def test_dead_server_stops_the_run_and_a_resume_on_another_server_completes_it(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """When a server dies for good, the run stops with exit code 3, and a resume with another server completes it."""
    tasks(400)
    run = [*FILES, "+num_samples_in_parallel=8", "+max_attempts=2"]
    ran = command(*run, f"+agent_url={serve(process=True, die_after=120).url}")
    assert ran.code == 3
    assert "failed in the same way, so continuing is pointless: connection_refused" in ran.stderr
    assert ran.stderr.endswith(": check that the server runs at this address\n")
    assert len(keys_of(tmp_path / "r.jsonl")) >= 110
    assert command(*run, f"+agent_url={serve().url}", RESUME).code == 0
    assert_complete(tmp_path, 400)
