"""Every collected rollout is checked, in a first run and on a resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import FILES, Ran, read_rows
from tests.servers import Served

SCRIPT = "ng_health_check"


def test_run_and_command_find_the_same(
    command: Callable[..., Ran], serve_model: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """The counts of a run, also of one that was resumed, are those of `ng_health_check` over its output."""
    tasks(6)
    server = serve_model(cut=True)
    run = [f"+policy_base_url={server.url}/v1", "+policy_model_name=test-model", *FILES, "+num_repeats=2"]
    assert command(*run, "+limit=3").code == 0
    assert len(read_rows(tmp_path / "r_rollout_verdicts.jsonl")) == 6
    ran = command(*run, "+resume_from_cache=true")
    assert "problems: token_limit 12 (task 0, rollout 0)" in ran.stderr
    own = json.loads((tmp_path / "r_quality_summary.json").read_text())
    lines = read_rows(tmp_path / "r_rollout_verdicts.jsonl")
    assert command("+rollouts_jsonl_fpath=r.jsonl", script=SCRIPT).code == 0
    assert json.loads((tmp_path / "r_quality_summary.json").read_text()) == own
    of_command = read_rows(tmp_path / "r_rollout_verdicts.jsonl")
    assert [{**line, "unobserved": []} for line in of_command] == lines


def test_good_run_has_counts_but_no_lines(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Without a finding and without a trajectory, the file of verdicts is not written, and an older one is removed."""
    tasks(5)
    (tmp_path / "r_rollout_verdicts.jsonl").write_text("{}\n")
    ran = command(*FILES, "+agent_name=example_math_agent", "+overwrite=true")
    assert ran.code == 0
    assert "problems" not in ran.stderr
    assert not (tmp_path / "r_rollout_verdicts.jsonl").exists()
    summary = json.loads((tmp_path / "r_quality_summary.json").read_text())
    assert summary["run"]["verdicts"] == {"healthy": 0, "unhealthy": 0, "unobserved": 5}


def test_rollouts_set_aside_are_checked(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """The summary covers the rollouts of incomplete groups, which are not in the output."""
    tasks(20)
    server = serve(faults={"400": 0.2}, sticky=True)
    ran = command(f"+agent_url={server.url}", *FILES, "+num_repeats=2", "+max_failed_rollouts=1.0")
    assert ran.code == 0
    summary = json.loads((tmp_path / "r_summary.json").read_text())
    assert summary["set_aside"]
    quality = json.loads((tmp_path / "r_quality_summary.json").read_text())
    assert quality["run"]["artifacts"]["records"] == summary["collected"]


def test_disabled_checks_leave_no_trace(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """With NeMo Gym's `disable_health_check`, nothing is checked and no file is written."""
    tasks(3)
    ran = command(*FILES, "+agent_name=example_math_agent", "+disable_health_check=true")
    assert ran.code == 0
    assert not (tmp_path / "r_quality_summary.json").exists()
    assert json.loads((tmp_path / "r_summary.json").read_text())["problems"] is None


def test_workers_are_accepted_with_a_note(command: Callable[..., Ran], tasks: Callable[..., Path]) -> None:
    """A command line of NeMo Gym works; the note says that the parameter has no effect."""
    tasks(3)
    ran = command(*FILES, "+agent_name=example_math_agent", "+health_check_workers=4")
    assert ran.code == 0
    assert ran.stderr.count("health_check_workers has no effect") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+fail_on.emty=0.1"], "fail_on: 'emty' is not a check, did you mean empty?"),
        (["+fail_on=[emty]"], "fail_on: 'emty' is not a check, did you mean empty?"),
        (["+fail_on.empty=2"], "fail_on.empty must be a share from 0 to 1, got 2"),
        (["+fail_on=[empty]", "+health_check_ignored_checks=[empty]"], "empty is in both health_check_ignored_checks"),
        (["+fail_on=[empty]", "+disable_health_check=true"], "fail_on needs the checks"),
        (["+health_check_ignored_checks=[nope]"], "health_check_ignored_checks: 'nope' is not a check"),
    ],
)
def test_wrong_parameters_end_before_the_first_request(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path, arguments: list[str], message: str
) -> None:
    """An unknown check is a usage error that suggests the nearest name; nothing is written."""
    tasks(3)
    ran = command(*FILES, "+agent_name=example_math_agent", *arguments)
    assert ran.code == 2
    assert message in ran.stderr
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(
    ("gate", "code"),
    [("+fail_on=[empty,token_limit]", 5), ("+fail_on={token_limit: 0.9}", 5), ("+fail_on.token_limit=1", 0)],
)
def test_share_above_the_limit_misses_the_gate(
    command: Callable[..., Ran], serve_model: Callable[..., Served], tasks: Callable[..., Path], gate: str, code: int
) -> None:
    """In a list, any share above 0 is too large. The message names check, share, limit and an example."""
    tasks(3)
    server = serve_model(cut=True)
    ran = command(f"+policy_base_url={server.url}/v1", "+policy_model_name=test-model", *FILES, gate)
    assert ran.code == code
    if code:
        limit = "0.9" if "0.9" in gate else "0"
        expected = f"token_limit is 1 of the rollouts, above fail_on.token_limit={limit} (task 0, rollout 0)"
        assert expected in ran.stderr.splitlines()[-1]
