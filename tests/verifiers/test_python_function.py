"""Verifiers that are Python functions."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.verifiers.python_function import PythonFunction, result_fields
from ng_rollouts.workers.process_pool import ProcessPool
from tests.verifiers.conftest import response_with

FUNCTIONS = """
import os, time
def hang(row, response): time.sleep(60)
def crash(row, response): os._exit(3)
def broken(row, response): return 1 / 0
def odd(row, response): return "good"
def half(row, response): return 0.5
async def full(row, response): return {"reward": row["worth"], "note": "scored"}
"""


@pytest.mark.parametrize(
    ("function", "failure_class"),
    [
        ("hang", "verifier_timeout"),
        ("crash", "verifier_crashed"),
        ("broken", "verifier_error"),
        ("odd", "verifier_error"),
    ],
)
def test_function_that_hangs_or_crashes_fails_the_attempt(
    process_pool: ProcessPool, tmp_path: Path, function: str, failure_class: str
) -> None:
    """A verifier that hangs, crashes or returns another type fails the attempt, and later answers are scored."""
    file = tmp_path / "functions.py"
    file.write_text(FUNCTIONS)

    async def verify(name: str, seconds: float = 60) -> Any:
        verifier = PythonFunction(name=f"{file}:{name}", process_pool=process_pool, seconds=seconds)
        return await verifier.verify({"worth": 2}, response_with("x"))

    with pytest.raises(AttemptFailed) as failure:
        asyncio.run(verify(function, seconds=1 if function == "hang" else 60))
    assert failure.value.failure_class == failure_class
    assert not failure.value.retryable
    assert asyncio.run(verify("half")) == {"reward": 0.5}
    assert asyncio.run(verify("full")) == {"reward": 2, "note": "scored"}


def test_integer_that_is_too_large_is_a_failed_verification() -> None:
    """It cannot be a float: the rollout fails, and the run does not."""
    with pytest.raises(AttemptFailed, match="too large") as failure:
        result_fields(10**400)
    assert failure.value.failure_class == "verifier_error"
