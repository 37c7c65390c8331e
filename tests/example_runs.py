"""Runs of the example agent in this process, for fixtures that several tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_in_process

AGENT = "example_math_agent"
TASKS = ROOT / "examples" / "arithmetic.jsonl"
"""300 tasks."""


def collect_examples(output: Path, *arguments: str, tasks: Path = TASKS) -> Path:
    """Collect a rollout of each task into a file; arguments may ask for more."""
    files = [f"+input_jsonl_fpath={tasks}", f"+output_jsonl_fpath={output}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ng_collect_rollouts", f"+agent_name={AGENT}", *files, *arguments])
        assert run_in_process("ng_collect_rollouts") == 0
    return output
