"""The summary of a run agrees with its output, its aggregate metrics and a reward profile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ng_rollouts.run.summary import resume_command
from tests.conftest import FILES, Ran, read_rows
from tests.metrics.helpers import flatten
from tests.rollout_files import write_rows
from tests.servers import Served


def test_averages_summary_aggregate_metrics_and_profile_agree(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Everything that reports a mean or a number of rollouts reports the same one, although some rollouts failed."""
    server = serve(faults={"400": 0.1}, sticky=True)
    tasks(30)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=rollouts.jsonl"]
    ran = command(f"+agent_url={server.url}", "+agent_name=a", *files, "+num_repeats=3", "+metrics_by=agent")
    assert ran.code == 1
    rows = read_rows(tmp_path / "rollouts.jsonl")
    summary = json.loads((tmp_path / "rollouts_summary.json").read_text())
    (aggregate,) = json.loads((tmp_path / "rollouts_aggregate_metrics.json").read_text())
    printed, _ = json.JSONDecoder().raw_decode(ran.stdout[ran.stdout.index("{\n") :])
    assert summary["means"] == printed
    assert aggregate["agent_metrics"]["mean/reward"] == pytest.approx(printed["reward"])
    assert summary["exit_code"] == 1
    assert summary["finished"] == len(rows) == aggregate["statistics"]["rollouts"]
    assert summary["coverage"] == len(rows) / 90
    assert summary["planned"] == summary["collected"] + summary["failed"]
    collected = rows + read_rows(tmp_path / "rollouts_incomplete.jsonl")
    with_zeros = sum(row["reward"] for row in collected) / (len(collected) + summary["failed"])
    assert summary["means_with_failures_as_zero"]["reward"] == pytest.approx(with_zeros)
    assert len(aggregate["group_level_metrics"]) == len(rows) / 3
    assert '"agent_ref"' in ran.stdout.rpartition("}\n{")[2]
    profile_of = "+rollouts_jsonl_fpath=rollouts.jsonl"
    profiled = command(profile_of, script="ng_reward_profile")
    assert profiled.code == 1
    assert f"error: {90 - len(rows)} rollouts are missing" in profiled.stderr
    assert command(profile_of, "+allow_partial_rollouts=true", script="ng_reward_profile").code == 0
    (profile,) = json.loads((tmp_path / "rollouts_agent_metrics.json").read_text())
    assert profile["mean/reward"] == pytest.approx(printed["reward"])
    assert flatten(profile["statistics"]["scores"]) == pytest.approx(flatten(aggregate["statistics"]["scores"]))
    assert not (tmp_path / "rollouts_status.json").exists()


def test_summary_of_a_resumed_run_covers_all_rows(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """After a resume, tokens and cost are those of all rows, and the rows of earlier runs are counted separately."""
    server = serve()
    tasks(10)
    run = [f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    assert command(*run, "+limit=4").code == 0
    assert command(*run, "+resume_from_cache=true", "+price_per_million.output=1000000").code == 0
    summary = json.loads((tmp_path / "r_summary.json").read_text())
    assert summary["tokens"] == {"input": 0, "output": 70}
    assert summary["cost"] == 70
    assert (summary["collected_before"], summary["tokens_before"]["output"], summary["attempts"]) == (4, 28, 6)


def test_failures_count_as_zero_only_in_scores_of_their_agent(
    command: Callable[..., Ran], serve: Callable[..., Served], tmp_path: Path
) -> None:
    """A failed rollout counts as zero in the scores that its agent gives, and not in those of other agents.

    The means that are printed for each agent are those of its rows, added in file order.
    """
    server = serve(faults={"400": 0.4, "null_params": 0.6}, sticky=True)
    row = {"responses_create_params": {"input": "What is 2 + 3?"}}
    rows = [
        {**row, "n": number, "agent_ref": {"name": ("example_math_agent", "b")[number % 2]}} for number in range(40)
    ]
    write_rows(tmp_path / "t.jsonl", rows)
    files = ["+input_jsonl_fpath=t.jsonl", "+output_jsonl_fpath=r.jsonl", "+metrics_by=agent"]
    ran = command(f"+agents.b.url={server.url}", *files)
    summary = json.loads((tmp_path / "r_summary.json").read_text())
    failed = summary["failed"]
    assert failed > 3
    # only the example agent gives `accuracy`, and only the other agent fails
    accuracies = [row["accuracy"] for row in read_rows(tmp_path / "r.jsonl") if "accuracy" in row]
    assert len(accuracies) == 20
    means = summary["means_with_failures_as_zero"]
    assert means["accuracy"] == sum(accuracies) / 20 == summary["means_collected"]["accuracy"]
    assert means["reward"] == pytest.approx(summary["means_collected"]["reward"] * (40 - failed) / 40)
    metrics = json.loads((tmp_path / "r_aggregate_metrics.json").read_text())
    assert all(entry["statistics"]["latency_s"]["p50"] > 0 for entry in metrics)
    for agent in ("example_math_agent", "b"):
        values = [row["reward"] for row in read_rows(tmp_path / "r.jsonl") if row["agent_ref"]["name"] == agent]
        total = 0.0
        for value in values:
            total += value
        assert f'"name": "{agent}"\n    }},\n    "reward": {total / len(values)}' in ran.stdout


def test_resume_command_shows_numbers_of_parameters_named_like_secrets(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran]
) -> None:
    """The command to resume a run can be copied: the number in `max_total_tokens` is not masked as a token."""
    ran = collect_sums(serve_model().url, "+verifier=none", "+max_total_tokens=50", "+num_samples_in_parallel=1")
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("to resume:")]
    assert "+max_total_tokens=50" in line
    assert "***" not in line


def test_resume_command_omits_parameters_that_contradict_a_resume() -> None:
    """The command that resumes a run has no `overwrite`, and has `resume_from_cache=true` once."""
    command = ["x", "+limit=3", "+overwrite=true", "++resume_from_cache=true"]
    assert resume_command(command) == "x +limit=3 +resume_from_cache=true"


def test_resume_command_is_omitted_if_all_failures_are_terminal(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path]
) -> None:
    """The command that resumes a run is not printed if a resume would retry nothing."""
    tasks(3)
    ran = command(*FILES, f"+agent_url={serve(faults={'terminal': 1.0}).url}")
    assert ran.code == 1
    assert "to resume" not in ran.stderr
    assert "+resume_from_cache" not in ran.stderr


@pytest.mark.parametrize(
    ("options", "share", "line"),
    [
        ({"cut": True}, "share_truncated", "problems: token_limit 4 (task 0, rollout 0)"),
        ({"text": ""}, "share_empty", "problems: empty 4 (task 0, rollout 0)"),
    ],
)
def test_truncated_and_empty_responses_are_reported(
    command: Callable[..., Ran],
    serve_model: Callable[..., Served],
    tasks: Callable[..., Path],
    tmp_path: Path,
    options: dict[str, object],
    share: str,
    line: str,
) -> None:
    """The last lines and the summary report responses that were cut off or empty, also those of an earlier command."""
    server = serve_model(**options)
    tasks(4)
    run = [
        f"+policy_base_url={server.url}/v1",
        "+policy_model_name=test-model",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=r.jsonl",
    ]
    assert command(*run, "+limit=2").code == 0
    ran = command(*run, "+resume_from_cache=true")
    assert line in ran.stderr
    summary = json.loads((tmp_path / "r_summary.json").read_text())
    assert summary[share] == 1.0
    assert list(summary["problems"].values()) == [4]
