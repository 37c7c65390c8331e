"""Failed attempts are retried after bounded waits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import MAX_RETRY_AFTER_S, AttemptFailed
from ng_rollouts.scheduling.retry import FIRST_WAIT_S, RetryPolicy
from tests.conftest import FILES, Ran, assert_complete, read_rows
from tests.servers import ProcessServer, Served


@given(
    attempts=st.integers(1, 40),
    jitter=st.floats(0, 0.999),
    retry_after=st.none() | st.floats(0, 1e6),
    max_attempts=st.integers(1, 50),
)
def test_wait_is_bounded(attempts: int, jitter: float, retry_after: float | None, max_attempts: int) -> None:
    """A wait is at least the server's `Retry-After` up to its bound, and at most both bounds together.

    There is no further attempt after `max_attempts`, nor after a failure that is not retryable.
    """
    policy = RetryPolicy(max_attempts=max_attempts, jitter=lambda: jitter)
    wait = policy.wait_s(AttemptFailed("x", "", retryable=True, retry_after_s=retry_after), attempts)
    if attempts >= max_attempts:
        assert wait is None
    else:
        assert wait is not None
        assert min(retry_after or 0, MAX_RETRY_AFTER_S) + FIRST_WAIT_S / 2 <= wait <= MAX_RETRY_AFTER_S + 30
    assert policy.wait_s(AttemptFailed("x", ""), 1) is None


@given(jitter=st.floats(0, 0.999), status=st.sampled_from([429, 503]), max_attempts=st.integers(2, 5))
def test_overload_is_waited_for_as_long_as_the_budget_allows(jitter: float, status: int, max_attempts: int) -> None:
    """An overloaded server that refuses for a minute gives up no rollout with the default settings.

    The retries end with the budget, and there are none with `max_attempts=1`.
    """
    refused = AttemptFailed("x", "", status=status, retryable=True)
    policy = RetryPolicy(max_attempts=max_attempts, budget_s=100.0, jitter=lambda: jitter)
    spent_s, attempts = 0.0, 0
    while (wait := policy.wait_s(refused, attempts := attempts + 1, spent_s)) is not None:
        spent_s += wait
    assert 60 < spent_s <= 100
    assert RetryPolicy(max_attempts=1).wait_s(refused, 1) is None


def test_retries_outlast_the_restart_of_a_server(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Attempts that fail because a server restarts are retried, and the run completes without a failure."""
    tasks(400)
    server = cast("ProcessServer", serve(process=True, die_after=120))

    def restart() -> None:
        assert server.process.wait(timeout=300) == 0
        serve(port=server.port)

    with ThreadPoolExecutor(1) as threads:
        restarted = threads.submit(restart)
        ran = command(*FILES, f"+agent_url={server.url}", "+num_samples_in_parallel=8", "+max_attempts=6")
    restarted.result()
    assert ran.code == 0, ran.stderr
    assert_complete(tmp_path, 400)


def test_temporary_failures_are_retried_until_every_rollout_is_collected(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Connection errors, 429 and 500 are retried, and the run ends with all rollouts and exit code 0."""
    tasks(30)
    server = serve(faults={"500": 0.1, "reset": 0.1, "retry_after_0": 0.1})
    ran = command(
        f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+max_attempts=10"
    )
    assert ran.code == 0, ran.stderr
    assert len(read_rows(tmp_path / "r.jsonl")) == 30
    assert server.stats()["total"] > 30


@pytest.mark.parametrize("adaptive", ["true", "false"])
def test_overload_does_not_count_as_an_attempt(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], adaptive: str
) -> None:
    """Rollouts are retried until an overloaded server accepts them, and none is lost."""
    server = serve_model(admits=2, latency=0.02)
    ran = collect_sums(
        server.url,
        "+verifier=exact_match",
        f"+adaptive_parallelism={adaptive}",
        "+num_samples_in_parallel=50",
        "+num_repeats=20",
    )
    assert ran.code == 0, ran.stderr
    assert ("parallel=" in ran.stderr) == (adaptive == "true")
    assert ran.averages["reward"] == 1.0
