"""Finished runs are logged to experiment trackers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Ran


@pytest.mark.extras
def test_trackers_receive_metrics_and_files(command: Callable[..., Ran], tmp_path: Path) -> None:
    """wandb, mlflow and trackio, all of them offline, store the metrics of the summary and the files of the run."""
    run = ["+agent_name=example_math_agent", "+limit=5", "+num_repeats=2", "+output_jsonl_fpath=r.jsonl"]
    tasks = f"+input_jsonl_fpath={ROOT / 'examples' / 'arithmetic.jsonl'}"
    env = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}
    ran = command(*run, tasks, "+export=[wandb,mlflow,trackio]", "+export_project=mine", env=env)
    assert ran.code == 0
    assert "warning" not in ran.stderr, ran.stderr
    reward = json.loads((tmp_path / "r_summary.json").read_text())["means"]["reward"]
    with sqlite3.connect(tmp_path / "mlflow.db") as stored:
        assert stored.execute("select value from metrics where key = 'means/reward'").fetchone() == (reward,)
    assert list(tmp_path.glob("mlruns/**/r.jsonl"))
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    with sqlite3.connect(tmp_path / "trackio" / "mine.db") as stored:
        (logged,) = stored.execute("select metrics from metrics").fetchone()
        assert json.loads(logged)["means/reward"] == reward
