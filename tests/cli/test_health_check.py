"""`ng_health_check`: its files, its table, its gate, and files with damaged lines."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran, read_rows
from tests.health.rows import message, row_of
from tests.rollout_files import rollout_row, write_rows

SCRIPT = "ng_health_check"


def write_example(path: Path) -> None:
    """Write three tasks of two rollouts: one healthy, one with an empty response, one that is cut off twice."""
    rows = [rollout_row(0, 0, 1.0), rollout_row(0, 1, 0.0)]
    rows += [
        {**row_of(message("a"), reward=1.0), "_ng_task_index": 1},
        {**row_of(), "_ng_task_index": 1, "_ng_rollout_index": 1},
    ]
    rows += [{**row_of(message("b"), cut="max_steps"), "_ng_task_index": 2, "_ng_rollout_index": at} for at in (0, 1)]
    write_rows(path, rows)


def test_problems_are_printed_and_written(command: Callable[..., Ran], tmp_path: Path) -> None:
    """The table has the most frequent problem first, with an example; the files are next to the rollouts."""
    write_example(tmp_path / "r.jsonl")
    ran = command("+rollouts_jsonl_fpath=r.jsonl", script=SCRIPT)
    assert ran.code == 0
    lines = ran.stdout.splitlines()
    assert lines[0] == "Rollout health: 6 checked, 0 healthy, 3 unhealthy, 3 unobserved"
    assert [line.split()[:3] for line in lines[3:6]] == [
        ["step_limit", "2", "33.3%"],
        ["never_solved_same_failure", "1", "33.3%"],
        ["empty", "1", "16.7%"],
    ]
    assert "task 1, rollout 1" in ran.stdout
    assert "Quality summary: r_quality_summary.json" in lines
    verdicts = read_rows(tmp_path / "r_rollout_verdicts.jsonl")
    assert [line["verdict"] for line in verdicts] == ["unobserved"] * 3 + ["unhealthy"] * 3
    summary = json.loads((tmp_path / "r_quality_summary.json").read_text())
    assert summary["run"]["issues"]["step_limit"] == 2
    assert summary["tasks"]["2"]["flags"] == ["task_consistently_unhealthy", "never_solved_same_failure"]


def test_damaged_and_repeated_lines_are_findings(command: Callable[..., Ran], tmp_path: Path) -> None:
    """A torn line, a line that is not a rollout and a repeated rollout do not stop the command."""
    row = json.dumps(rollout_row(0, 0, 1.0))
    (tmp_path / "r.jsonl").write_text(f'{row}\n[]\n\n{row}\n{{"_ng_task_index": 1}}\n{row[:40]}')
    ran = command("+rollouts_jsonl_fpath=r.jsonl", script=SCRIPT)
    assert ran.code == 0
    assert "Rollout health: 5 checked, 0 healthy, 5 unhealthy, 0 unobserved" in ran.stdout
    checks = [line["findings"][0]["check"] for line in read_rows(tmp_path / "r_rollout_verdicts.jsonl")]
    assert checks == ["rollout_duplicate_identity"] * 2 + ["record_unreadable"] * 3
    assert "line 2" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["+fail_on=[empty,token_limit]"], 5),
        (["+fail_on=empty", "+max_share=0.1"], 5),
        (["+fail_on=[empty]", "+max_share=0.17"], 0),
        (["+fail_on=[empty, step_limit]", "+max_share=0.4"], 0),
        (["+fail_on={empty: 0.2, step_limit: 0.3}"], 5),
        (["+fail_on={empty: 0.2, step_limit: 0.4}"], 0),
        (["+fail_on=['step_limit']", "+max_share=0.4"], 0),
        (["+fail_on=[token_limit]"], 0),
        (["+fail_on=never_solved_same_failure", "+max_share=0.3"], 5),
    ],
)
def test_gate_is_missed_above_the_share(
    command: Callable[..., Ran], tmp_path: Path, arguments: list[str], code: int
) -> None:
    """`fail_on` ends with exit code 5 if a check has a larger share than is accepted of it. Files are kept."""
    write_example(tmp_path / "r.jsonl")
    ran = command("+rollouts_jsonl_fpath=r.jsonl", *arguments, script=SCRIPT)
    assert ran.code == code
    assert ("above fail_on." in ran.stderr) is (code == 5)
    assert (tmp_path / "r_quality_summary.json").exists()


def test_ignored_checks_are_no_problems(command: Callable[..., Ran], tmp_path: Path) -> None:
    """An ignored check is not in the table, and the summary names it."""
    write_example(tmp_path / "r.jsonl")
    ran = command("+rollouts_jsonl_fpath=r.jsonl", "+ignored_checks=[step_limit]", "+quiet=true", script=SCRIPT)
    summary = json.loads(ran.stdout)
    assert summary["run"]["ignored_checks"] == ["step_limit"]
    assert summary["run"]["verdicts"]["unhealthy"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "rollouts_jsonl_fpath is missing"),
        (["+rollouts_jsonl_fpath=nope.jsonl"], "rollouts_jsonl_fpath nope.jsonl cannot be read: No such file"),
        (["+rollouts_jsonl_fpath=r.jsonl"], "r.jsonl has no rollouts"),
        (["+rollouts_jsonl_fpath=r.jsonl", "+fail_on=emty"], "fail_on: 'emty' is not a check, did you mean empty?"),
        (["+rollouts_jsonl_fpath=r.jsonl", "+max_share=2"], "max_share must be from 0 to 1, got 2"),
        (
            ["+rollouts_jsonl_fpath=r.jsonl", "+fail_on=empty", "+ignored_checks=empty"],
            "empty is in both ignored_checks and fail_on",
        ),
    ],
)
def test_usage_errors(command: Callable[..., Ran], tmp_path: Path, arguments: list[str], message: str) -> None:
    """A parameter or a file that is not valid ends with exit code 2, and leaves no file behind."""
    (tmp_path / "r.jsonl").touch()
    ran = command(*arguments, script=SCRIPT)
    assert ran.code == 2
    assert message in ran.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"r.jsonl"}


def test_files_without_keys_are_grouped_by_prompt(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Rows of NeMo Gym's first collector have no keys: those with an equal prompt are one task. The file is compressed."""
    rows = [row_of(message("B"), reward=reward) for reward in (0.0, 1.0)]
    rows.append(row_of(message("C")))
    rows[2]["responses_create_params"]["input"] = "another"
    without = [{name: value for name, value in row.items() if not name.startswith("_ng_")} for row in rows]
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in without).encode()))
    ran = command("+rollouts_jsonl_fpath=r.jsonl.gz", script=SCRIPT)
    assert ran.code == 0
    assert "verifier_disagrees" in ran.stdout
    assert list(json.loads((tmp_path / "r_quality_summary.json").read_text())["tasks"]) == ["0", "1"]


def test_aggregation_skips_the_files_about_health(command: Callable[..., Ran], tmp_path: Path) -> None:
    """`r*.jsonl` matches the verdicts, which are not rollouts."""
    write_example(tmp_path / "r.jsonl")
    assert command("+rollouts_jsonl_fpath=r.jsonl", script=SCRIPT).code == 0
    merged = command("+input_glob=r*.jsonl", "+output_jsonl_fpath=m.jsonl", script="ng_aggregate_rollouts")
    assert merged.code == 0
    assert "Merged 6 rollouts of 1 file" in merged.stdout


def test_files_have_the_names_of_nemo_gym_if_asked(command: Callable[..., Ran], tmp_path: Path) -> None:
    """By default two runs in one folder have separate files; NeMo Gym's names are an option, and replace each other."""
    for name in ("a.jsonl", "b.jsonl"):
        write_example(tmp_path / name)
        ran = command(f"+rollouts_jsonl_fpath={name}", "+nemo_gym_names=true", script=SCRIPT)
        assert (ran.code, "Quality summary: quality_summary.json" in ran.stdout) == (0, True), ran.stderr
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.jsonl", "b.jsonl", "rollout_verdicts.jsonl", "quality_summary.json"}
    assert len(read_rows(tmp_path / "rollout_verdicts.jsonl")) == 6
