"""Failed, masked and missing rollouts that count with a reward of 0, in a run and in the command that merges files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import ConfigError
from ng_rollouts.types import Json
from tests.conftest import Ran, files_in, read_rows

AGENT = """
async def run(row, client):
    outcome = row['outcomes'][row['_ng_rollout_index']]
    if outcome == 'fail':
        raise ValueError('no answer')
    if outcome == 'refuse':
        return {'_ng_failure_class': 'refused', '_ng_failure_terminal': True}
    if outcome == 'vanish':
        return {'_ng_no_persist': True}
    if outcome == 'mask':
        return {'mask_sample': True, 'failure_kind': 'session_lost', 'reward': 1.0, 'level': row['level']}
    return {'reward': 1.0, 'level': row['level']}
"""

RUN = [
    *("+agents.mine._target_=mine.run", "+agent_name=mine", "+input_jsonl_fpath=tasks.jsonl"),
    *("+output_jsonl_fpath=r.jsonl", "+num_repeats=2", "+max_attempts=1", "+max_failed_rollouts=9", "+overwrite=true"),
]

OUTCOMES = [("ok", "ok"), ("ok", "fail"), ("refuse", "fail"), ("ok", "mask"), ("vanish", "ok")]
"""For each task, the outcome of its two rollouts: 5 collected with reward 1, 1 masked, 3 failed, 1 not written."""


@pytest.fixture
def collect(command: Callable[..., Ran], tmp_path: Path) -> Callable[..., Ran]:
    """Collect tasks with these outcomes."""
    (tmp_path / "mine.py").write_text(AGENT)
    tasks = [{"outcomes": pair, "level": level} for level, pair in enumerate(OUTCOMES)]
    rows = [{**task, "responses_create_params": {"input": f"question {n}"}} for n, task in enumerate(tasks)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lambda *arguments: command(*RUN, *arguments)


def results_of(folder: Path, name: str = "r") -> tuple[Json, Json]:
    """The entry of the aggregate metrics, and the summary."""
    (entry,) = json.loads((folder / f"{name}_aggregate_metrics.json").read_text())
    return entry, json.loads((folder / "r_summary.json").read_text())


@pytest.mark.parametrize(
    ("names", "mean", "tasks", "counted"),
    [
        ("null", 1.0, 2, {}),
        # Only tasks that are complete count: 0 and 3 are; refused rollouts alone complete no other.
        ("refused", 1.0, 2, {}),
        # Tasks 1 and 2 become complete, and the collected rollout of task 1 counts although it is set aside.
        ("failed", 4 / 7, 4, {"failed": 3}),
        ("agent_error", 4 / 5, 3, {"failed": 1}),
        ("masked", 3 / 4, 2, {"masked": 1}),
        ("missing", 4 / 5, 3, {"missing": 1}),
        ("[failed,masked,missing]", 5 / 10, 5, {"failed": 3, "masked": 1, "missing": 1}),
    ],
)
def test_all_figures_of_a_run_count_the_same_rollouts_as_0(
    collect: Callable[..., Ran], tmp_path: Path, names: str, mean: float, tasks: int, counted: Json
) -> None:
    """Averages, aggregate metrics, summary and the last lines agree."""
    ran = collect(f"+count_as_zero={names}")
    assert ran.code == 0, ran.stderr
    entry, summary = results_of(tmp_path)
    printed = json.loads(ran.stdout[ran.stdout.rindex("{\n") :])
    assert printed["reward"] == summary["means"]["reward"] == pytest.approx(mean)
    assert entry["agent_metrics"]["mean/reward"] == pytest.approx(mean)
    assert (len(entry["group_level_metrics"]), summary["counted_as_zero"]) == (tasks, counted)
    assert entry["statistics"].get("counted_as_zero", {}) == counted
    parts = ", ".join(f"{number} {reason}" for reason, number in counted.items())
    assert (f"counted with reward 0: {parts}" in ran.stderr) if counted else ("counted with reward 0" not in ran.stderr)


def test_no_file_of_rows_changes(collect: Callable[..., Ran], tmp_path: Path) -> None:
    """Output, failures and incomplete groups are the same with zeros and without."""
    rows = ("r.jsonl", "r_incomplete.jsonl")
    collect()
    before, failures = files_in(tmp_path), read_rows(tmp_path / "r_failures.jsonl")
    collect("+count_as_zero=[failed,masked,missing]")
    after = files_in(tmp_path)
    assert {name: after[name] for name in rows} == {name: before[name] for name in rows}
    keys = ("_ng_task_index", "_ng_rollout_index", "failure_class")
    classes = [[row[key] for key in keys] for row in read_rows(tmp_path / "r_failures.jsonl")]
    assert sorted(classes) == sorted([row[key] for key in keys] for row in failures)


def test_names_of_nemo_gym_mean_the_same(collect: Callable[..., Ran], tmp_path: Path) -> None:
    """NeMo Gym's two parameters add to `count_as_zero`."""
    collect("+count_failure_classes_as_zero=[agent_error,refused]", "+count_missing_rollouts_as_zero=true")
    assert results_of(tmp_path)[1]["counted_as_zero"] == {"failed": 3, "missing": 1}


def test_resume_counts_failures_of_earlier_commands(collect: Callable[..., Ran], tmp_path: Path) -> None:
    """Failures that a resume does not retry count as well; the ones that it collects do not."""
    collect()
    ran = collect("+resume_from_cache=true", "+overwrite=false", "+retry_failed=false", "+count_as_zero=failed")
    assert results_of(tmp_path)[1]["counted_as_zero"] == {"failed": 3}, ran.stderr


def test_gates_use_zeros(collect: Callable[..., Ran]) -> None:
    """A mean that failures lower misses its minimum, and rollouts that count as 0 are covered."""
    gates = ("+min_mean.reward=0.9", "+min_coverage=0.7")
    ran = collect(*gates)
    assert (ran.code, "coverage is 0.3" in ran.stderr, "reward is" in ran.stderr) == (5, True, False)
    ran = collect(*gates, "+count_as_zero=failed")
    assert (ran.code, "coverage is" in ran.stderr, "reward is 0.571" in ran.stderr) == (5, False, True)


def test_fields_of_planned_rows_are_taken_along(collect: Callable[..., Ran], tmp_path: Path) -> None:
    """With materialized inputs, zeros have the level of their task, so that its mean is over the same rollouts."""
    collect("+materialized_inputs=true", "+count_as_zero=[failed,missing]")
    metrics = results_of(tmp_path)[0]["agent_metrics"]
    # all tasks but the masked rollout of task 3
    assert metrics["mean/level"] == pytest.approx((0 + 0 + 1 + 1 + 2 + 2 + 3 + 4 + 4) / 9)


@pytest.mark.parametrize("materialized", ["true", "false"])
@pytest.mark.parametrize("names", ["failed", "masked", "missing", "failed,masked,missing"])
def test_merging_command_gives_the_figures_of_the_run(
    collect: Callable[..., Ran], command: Callable[..., Ran], tmp_path: Path, names: str, materialized: str
) -> None:
    """Both read the same files, with or without materialized inputs: the manifest says which rollouts are planned."""
    collect(f"+count_as_zero=[{names}]", f"+materialized_inputs={materialized}")
    merge = ["+input_glob=r.jsonl", "+output_jsonl_fpath=all.jsonl", f"+count_as_zero={names}"]
    ran = command(*merge, script="ng_aggregate_rollouts")
    (collected, _), (merged, _) = results_of(tmp_path), results_of(tmp_path, "all")
    assert merged["agent_metrics"] == pytest.approx(collected["agent_metrics"]), ran.stderr
    assert "counted with reward 0: " in ran.stderr


@pytest.mark.parametrize("value", [3, {"failed": True}, [1], ["failed", None]])
def test_other_values_are_refused(value: object) -> None:
    """A value that is not a list of names is an error."""
    with pytest.raises(ConfigError, match="count_as_zero must be a list of names"):
        CollectConfig(input_jsonl_fpath="t.jsonl", output_jsonl_fpath="r.jsonl", count_as_zero=value)
