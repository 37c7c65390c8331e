"""Rows and files of NeMo Gym 0.7, and the results that NeMo Gym 0.7.0 gives for them.

The files in tests/gym07 are made for these tests. The numbers are those that NeMo Gym's functions returned.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.agents.agent_metrics import _write_bodies
from ng_rollouts.types import Json
from tests.conftest import FILES, RESUME, Ran, read_rows
from tests.servers import Served

CASES = Path(__file__).parent / "gym07"

Aggregate = Callable[..., Json]


@pytest.fixture
def aggregate(command: Callable[..., Ran], tmp_path: Path) -> Aggregate:
    """Run `ng_aggregate_rollouts` over a case with its side files, and return the entry of its only agent."""

    def run(case: str, *arguments: str) -> Json:
        for path in CASES.glob(f"{case}*"):
            shutil.copy(path, tmp_path / path.name)
        output = ["+output_jsonl_fpath=all.jsonl", "+overwrite=true"]
        ran = command(f"+input_glob={case}.jsonl", *output, *arguments, script="ng_aggregate_rollouts")
        assert (tmp_path / "all_aggregate_metrics.json").exists(), ran.stderr
        (entry,) = json.loads((tmp_path / "all_aggregate_metrics.json").read_text())
        return dict(entry)

    return run


def approximately(value: Any) -> Any:
    """Equal to the last digits."""
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def test_case_01_masked_rollouts(aggregate: Aggregate) -> None:
    """Masked rollouts are in no metric but coverage and `num_repeats`; repeats are compared over measured ones."""
    entry = aggregate("01_masked_rollouts")
    metrics = entry["agent_metrics"]
    assert (metrics["mean/reward"], metrics["mean/score"]) == approximately((2 / 3, 0.5))
    assert metrics["std/reward"] == approximately(0.5773502691896258)
    assert metrics["mean/output_tokens"] == 4.0
    assert not any("mask_sample" in key for key in metrics)
    coverage = {key: value for key, value in metrics.items() if key.startswith("coverage/")}
    assert coverage == {
        "coverage/measured_rollouts": 3,
        "coverage/masked_rollouts": 3,
        "coverage/measured_tasks": 2,
        "coverage/fully_masked_tasks": 1,
    }
    assert metrics["num_repeats"] == 2
    groups = {group["_ng_task_index"]: group["mean/reward"] for group in entry["group_level_metrics"]}
    assert groups == {0: 1.0, 2: 0.5}


def test_case_01_repeats(aggregate: Aggregate) -> None:
    """The metrics of each repeat, and across repeats, have NeMo Gym's keys and values."""
    entry = aggregate("01_masked_rollouts")
    first, second = entry["repeat_level_metrics"]
    assert {key: value for key, value in first.items() if "/" not in key or "reward" in key} == approximately(
        {
            "_ng_rollout_index": 0,
            "sample_count": 2,
            "missing_count": 0,
            "mean/reward": 0.5,
            "median/reward": 0.5,
            "std/reward": 0.7071067811865476,
            "sem/reward": 0.5,
            "min/reward": 0.0,
            "max/reward": 1.0,
            "p25/reward": 0.25,
            "p75/reward": 0.75,
            "ci_low_95/reward": -5.853102368087347,
            "ci_high_95/reward": 6.853102368087347,
        }
    )
    assert first["median/score"] == 0.375
    assert {key: value for key, value in second.items() if "/" not in key or "reward" in key} == approximately(
        {
            "_ng_rollout_index": 1,
            "sample_count": 1,
            "missing_count": 1,
            "mean/reward": 1.0,
            "median/reward": 1.0,
            "std/reward": 0.0,
            "sem/reward": 0.0,
            "min/reward": 1.0,
            "max/reward": 1.0,
            "p25/reward": 1.0,
            "p75/reward": 1.0,
        }
    )
    across = {
        key: value for key, value in entry["agent_metrics"].items() if key.endswith("_across_repeats/mean/reward")
    }
    assert across == approximately(
        {
            "mean_across_repeats/mean/reward": 0.75,
            "median_across_repeats/mean/reward": 0.75,
            "std_across_repeats/mean/reward": 0.3535533905932738,
            "min_across_repeats/mean/reward": 0.5,
            "max_across_repeats/mean/reward": 1.0,
            "se_across_repeats/mean/reward": 0.25,
            "ci_low_95_across_repeats/mean/reward": -2.4265511840436735,
            "ci_high_95_across_repeats/mean/reward": 3.9265511840436735,
        }
    )
    assert not any("_across_repeats" in key for key in entry["key_metrics"])


def test_case_01_profile(command: Callable[..., Ran], tmp_path: Path) -> None:
    """`ng_reward_profile` writes the same metrics of each repeat to a file, with the agent."""
    shutil.copy(CASES / "01_masked_rollouts.jsonl", tmp_path / "r.jsonl")
    ran = command("+rollouts_jsonl_fpath=r.jsonl", script="ng_reward_profile")
    assert ran.code == 0, ran.stderr
    first, second = json.loads((tmp_path / "r_repeat_level_metrics.json").read_text())
    assert first["agent_ref"] == second["agent_ref"] == {"name": "a"}
    assert (first["mean/reward"], second["mean/reward"]) == (0.5, 1.0)


def test_case_02_all_masked(aggregate: Aggregate) -> None:
    """If all rollouts are masked, the only metrics are the coverage: there is no mean of 0."""
    entry = aggregate("02_all_masked")
    assert entry["agent_metrics"] == entry["key_metrics"]
    assert list(entry["agent_metrics"].values()) == [0, 2, 0, 2]
    assert entry["group_level_metrics"] == entry["repeat_level_metrics"] == []


def test_case_03_mask_spellings(aggregate: Aggregate) -> None:
    """Any true value of the top-level field masks, and nothing else does."""
    entry = aggregate("03_mask_spellings")
    assert [group["_ng_task_index"] for group in entry["group_level_metrics"]] == [1, 2, 4]
    assert entry["key_metrics"]["mean/reward"] == approximately(2 / 3)


def test_case_18_unscored(aggregate: Aggregate, tmp_path: Path) -> None:
    """A mean is over the rows that have the score, and a bool is a number."""
    entry = aggregate("18_unscored")
    assert entry["agent_metrics"]["mean/reward"] == 0.75
    assert entry["agent_metrics"]["mean/flag"] == 1.0
    assert entry["agent_metrics"]["mean/steps"] == 5


def test_case_12_perf_summary(aggregate: Aggregate) -> None:
    """Turns, tokens and latencies are summarised over the rows that report them, masked ones included."""
    entry = aggregate("12_perf")
    assert entry["perf_summary"] == approximately(
        {
            "overall_observability_coverage": 0.6666666666666666,
            "token_observability_coverage": 0.3333333333333333,
            "mean_prompt_tokens": 100.0,
            "median_prompt_tokens": 100,
            "total_prompt_tokens": 100,
            "mean_completion_tokens": 20.0,
            "median_completion_tokens": 20,
            "total_completion_tokens": 20,
            "mean_num_turns": 3.0,
            "median_num_turns": 3.0,
            "std_num_turns": 1.0,
            "min_num_turns": 2,
            "p90_num_turns": 3.8,
            "max_num_turns": 4,
            "mean_tokens_per_turn": 10.0,
            "median_tokens_per_turn": 10.0,
            "total_latency_p50_ms": 2000.0,
            "total_latency_p90_ms": 2800.0,
            "total_latency_p99_ms": 2980.0,
            "total_latency_mean_ms": 2000.0,
        }
    )
    assert entry["agent_metrics"]["mean/reward"] == 0.5
    assert not any("perf" in key for key in entry["agent_metrics"])


def test_case_11_rows_to_aggregate(tmp_path: Path) -> None:
    """The rows that an agent computes its metrics from have no large fields; of a response, two fields are sent."""
    with (tmp_path / "body").open("w+b") as body:
        _write_bodies(read_rows(CASES / "11_to_aggregate.jsonl"), {"a": body})
        body.seek(0)
        first, second = json.load(body)["verify_responses"]
    assert first == {
        "_ng_task_index": 0,
        "_ng_rollout_index": 0,
        "agent_ref": {"name": "a"},
        "reward": 1.0,
        "mask_sample": False,
        "ng_perf": {"num_turns": 2},
        "response": {
            "incomplete_details": {"reason": "max_output_tokens"},
            "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        },
        "_ng_environment_server": "e",
    }
    assert second == {"_ng_task_index": 1, "_ng_rollout_index": 0, "agent_ref": {"name": "a"}, "reward": 0.0}


@pytest.mark.parametrize(
    ("arguments", "mean", "rollouts"),
    [
        ([], 0.75, 2),
        (["+count_as_zero=missing"], 0.375, 4),
        (["+count_missing_rollouts_as_zero=true"], 0.375, 4),
        (["+count_as_zero=judge_failed"], 0.75, 2),
        (["+count_failure_classes_as_zero=[agent_run_error]"], 0.5, 3),
        (["+count_as_zero=agent_run_error,sandbox_crashed"], 0.5625, 4),
        (["+count_as_zero=failed"], 0.5625, 4),
        (
            [
                "+count_failure_classes_as_zero=[agent_run_error,sandbox_crashed]",
                "+count_missing_rollouts_as_zero=true",
            ],
            0.375,
            6,
        ),
        (["+count_as_zero=[failed,missing]"], 0.375, 6),
    ],
)
def test_case_06_zeros(aggregate: Aggregate, arguments: list[str], mean: float, rollouts: int) -> None:
    """The last failure of a rollout decides whether it counts, and with which reward; a lost one counts as 0."""
    entry = aggregate("06_zero", *arguments)
    assert entry["agent_metrics"]["mean/reward"] == mean
    assert entry["statistics"]["rollouts"] == rollouts
    assert sum(entry["statistics"].get("counted_as_zero", {}).values()) == rollouts - 2


def test_case_06_planned_fields(aggregate: Aggregate) -> None:
    """Rollouts that count as 0 have the fields of their planned row that other rows have: their mean is over all."""
    assert aggregate("06_zero")["agent_metrics"]["mean/level"] == 3.0
    metrics = aggregate("06_zero", "+count_as_zero=failed,missing")["agent_metrics"]
    assert metrics["mean/level"] == 4.0
    assert not any("_ng_failure" in key or key.endswith("/status") for key in metrics)


def test_case_14_token_ids(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Token ids, log probabilities and the marks of a capture are in the output as they are in the reply."""
    rows = read_rows(CASES / "14_token_ids.jsonl")
    server = serve(replies=rows)
    tasks(3)
    ran = command(*FILES, f"+agent_url={server.url}", "+num_samples_in_parallel=1")
    assert ran.code == 0, ran.stderr
    assert "masked: 1 of 3" in ran.stderr
    for sent, kept in zip(rows, read_rows(tmp_path / "r.jsonl"), strict=True):
        assert kept["response"] == sent["response"]
        assert kept.get("_ng_token_capture") == sent.get("_ng_token_capture")


@pytest.mark.parametrize(("case", "lines"), [("16_torn", 1), ("16_no_newline", 1)])
def test_case_16_last_lines(
    command: Callable[..., Ran],
    serve: Callable[..., Served],
    tasks: Callable[..., Path],
    tmp_path: Path,
    case: str,
    lines: int,
) -> None:
    """A resume removes a half-written last line and keeps a whole one without a newline; it asks for the rest."""
    shutil.copy(CASES / f"{case}.jsonl", tmp_path / "r.jsonl")
    server = serve()
    tasks(1)
    ran = command(*FILES, f"+agent_url={server.url}", "+num_repeats=2", RESUME)
    assert ran.code == 0, ran.stderr
    assert server.stats()["asked"] == {"0/1": 1}
    assert len(read_rows(tmp_path / "r.jsonl")) == 1 + lines


def test_case_18_drained(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A rollout that was drained is written nowhere: it is due on a resume."""
    drained = read_rows(CASES / "18_unscored.jsonl")[2]
    tasks(1)
    ran = command(*FILES, f"+agent_url={serve(replies=[drained]).url}", "+max_attempts=1")
    assert ran.code == 1, ran.stderr
    assert read_rows(tmp_path / "r.jsonl") == []
    assert not (tmp_path / "r_failures.jsonl").exists()


def test_case_17_answers_without_a_verdict(
    command: Callable[..., Ran], serve: Callable[..., Served], tmp_path: Path
) -> None:
    """A rollout with a row is done, whatever its failures say; answers of failed judges stay in the failures file."""
    for end in (".jsonl", "_failures.jsonl"):
        shutil.copy(CASES / f"17_rollouts{end}", tmp_path / f"r{end}")
    shutil.copy(CASES / "17_inputs.jsonl", tmp_path / "r_materialized_inputs.jsonl")
    rows = [{"responses_create_params": {"input": "q"}, "expected_answer": str(number)} for number in range(4)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = serve(faults={"400": 1.0})
    ran = command(*FILES, f"+agent_url={server.url}", RESUME, "+max_attempts=1", "+num_samples_in_parallel=1")
    assert ran.code == 1, ran.stderr
    assert server.stats()["asked"] == {"2/0": 1, "3/0": 1}
    assert [row["response"]["id"] for row in read_rows(tmp_path / "r.jsonl")] == ["r0", "r1"]
    again, other = read_rows(tmp_path / "r_failures.jsonl")
    assert (again["failure_class"], again["response"]["id"]) == ("http_400", "r2b")
    assert (other["failure_class"], "response" in other) == ("http_400", False)
    assert json.loads(ran.stdout[ran.stdout.index("{") :])["reward"] == 0.5
