"""Interoperability with the servers, the files and the commands of NeMo Gym, in each release that is tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RESUME, Ran, keys_of, read_rows
from tests.interop.gym import ENVIRONMENTS, Gym, arguments_of, collect_with_nemo_gym, rows_by_key

pytestmark = pytest.mark.interop

Command = Callable[..., Ran]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_agents_of_nemo_gym_answer_rollouts(command: Command, gym: Gym, tmp_path: Path, environment: str) -> None:
    """An agent is found by name through the head server, and its scored rollouts are written in order."""
    ran = command(*arguments_of(gym, environment), "+num_repeats=3", "+num_samples_in_parallel=16")
    assert ran.code == 0, ran.stderr
    rows = read_rows(tmp_path / "r.jsonl")
    assert keys_of(tmp_path / "r.jsonl") == [(task, index) for task in range(5) for index in range(3)]
    reward = json.loads((tmp_path / "r_summary.json").read_text())["means"]["reward"]
    assert reward == pytest.approx(sum(row["reward"] for row in rows) / 15)
    assert ran.stdout.endswith(json.dumps({"reward": reward}, indent=4) + "\n")
    kinds = {item["type"] for row in rows for item in row["response"]["output"]}
    if environment == "mcqa":
        assert 0 < reward < 1
        assert {row["extracted_answer"] for row in rows} == {"E"}
    else:
        assert {"function_call", "function_call_output", "message"} <= kinds
        assert any(message["role"] == "tool" for message in rows[0]["output"])
    if environment == "example_session_state_mgmt":
        assert reward == 1.0


@pytest.mark.parametrize(
    ("arguments", "seeds"),
    [
        (["+responses_create_params.seed=42"], {42}),
        (["+num_repeats=3", "+num_repeats_add_seed=true"], {0, 1, 2}),
    ],
    ids=["one seed", "a seed for each rollout"],
)
def test_seeds_reach_the_model(command: Command, gym: Gym, arguments: list[str], seeds: set[int]) -> None:
    """Seeds reach the model in `metadata.extra_body`, together with the other sampling parameters."""
    ran = command(*arguments_of(gym, "mcqa"), *arguments, "+responses_create_params.temperature=0.7", "+limit=2")
    assert ran.code == 0, ran.stderr
    last = gym.model.stats()["last"][-2 * len(seeds) :]
    assert {json.loads(request["metadata"]["extra_body"])["seed"] for request in last} == seeds
    assert {request["temperature"] for request in last} == {0.7}


def test_metrics_are_those_of_nemo_gyms_collector(command: Command, gym: Gym, tmp_path: Path) -> None:
    """Both collectors report the metrics that the agent computes, and have the same rewards."""
    collect_with_nemo_gym(gym, tmp_path / "nemo_gym_output", "mcqa", "+num_repeats=2")
    ran = command(*arguments_of(gym, "mcqa"), "+num_repeats=2")
    assert "Key metrics for mcqa_simple_agent:" in ran.stdout
    (expected,) = json.loads((tmp_path / "nemo_gym_output" / "r_aggregate_metrics.json").read_text())
    (entry,) = json.loads((tmp_path / "r_aggregate_metrics.json").read_text())
    for name in ("agent_ref", "agent_metrics", "key_metrics", "group_level_metrics"):
        assert entry[name] == expected[name], name
    rewards = {
        (row["_ng_task_index"], row["_ng_rollout_index"]): row["reward"] for row in read_rows(tmp_path / "r.jsonl")
    }
    assert rewards == {
        (row["_ng_task_index"], row["_ng_rollout_index"]): row["reward"]
        for row in read_rows(tmp_path / "nemo_gym_output" / "r.jsonl")
    }


def test_resume_completes_the_output_of_nemo_gyms_collector(command: Command, gym: Gym, tmp_path: Path) -> None:
    """A resume keeps the rows of an unordered output with a torn line, and requests each missing rollout once."""
    folder = tmp_path / "nemo_gym_output"
    collect_with_nemo_gym(gym, folder, "mcqa", "+num_repeats=2", "+num_repeats_add_seed=true")
    lines = (folder / "r.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "r.jsonl").write_bytes(b"".join(lines[6::-1]) + lines[7][:100])
    failed = {**json.loads(lines[8]), "_ng_failure_class": "sandbox_crashed"}
    (folder / "r_failures.jsonl").write_text(json.dumps(failed) + "\n")
    collected = rows_by_key(lines[:7])
    requests_before = gym.model_requests
    repeats = ["+num_repeats=3", "+num_repeats_add_seed=true"]
    ran = command(*arguments_of(gym, "mcqa", "nemo_gym_output/r.jsonl"), *repeats, RESUME)
    assert (ran.code, "7 of 15 rollouts are collected" in ran.stderr) == (0, True), ran.stderr
    assert gym.model_requests - requests_before == 8
    rows = read_rows(folder / "r.jsonl")
    assert keys_of(folder / "r.jsonl") == [(task, index) for task in range(5) for index in range(3)]
    kept = {key: row for row in rows if (key := (row["_ng_task_index"], row["_ng_rollout_index"])) in collected}
    assert kept == collected


def test_reward_profile_of_nemo_gym_reads_our_output(command: Command, gym: Gym, tmp_path: Path) -> None:
    """NeMo Gym's reward profile reads the output and the materialized inputs of this program."""
    assert command(*arguments_of(gym, "mcqa"), "+num_repeats=2", "+materialized_inputs=true").code == 0
    files = ["++materialized_inputs_jsonl_fpath=r_materialized_inputs.jsonl", "++rollouts_jsonl_fpath=r.jsonl"]
    gym.run("profile", tmp_path, *files)
    assert len(read_rows(tmp_path / "r_reward_profiling.jsonl")) == 5


def test_rows_go_to_the_agents_that_they_name(command: Command, gym: Gym, tmp_path: Path) -> None:
    """Each row is sent to the agent in its `agent_ref`, as many times as `num_repeats` says for that agent."""
    rows = []
    for environment in ENVIRONMENTS:
        reference = {"type": "responses_api_agents", "name": f"{environment}_simple_agent"}
        rows += [{**row, "agent_ref": reference} for row in read_rows(gym.data(environment))[:2]]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    repeats = "+num_repeats={mcqa_simple_agent: 3, _default: 1}"
    ran = command(f"+head_server.port={gym.port}", "+input_jsonl_fpath=t.jsonl", "+output_jsonl_fpath=r.jsonl", repeats)
    assert ran.code == 0, ran.stderr
    agents = [row["agent_ref"]["name"].removesuffix("_simple_agent") for row in read_rows(tmp_path / "r.jsonl")]
    assert agents == ["mcqa"] * 6 + ["example_single_tool_call"] * 2 + ["example_session_state_mgmt"] * 2
    assert set(ran.stdout.split()) >= {f"{environment}_simple_agent:" for environment in ENVIRONMENTS}


def test_rejected_field_fails_without_a_retry(command: Command, gym: Gym, tmp_path: Path) -> None:
    """A field that the agent rejects with a 422 fails the rollout after one attempt, with the agent's message."""
    rows = read_rows(gym.data("mcqa"))[:3]
    rows[1]["responses_create_params"]["frequency_penalty"] = 0.5
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = command(*arguments_of(gym, "mcqa")[:2], "+input_jsonl_fpath=t.jsonl", "+output_jsonl_fpath=r.jsonl")
    (failure,) = read_rows(tmp_path / "r_failures.jsonl")
    assert (ran.code, failure["failure_class"], failure["num_attempts"]) == (1, "http_422", 1)
    assert "frequency_penalty" in failure["message"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_model_agent_gives_the_rewards_of_nemo_gyms_agent(
    command: Command, gym: Gym, tmp_path: Path, environment: str
) -> None:
    """A model agent over NeMo Gym's model and resources servers gives the same outputs and rewards as NeMo Gym's agent."""
    assert command(*arguments_of(gym, environment, "agent.jsonl")).code == 0
    ran = command(
        f"+policy_base_url={gym.url_behind(f'{environment}_simple_agent', 'model_server')}/v1",
        "+policy_model_name=any",
        f"+resources_base_url={gym.url_behind(f'{environment}_simple_agent', 'resources_server')}",
        f"+input_jsonl_fpath={gym.data(environment)}",
        "+output_jsonl_fpath=r.jsonl",
    )
    assert ran.code == 0, ran.stderr
    ours, through_agent = read_rows(tmp_path / "r.jsonl"), read_rows(tmp_path / "agent.jsonl")
    assert [row["reward"] for row in ours] == [row["reward"] for row in through_agent]
    assert [row["output"] for row in ours] == [row["output"] for row in through_agent]
