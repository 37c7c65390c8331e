"""Warnings about sampling parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Ran


def test_questionable_sampling_parameters_are_warnings(command: Callable[..., Ran], tasks: Callable[..., Path]) -> None:
    """Repeats at temperature 0 or with a fixed seed, and an unknown sampling parameter, are one warning each."""
    tasks(1)
    ran = command(
        "+agent_name=example_math_agent",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=r.jsonl",
        "+num_repeats=2",
        "+responses_create_params.temperature=0",
        "+responses_create_params.seed=1",
        "+responses_create_params.temprature=1",
    )
    warnings = [line for line in ran.stderr.splitlines() if line.startswith("warning: ")]
    assert ["temperature 0" in warnings[0], "did you mean temperature?" in warnings[1]] == [True] * 2
    assert (ran.code, len(warnings)) == (0, 2)
