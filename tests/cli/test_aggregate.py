"""`ng_aggregate_rollouts`: duplicates, existing outputs and inputs without rollouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Ran, read_rows
from tests.rollout_files import write_rewards


def test_duplicate_rollouts_are_reported_and_the_first_is_kept(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Of rollouts that occur in two files, the first is kept; duplicates and gaps are errors with exit code 1."""
    write_rewards(tmp_path / "s1.jsonl", {(0, 0): 1.0, (1, 0): 1.0})
    write_rewards(tmp_path / "s2.jsonl", {(1, 0): 0.0, (3, 0): 0.0})
    ran = command("+input_glob=s*.jsonl", "+output_jsonl_fpath=all.jsonl", script="ng_aggregate_rollouts")
    assert ran.code == 1
    assert "1 duplicate rollout: task 1 rollout 0; the first of each was kept" in ran.stderr
    assert "1 rollout is missing from tasks that have no rows, starting with task 2" in ran.stderr
    assert [row["reward"] for row in read_rows(tmp_path / "all.jsonl")] == [1.0, 1.0, 0.0]


def test_existing_merged_output_is_renamed_with_its_side_files(command: Callable[..., Ran], tmp_path: Path) -> None:
    """An existing output and its side files are renamed with one number, unless `overwrite=true` replaces them.

    A side file is kept in this way even if there is no output next to it.
    """
    write_rewards(tmp_path / "r.jsonl", {(0, 0): 1.0, (0, 1): 1.0, (1, 0): 1.0})  # one rollout is missing
    merge = ("+input_glob=r.jsonl", "+output_jsonl_fpath=all.jsonl")
    assert command(*merge, script="ng_aggregate_rollouts").code == 1
    assert "all.jsonl exists: renamed to" in command(*merge, script="ng_aggregate_rollouts").stderr
    assert (tmp_path / "all.jsonl.1").exists()
    assert (tmp_path / "all_aggregate_metrics.json.1").exists()
    assert command(*merge, "+overwrite=true", script="ng_aggregate_rollouts").code == 1
    (tmp_path / "all.jsonl").unlink()
    (tmp_path / "all_incomplete.jsonl").write_text("{}\n")
    assert "exists: renamed to" in command(*merge, script="ng_aggregate_rollouts").stderr
    assert (tmp_path / "all_incomplete.jsonl.2").read_text() == "{}\n"


def test_temporary_files_of_a_killed_merge_are_removed(command: Callable[..., Ran], tmp_path: Path) -> None:
    """The next merge into a file removes what a killed one has left, also for side files and while compressing."""
    write_rewards(tmp_path / "r.jsonl", {(0, 0): 1.0})
    token = ".0123abcd.writing"
    for name in ("all.jsonl.gz", f"all.jsonl.gz{token}", "all_manifest.json", "other.jsonl"):
        (tmp_path / f"{name}{token}").touch()
    ran = command("+input_glob=r.jsonl", "+output_jsonl_fpath=all.jsonl.gz", script="ng_aggregate_rollouts")
    assert ran.code == 0, ran.stderr
    assert [path.name for path in tmp_path.glob("*.writing")] == [f"other.jsonl{token}"]


def test_merge_of_files_without_rollouts_is_an_error(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Input files that have no rollouts end with exit code 2."""
    (tmp_path / "empty.jsonl").touch()
    ran = command("+input_glob=empty.jsonl", "+output_jsonl_fpath=e.jsonl", script="ng_aggregate_rollouts")
    assert (ran.code, "without rollouts" in ran.stderr) == (2, True)


def test_head_server_of_nemo_gym_is_not_needed(command: Callable[..., Ran], tmp_path: Path) -> None:
    """NeMo Gym's command asks its servers for the metrics; here its parameter is accepted with a note."""
    (tmp_path / "r.jsonl").write_text('{"_ng_task_index": 0, "_ng_rollout_index": 0, "reward": 1.0}\n')
    arguments = ["+input_glob=r.jsonl", "+output_jsonl_fpath=all.jsonl", "+head_server.port=11000"]
    ran = command(*arguments, script="ng_aggregate_rollouts")
    assert (ran.code, "note: head_server.port has no effect" in ran.stderr) == (0, True), ran.stderr


def test_means_are_printed_with_what_they_are_over(command: Callable[..., Ran], tmp_path: Path) -> None:
    """The mean of each score is printed with its interval, and with the number of masked rollouts."""
    rows = [{"_ng_task_index": task, "_ng_rollout_index": 0, "reward": float(task % 2)} for task in range(4)]
    rows[3]["mask_sample"] = True
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = command("+input_glob=r.jsonl", "+output_jsonl_fpath=all.jsonl", script="ng_aggregate_rollouts")
    assert ran.code == 0, ran.stderr
    assert ran.stdout.splitlines()[-1].startswith("reward 0.333 ± ")
    assert ran.stdout.splitlines()[-1].endswith("(95 % interval, over 3 tasks; 3 of 4 rollouts: 1 masked)")
