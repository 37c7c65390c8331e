"""`ng_rescore_rollouts` as a process: its exit code, and its output on stdout and stderr."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Ran
from tests.rescoring.conftest import sum_rows
from tests.rollout_files import write_rows

SCRIPT = "ng_rescore_rollouts"
FILES = ["+rollouts_jsonl_fpath=rollouts.jsonl", "+output_jsonl_fpath=new.jsonl"]


def test_averages_are_on_stdout_and_the_table_on_stderr(process: Callable[..., Ran], tmp_path: Path) -> None:
    """With `quiet=true`, stdout is JSON alone, and stderr is empty."""
    write_rows(tmp_path / "rollouts.jsonl", sum_rows(4))
    ran = process(*FILES, "+verifier=exact_match", script=SCRIPT)
    assert ran.code == 0, ran.stderr
    assert ran.averages == {"reward": 0.5, "accuracy": 0.5, "previous_reward": 0.5}
    assert "Largest changes" in ran.stderr
    ran = process(*FILES, "+verifier=exact_match", "+quiet=true", "+overwrite=true", script=SCRIPT)
    assert (ran.code, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["reward"] == 0.5


def test_a_missed_minimum_is_code_5(process: Callable[..., Ran], tmp_path: Path) -> None:
    """As in the collector; the output is finished, and the table is printed."""
    write_rows(tmp_path / "rollouts.jsonl", sum_rows(4))
    ran = process(*FILES, "+verifier=exact_match", "+min_mean.reward=0.9", script=SCRIPT)
    assert ran.code == 5
    assert "below min_mean.reward=0.9" in ran.stderr
    assert "Changed scores" in ran.stderr
