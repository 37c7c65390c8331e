"""Interoperability with servers of NeMo Gym 0.7 that record model calls and token ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran, read_rows
from tests.interop.gym import Gym, arguments_of

pytestmark = pytest.mark.interop

Command = Callable[..., Ran]


def test_health_check_of_nemo_gym_accepts_rows_of_observed_servers(
    command: Command, capturing_gym: Gym, tmp_path: Path
) -> None:
    """Trajectories without their model calls are marked so: its health check finds nothing wrong with our rows."""
    ran = command(*arguments_of(capturing_gym, "mcqa"), "+num_repeats=2")
    assert ran.code == 0, ran.stderr
    assert all(row["ng_trajectory"]["turns"] for row in read_rows(tmp_path / "r.jsonl"))
    capturing_gym.run("health-check", tmp_path, ".", "--rollouts-file", "r.jsonl")
    verdicts = read_rows(tmp_path / "rollout_verdicts.jsonl")
    assert [verdict["findings"] for verdict in verdicts] == [[]] * 10
    assert all("trajectory_capture_mismatch" in verdict["unobserved"] for verdict in verdicts)


def test_ids_of_an_earlier_capture_are_not_used_again(command: Command, capturing_gym: Gym, tmp_path: Path) -> None:
    """Servers that capture token ids refuse an id that a run of NeMo Gym has used. Ours differ between commands."""
    settings = capturing_gym.configuration()
    capture = [
        f"++token_id_capture.{name}={settings['token_id_capture'][name]}" for name in ("enabled", "all_agents", "dir")
    ]
    capturing_gym.collect(tmp_path / "theirs", *arguments_of(capturing_gym, "mcqa")[1:3], *capture)
    rows = [{**row, "_ng_rollout_id": f"{n}-0"} for n, row in enumerate(read_rows(capturing_gym.data("mcqa")))]
    (tmp_path / "used.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    used = arguments_of(capturing_gym, "mcqa", "used_ids.jsonl")
    ran = command(*used, "++input_jsonl_fpath=used.jsonl", "+max_attempts=1")
    failures = read_rows(tmp_path / "used_ids_failures.jsonl")
    assert (ran.code, {failure["status"] for failure in failures}) == (1, {500})
    assert all("Token capture for rollout" in failure["message"] for failure in failures)
    for output in ("first.jsonl", "second.jsonl"):
        ran = command(*arguments_of(capturing_gym, "mcqa", output), "+max_attempts=1")
        assert ran.code == 0, ran.stderr
        items = [row["response"]["output"][-1] for row in read_rows(tmp_path / output)]
        assert [item["generation_token_ids"] for item in items] == [[7]] * 5
