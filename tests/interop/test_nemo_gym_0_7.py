"""Interoperability with what is new in NeMo Gym 0.7: environment servers, sources, masks, failures and captures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.types import Json
from tests.conftest import RESUME, Ran, keys_of, read_rows
from tests.interop.gym import ENVIRONMENTS, Gym, arguments_of, rows_by_key

pytestmark = [pytest.mark.interop, pytest.mark.parametrize("gym", ["0.7.0"], indirect=True)]

Command = Callable[..., Ran]

FIGURES = ("agent_metrics", "key_metrics", "group_level_metrics", "repeat_level_metrics")
NOT_COMPARED = re.compile(
    r"^pass[@^]|^majority@|^per_sample_aggregate$"  # of the environment itself, or only of this program
    r"|^(sample|rollout_infos|reward_profile_completion_pct|(expected_|missing_)?num_rollouts)$"  # about the files
)
"""Figures that only one of the two programs computes for every environment."""

TOLERANCE = 1e-12

MASKED = {"mask_sample": True, "failure_kind": "session_lost", "failure_reason": "the session has ended"}
OUTCOMES: list[list[Json]] = [
    [{"reward": 0.1, "solved": False}, {"reward": 1 / 3, "solved": False}, {"reward": 0.7, "solved": True}],
    [{"reward": 1.0, "solved": True}, {"reward": 0.0, "solved": True, **MASKED}, {"reward": 0.2, "solved": False}],
    [{"reward": 0.9, **MASKED}, {"reward": 0.8, **MASKED}, {"reward": 0.6, **MASKED}],
    [{"reward": 0.0}, {"reward": 2 / 7}, {"reward": 1.0, **MASKED}],
]
"""For each task the verdicts of its three rollouts. The third task is masked as a whole."""


@pytest.fixture
def scripted(gym: Gym, tmp_path: Path) -> Callable[[list[list[Json]]], list[str]]:
    """Write tasks with these outcomes; the arguments that both collectors have in common for them."""

    def write(outcomes: list[list[Json]]) -> list[str]:
        rows = [
            {"responses_create_params": {"input": f"Question {number}"}, "outcomes": each}
            for number, each in enumerate(outcomes)
        ]
        (tmp_path / "scripted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [f"+input_jsonl_fpath={tmp_path / 'scripted.jsonl'}", "+agent_name=scripted_simple_agent"]

    return write


def ours(gym: Gym, output: str = "r.jsonl") -> list[str]:
    """The arguments that only our collector needs."""
    return [f"+head_server.port={gym.port}", f"+output_jsonl_fpath={output}"]


def only_entry(path: Path) -> Json:
    """The only entry of a file of aggregate metrics."""
    entry: Json
    [entry] = json.loads(path.read_text())
    return entry


def assert_same(values: Any, expected: Any, name: str) -> None:
    """Two JSON values are equal, numbers up to 1e-12."""
    if isinstance(expected, dict):
        assert values.keys() == expected.keys(), name
        for key, each in expected.items():
            assert_same(values[key], each, f"{name}.{key}")
    elif isinstance(expected, list):
        assert len(values) == len(expected), name
        for number, (value, each) in enumerate(zip(values, expected, strict=True)):
            assert_same(value, each, f"{name}[{number}]")
    else:
        assert values == (
            pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE) if isinstance(expected, float) else expected
        ), name


def common(metrics: Any) -> Any:
    """The figures that both programs compute, of an agent or of a list of groups."""
    if isinstance(metrics, list):
        return [common(group) for group in metrics]
    return {key: value for key, value in metrics.items() if not NOT_COMPARED.search(key)}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_rows_are_stamped_as_by_nemo_gyms_collector(
    command: Command, gym: Gym, tmp_path: Path, environment: str
) -> None:
    """The server before an agent is found through the head server, and rows have its name and type, as NeMo Gym's have."""
    ran = command(*arguments_of(gym, environment))
    assert ran.code == 0, ran.stderr
    gym.collect(tmp_path / "theirs", *arguments_of(gym, environment)[1:3])
    rows, expected = read_rows(tmp_path / "r.jsonl"), read_rows(tmp_path / "theirs" / "r.jsonl")
    stamps = ("_ng_environment_server", "_ng_result_type")
    assert [[row[stamp] for stamp in stamps] for row in rows] == [[row[stamp] for stamp in stamps] for row in expected]
    assert {row["_ng_result_type"] for row in rows} == {"legacy_agent"}
    assert {row["_ng_environment_server"] for row in rows} <= set(gym.environment_servers)


def test_sources_of_rows_name_their_agents(command: Command, gym: Gym, tmp_path: Path) -> None:
    """Rows with `task_source` go to the agents that NeMo Gym's collector sends them to, and keep their source."""
    rows = []
    for environment in ENVIRONMENTS:
        # The entry of a resources server stands for the only agent that uses it; an agent's entry for itself.
        sources = (gym.entry(f"{environment}_simple_agent")["resources_server"]["name"], f"{environment}_simple_agent")
        rows += [
            {**row, "task_source": source}
            for row, source in zip(read_rows(gym.data(environment)), sources, strict=False)
        ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"+input_jsonl_fpath={tmp_path / 't.jsonl'}"
    ran = command(data, *ours(gym))
    assert ran.code == 0, ran.stderr
    gym.collect(tmp_path / "theirs", data)
    collected = read_rows(tmp_path / "r.jsonl")
    expected = sorted(read_rows(tmp_path / "theirs" / "r.jsonl"), key=itemgetter("_ng_task_index"))
    assert [row["task_source"] for row in collected] == [row["task_source"] for row in rows]
    for name in ("task_source", "agent_ref", "_ng_environment_server", "reward"):
        assert [row[name] for row in collected] == [row[name] for row in expected], name


def test_source_without_an_agent_is_an_error_of_both(command: Command, gym: Gym, tmp_path: Path) -> None:
    """A `task_source` that is not an entry that data belong to is an error before anything is sent."""
    (tmp_path / "t.jsonl").write_text('{"responses_create_params": {"input": "?"}, "task_source": "policy_model"}\n')
    before = gym.model_requests
    ran = command("+input_jsonl_fpath=t.jsonl", *ours(gym))
    assert (ran.code, "task_source 'policy_model'" in ran.stderr) == (2, True), ran.stderr
    with pytest.raises(AssertionError, match="policy_model"):
        gym.collect(tmp_path / "theirs", f"+input_jsonl_fpath={tmp_path / 't.jsonl'}")
    assert gym.model_requests == before


@pytest.mark.parametrize("outcomes", [OUTCOMES, OUTCOMES[2:3]], ids=["some rows", "all rows"])
def test_masked_rows_leave_every_figure(
    command: Command, gym: Gym, tmp_path: Path, scripted: Callable[..., list[str]], outcomes: list[list[Json]]
) -> None:
    """Masked rows are in the output and in no figure: both collectors, and NeMo Gym's aggregate of our output, agree."""
    tasks = [*scripted(outcomes), "+num_repeats=3"]
    ran = command(*tasks, *ours(gym))
    assert ran.code == 0, ran.stderr
    assert keys_of(tmp_path / "r.jsonl") == [(task, index) for task in range(len(outcomes)) for index in range(3)]
    masks = [bool(row["mask_sample"]) for row in read_rows(tmp_path / "r.jsonl")]
    assert masks == ["mask_sample" in outcome for task in outcomes for outcome in task]
    gym.collect(tmp_path / "theirs", *tasks)
    gym.run("aggregate", tmp_path, *gym.head_server, "+input_glob=r.jsonl", "+output_jsonl_fpath=again/a.jsonl")
    entry = only_entry(tmp_path / "r_aggregate_metrics.json")
    for path in ("theirs/r_aggregate_metrics.json", "again/a_aggregate_metrics.json"):
        expected = only_entry(tmp_path / path)
        for name in ("agent_ref", "_ng_environment_server", *FIGURES):
            assert_same(entry[name], expected[name], f"{path}: {name}")
    valid = [row["reward"] for task in outcomes for row in task if "mask_sample" not in row]
    averages = json.loads(ran.stdout[ran.stdout.rindex("\n{") :])
    assert averages.get("reward") == (pytest.approx(sum(valid) / len(valid)) if valid else None)
    assert "mask_sample" not in averages


@pytest.mark.parametrize("outcomes", [OUTCOMES, OUTCOMES[2:3]], ids=["some rows", "all rows"])
def test_figures_that_are_computed_here_are_those_of_nemo_gym(
    command: Command, gym: Gym, tmp_path: Path, scripted: Callable[..., list[str]], outcomes: list[list[Json]]
) -> None:
    """Without the agent's own metrics, each figure that NeMo Gym computes for every environment has the same value."""
    ran = command(*scripted(outcomes), "+num_repeats=3", *ours(gym), "+agent_side_metrics=never")
    assert ran.code == 0, ran.stderr
    gym.run("aggregate", tmp_path, *gym.head_server, "+input_glob=r.jsonl", "+output_jsonl_fpath=again/a.jsonl")
    entry, expected = (
        only_entry(tmp_path / "r_aggregate_metrics.json"),
        only_entry(tmp_path / "again/a_aggregate_metrics.json"),
    )
    for name in FIGURES:
        assert_same(common(entry[name]), common(expected[name]), name)


def test_profile_and_aggregate_of_nemo_gym_read_our_output(
    command: Command, gym: Gym, tmp_path: Path, scripted: Callable[..., list[str]]
) -> None:
    """Its profile counts the rows and masks of our output, with the mean of each task."""
    ran = command(*scripted(OUTCOMES), "+num_repeats=3", *ours(gym), "+materialized_inputs=true")
    assert ran.code == 0, ran.stderr
    files = ["++materialized_inputs_jsonl_fpath=r_materialized_inputs.jsonl", "++rollouts_jsonl_fpath=r.jsonl"]
    printed = gym.run("profile", tmp_path, *files)
    assert "12/12 rollout rows" in printed
    assert "Masked from quality metrics: 5 rollout rows" in printed
    profile = {row["_ng_task_index"]: row for row in read_rows(tmp_path / "r_reward_profiling.jsonl")}
    for number, task in enumerate(OUTCOMES):
        valid = [outcome["reward"] for outcome in task if "mask_sample" not in outcome]
        if valid:
            assert profile[number]["mean/reward"] == pytest.approx(
                sum(valid) / len(valid), rel=TOLERANCE, abs=TOLERANCE
            )


def test_resume_completes_an_output_with_failed_judges(
    command: Command, gym: Gym, tmp_path: Path, scripted: Callable[..., list[str]]
) -> None:
    """Of an output of NeMo Gym's collector, masked rows are done; a torn line and each failure are requested once."""
    outcomes = [[*task] for task in OUTCOMES]
    outcomes[1][2] = {"reward": 0.2, "judge_failed": True}
    outcomes[3][0] = {"reward": 0.0, "judge_failed": True}
    tasks = [*scripted(outcomes), "+num_repeats=3"]
    folder = tmp_path / "theirs"
    gym.collect(folder, *tasks)
    failures = read_rows(folder / "r_failures.jsonl")
    assert sorted((row["_ng_task_index"], row["_ng_rollout_index"]) for row in failures) == [(1, 2), (3, 0)]
    lines = (folder / "r.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "r.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:100])
    collected = rows_by_key(lines[:-1])
    before = gym.model_requests
    ran = command(*tasks, *ours(gym, "theirs/r.jsonl"), RESUME)
    assert (ran.code, "9 of 12 rollouts are collected" in ran.stderr) == (0, True), ran.stderr
    assert gym.model_requests - before == 3
    rows = read_rows(folder / "r.jsonl")
    assert keys_of(folder / "r.jsonl") == [(task, index) for task in range(4) for index in range(3)]
    kept = {key: row for row in rows if (key := (row["_ng_task_index"], row["_ng_rollout_index"])) in collected}
    assert kept == collected
    assert [row["reward"] for row in rows] == [outcome["reward"] for task in outcomes for outcome in task]
    assert sum(bool(row["mask_sample"]) for row in rows) == 5


def test_nemo_gym_resumes_our_output(
    command: Command, gym: Gym, tmp_path: Path, scripted: Callable[..., list[str]]
) -> None:
    """Its collector requests only the rollouts that failed in our run, and reads our failures file as attempts."""
    outcomes = [[*task] for task in OUTCOMES]
    outcomes[1][2] = {"reward": 0.2, "judge_failed": True}
    tasks = [*scripted(outcomes), "+num_repeats=3"]
    settings = ["+materialized_inputs=true", "+incomplete_groups=keep", "+max_attempts=1"]
    ran = command(*tasks, *ours(gym), *settings)
    assert ran.code == 1, ran.stderr
    [failure] = read_rows(tmp_path / "r_failures.jsonl")
    assert failure["_ng_failure_class"] == "judge_failed"
    assert failure["response"]["output"]
    before = gym.model_requests
    gym.run("collect", tmp_path, *tasks, *gym.head_server, "+output_jsonl_fpath=r.jsonl", RESUME)
    assert gym.model_requests - before == 1
    rewards = {
        (row["_ng_task_index"], row["_ng_rollout_index"]): row["reward"] for row in read_rows(tmp_path / "r.jsonl")
    }
    assert len(rewards) == 12
    assert rewards[1, 2] == 0.2
