"""Agents that are Python functions: what is checked before the first request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import FILES, Ran


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("async def run(row): return {}", "must take two arguments, (row, client)"),
        ("async def run(row, client, more): return {}", "must take two arguments, (row, client)"),
        ("def run(row, client): return {}", "must be an async function"),
    ],
)
def test_functions_with_other_arguments_are_usage_errors(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path, code: str, message: str
) -> None:
    """A function that cannot be called as an agent is one line before the first rollout, and no file is written."""
    tasks(1)
    (tmp_path / "mine.py").write_text(code)
    ran = command(*FILES, "+agents.a._target_=mine.py:run")
    assert (ran.code, ran.stderr.count("error: "), message in ran.stderr) == (2, 1, True), ran.stderr
    assert not (tmp_path / "r.jsonl").exists()
