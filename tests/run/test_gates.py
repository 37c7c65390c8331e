"""Quality gates decide the exit code of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran


@pytest.mark.parametrize(
    ("gate", "code"),
    [("+min_mean.reward=0.99", 5), ("+min_mean.reward=0.0", 0), ("+min_mean.nope=0", 5), ("+min_coverage=1.0", 0)],
)
def test_missed_gate_ends_with_exit_code_5(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path, gate: str, code: int
) -> None:
    """A mean or a coverage below its minimum ends with exit code 5 and its name; the averages are printed anyway."""
    tasks(10)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    ran = command("+agent_name=example_math_agent", *files, gate)
    assert ran.code == code
    assert ran.averages["reward"] is not None
    assert json.loads((tmp_path / "r_summary.json").read_text())["exit_code"] == code
    assert (gate.partition("=")[0].lstrip("+") in ran.stderr) == (code == 5)
    if "nope" in gate:
        assert (
            "no measured rollout has the score 'nope': available scores: reward, accuracy"
            in ran.stderr.splitlines()[-1]
        )
