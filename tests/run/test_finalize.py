"""The end of a run: which rows are in the output, and the exit code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import FILES, RESUME, Ran, keys_of
from tests.servers import Served


@pytest.mark.parametrize(
    ("max_failed_rollouts", "code"),
    [("0", 1), ("100", 0), ("0.01", 1), ("0.9", 0)],
    ids=["no failure", "a count", "a fraction that is exceeded", "a fraction"],
)
def test_exit_code_is_1_if_more_rollouts_failed_than_allowed(
    command: Callable[..., Ran],
    serve: Callable[..., Served],
    tasks: Callable[..., Path],
    max_failed_rollouts: str,
    code: int,
) -> None:
    """`max_failed_rollouts` is a count or a fraction of failures up to which the exit code is 0."""
    tasks(40)
    server = serve(faults={"400": 0.3}, sticky=True)
    run = [*FILES, f"+agent_url={server.url}", f"+max_failed_rollouts={max_failed_rollouts}"]
    ran = command(*run)
    assert ran.code == code
    assert (ran.stderr.count("error: ") == 1) == (code == 1)


def test_last_line_says_how_many_rollouts_failed_and_why(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path]
) -> None:
    """With exit code 1, the last line has the count, the limit, the first failure and where the others are.

    The line before it is the command that retries them. A resume that retries nothing knows no first failure.
    """
    tasks(40)
    run = [*FILES, f"+agent_url={serve(faults={'400': 0.3}, sticky=True).url}"]
    resume, error = command(*run).stderr.splitlines()[-2:]
    assert resume.startswith("to resume: ")
    assert re.fullmatch(
        r"error: \d+ rollouts failed, max_failed_rollouts=0 allows 0; first: http_400: .*; "
        r"r_failures.jsonl lists all, \+resume_from_cache=true retries them",
        error,
    )
    again = command(*run, RESUME, "+retry_failed=false", "+max_failed_rollouts=0.1").stderr.splitlines()[-1]
    assert "max_failed_rollouts=0.1 allows 4; r_failures.jsonl lists all" in again


def test_incomplete_groups_can_be_kept_in_the_output(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """With `incomplete_groups=keep`, the output has every collected row, in order, and there is no incomplete file."""
    tasks(40)
    server = serve(faults={"400": 0.2}, sticky=True)
    run = [*FILES, f"+agent_url={server.url}", "+num_repeats=2", "+incomplete_groups=keep"]
    assert command(*run).code == 1
    collected, failed = keys_of(tmp_path / "r.jsonl"), keys_of(tmp_path / "r_failures.jsonl")
    assert collected == [
        key for key in ((task, index) for task in range(40) for index in range(2)) if key not in failed
    ]
    assert not (tmp_path / "r_incomplete.jsonl").exists()
