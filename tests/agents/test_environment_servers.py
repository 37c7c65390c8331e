"""Environment servers of NeMo Gym 0.7: found by the head server, asked before the agent, with episodes as well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.agents.episodes import result_of_episode
from ng_rollouts.errors import AttemptFailed
from tests.conftest import ROOT, Ran, read_rows

CASES = ROOT / "tests" / "gym07"
REPLIES = [json.loads(line) for line in (CASES / "10_episode_replies.jsonl").read_text().splitlines()]
FILES = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+wait_for_agent_s=0"]


def config_of(agent_port: int, environments: dict[str, tuple[str, int]]) -> str:
    """The configuration of an agent `a`, and of environment servers before it, by type and port."""
    agent = {"host": "127.0.0.1", "port": agent_port, "resources_server": {"type": "resources_servers", "name": "r"}}
    entries: dict[str, Any] = {"a": {"responses_api_agents": {"simple_agent": agent}}}
    for name, (kind, port) in environments.items():
        before = {"agent_server": {"type": "responses_api_agents", "name": "a"}}
        entries[name] = {"environment_servers": {kind: {"host": "127.0.0.1", "port": port, **before}}}
    return json.dumps(entries)  # JSON is YAML


def port_of(server: Any) -> int:
    """The port of a server."""
    return int(server.url.rpartition(":")[2])


def test_rows_go_to_the_environment_server_before_their_agent(
    command: Callable[..., Ran], serve: Callable[..., Any], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """The agent itself is not asked; rows are marked with the server and its type, and metrics come from it."""
    agent = serve()
    metrics = {"agent_metrics": {"mean/reward": 1.0}, "key_metrics": {"mean/reward": 1.0}, "group_level_metrics": []}
    environment = serve(own_metrics=[200, json.dumps(metrics)])
    head = serve(config=config_of(port_of(agent), {"relay": ("legacy_agent", port_of(environment))}))
    tasks(3)
    ran = command(*FILES, "+agent_name=a", f"+head_server.port={port_of(head)}")
    assert ran.code == 0, ran.stderr
    assert (agent.stats()["total"], environment.stats()["total"]) == (0, 3)
    for row in read_rows(tmp_path / "r.jsonl"):
        assert (row["_ng_environment_server"], row["_ng_result_type"]) == ("relay", "legacy_agent")
        assert row["agent_ref"]["name"] == "a"
    assert "Key metrics for a:" in ran.stdout
    [entry] = json.loads((tmp_path / "r_aggregate_metrics.json").read_text())
    assert (entry["agent_ref"], entry["_ng_environment_server"]) == ({"name": "a"}, "relay")


def test_row_has_the_id_and_the_attempt_that_name_its_captures(
    command: Callable[..., Ran], serve: Callable[..., Any], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """The id of a rollout differs between commands; `_ng_attempt_index` is in rows of later attempts, as in NeMo Gym's."""
    tasks(1)
    ids = []
    for replies in ([{"reward": 1.0}], [{"reward": 0.0, "_ng_failure_class": "sandbox_crashed"}, {"reward": 1.0}]):
        agent = serve(replies=replies)
        head = serve(config=config_of(port_of(agent), {}))
        run = ["+agent_name=a", f"+head_server.port={port_of(head)}", "+max_attempts=2", "+overwrite=true"]
        ran = command(*FILES, *run)
        assert ran.code == 0, ran.stderr
        [row] = read_rows(tmp_path / "r.jsonl")
        assert row.get("_ng_attempt_index", 0) == len(replies) - 1
        assert {request["_ng_rollout_id"] for request in agent.stats()["last"][: len(replies)]} == {
            row["_ng_rollout_id"]
        }
        ids.append(row["_ng_rollout_id"])
    assert len(set(ids)) == 2


def test_environment_servers_that_cannot_be_chosen_are_usage_errors(
    command: Callable[..., Ran], serve: Callable[..., Any], tasks: Callable[..., Path]
) -> None:
    """Several servers before an agent, or one that takes no flat rows, are errors before anything is sent."""
    tasks(1)
    for environments, message in (
        ({"one": ("legacy_agent", 1), "two": ("legacy_agent", 2)}, "behind several environment servers (one, two)"),
        ({"one": ("single_agent_turn", 1)}, "takes materialized rows only"),
    ):
        head = serve(config=config_of(1, environments))
        ran = command(*FILES, "+agent_name=a", f"+head_server.port={port_of(head)}")
        assert (ran.code, message in ran.stderr) == (2, True), ran.stderr


def test_legacy_mode_sends_all_flat_rows_to_one_server(
    command: Callable[..., Ran], serve: Callable[..., Any], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """With `environment_routing_mode=legacy`, the named server answers for every agent; an unknown name is an error."""
    tasks(2)
    environment = serve()
    servers = {"one": ("legacy_agent", port_of(environment)), "two": ("legacy_agent", 2)}
    head = serve(config=config_of(1, servers))
    run = [*FILES, "+agent_name=a", f"+head_server.port={port_of(head)}", "+environment_routing_mode=legacy"]
    assert command(*run, "+environment_server_name=one").code == 0
    assert {row["_ng_environment_server"] for row in read_rows(tmp_path / "r.jsonl")} == {"one"}
    ran = command(*run, "+environment_server_name=ona")
    assert (ran.code, "did you mean one?" in ran.stderr) == (2, True)
    assert "go together" in command(*run).stderr


def test_materialized_rows_are_episodes_of_the_server_of_their_task_set(
    command: Callable[..., Ran], serve: Callable[..., Any], tmp_path: Path
) -> None:
    """An episode's request has its ids and the task alone, and its row the result, without an agent."""
    turn = serve(replies=[REPLIES[0]])
    agent = serve()
    head = serve(config=config_of(port_of(agent), {"turn": ("single_agent_turn", port_of(turn))}))
    rows = [json.loads(line) for line in (CASES / "09_materialized.jsonl").read_text().splitlines()]
    # The agent `a` is behind the same server, which takes no flat rows: the flat one has its own address.
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = [*FILES, "+num_repeats=2", f"+head_server.port={port_of(head)}", f"+agents.a.url={agent.url}"]
    ran = command(*run, '+environment_server_routes={"env:ts": "turn"}', "+num_samples_in_parallel=1")
    assert ran.code == 0, ran.stderr
    sent = turn.stats()["last"]
    task = {"task_id": {"taskset": "env:ts", "task_id": "t1"}, "task_input": {}}
    assert sent[2] == {"episode_id": {"rollout_id": "7-0", "attempt": 0}, "task": task}
    collected = read_rows(tmp_path / "r.jsonl")
    assert [(row["_ng_task_index"], row["_ng_rollout_index"]) for row in collected] == [
        *((0, 0), (0, 1), (7, 0), (7, 1)),
        *((2, 0), (2, 1)),
    ]
    for row in collected[:4]:
        assert (row["reward"], row["steps"]) == (0.5, 3)
        assert (row["_ng_environment_server"], row["_ng_result_type"]) == ("turn", "single_agent_turn")
        assert row["_ng_task_id"]["taskset"] == "env:ts"
        assert "agent_ref" not in row
    assert agent.stats()["asked"] == {"2/0": 1, "2/1": 1}
    entries = json.loads((tmp_path / "r_aggregate_metrics.json").read_text())
    assert [entry["agent_ref"]["name"] for entry in entries] == ["turn", "a"]
    assert command(*run, '+environment_server_routes={"env:ts": "turn"}', "+resume_from_cache=true").code == 0
    assert turn.stats()["total"] == 4


@pytest.mark.parametrize(
    "setting", ["+responses_create_params.temperature=0.5", "+num_repeats_add_seed=true"], ids=["overrides", "seeds"]
)
def test_settings_that_would_change_a_materialized_row_are_errors(
    command: Callable[..., Ran], tasks: Callable[..., Path], setting: str
) -> None:
    """The input of a materialized row belongs to its environment."""
    tasks([{"task_id": {"taskset": "t", "task_id": "0"}, "task_input": {}}])
    ran = command(*FILES, "+environment_server_routes.t=turn", setting)
    assert (ran.code, "cannot change a materialized row" in ran.stderr) == (2, True), ran.stderr
    ran = command(*FILES)
    assert (ran.code, "no environment server for the task set 't'" in ran.stderr) == (2, True), ran.stderr


def test_materialized_rows_are_flat_ones_for_a_model_server(
    command: Callable[..., Ran], serve_model: Callable[..., Any], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Without an environment server, an agent over a model server answers the input of a materialized row."""
    row = {"responses_create_params": {"input": "What is 1 + 2?"}, "expected_answer": "3"}
    tasks([{"task_id": {"taskset": "t", "task_id": "first"}, "task_input": row}])
    ran = command(*FILES, f"+policy_base_url={serve_model().url}/v1", "+verifier=exact_match")
    assert ran.code == 0, ran.stderr
    [collected] = read_rows(tmp_path / "r.jsonl")
    assert (collected["prompt_id"], "reward" in collected) == ("first", True)


def test_replies_to_episodes_are_results_or_failures() -> None:
    """A result is an object without the collector's own fields; a failure keeps stage, kind and partial response."""
    assert result_of_episode(REPLIES[0])["reward"] == 0.5
    assert result_of_episode(REPLIES[3]) == {"outcome": {"reward": 1.0}}
    for reply, stage in ((REPLIES[1], "verification"), (REPLIES[2], None)):
        with pytest.raises(AttemptFailed) as raised:
            result_of_episode(reply)
        failed = raised.value
        assert (failed.failure_class, failed.terminal) == ("environment_server_failed", False)
        assert failed.kept.get("_ng_failure_stage") == stage
    with pytest.raises(AttemptFailed) as raised:
        result_of_episode(REPLIES[1])
    assert raised.value.kept["_ng_failure_partial_response"] == {"id": "r", "output": []}
    assert raised.value.kept["_ng_failure_kind"] == "verifier_error"
    for reply in REPLIES[4:]:
        with pytest.raises(AttemptFailed) as raised:
            result_of_episode(reply)
        assert (raised.value.failure_class, raised.value.retryable) == ("odd_reply", False)


def test_episode_without_a_reward_is_not_a_zero(
    command: Callable[..., Ran], serve: Callable[..., Any], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A result without a reward is a row that no mean counts; one that failed keeps what the server said."""
    tasks([{"task_id": {"taskset": "t", "task_id": str(n)}, "task_input": {}} for n in range(3)])
    server = serve(replies=[REPLIES[3], REPLIES[0], REPLIES[1]])
    run = [*FILES, "+environment_server_routes.t=turn", f"+agents.turn.url={server.url}", "+max_attempts=1"]
    ran = command(*run, "+num_samples_in_parallel=1")
    assert ran.code == 1, ran.stderr
    assert json.loads(ran.stdout[ran.stdout.index("{") :]) == {"reward": 0.5, "steps": 3.0}
    [failure] = read_rows(tmp_path / "r_failures.jsonl")
    assert failure["_ng_failure_class"] == failure["failure_class"] == "environment_server_failed"
    assert failure["_ng_failure_stage"] == "verification"


def test_answer_whose_judge_failed_is_kept_and_not_asked_for_again(
    command: Callable[..., Ran], serve: Callable[..., Any], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A reply that reports a failed judge is one attempt; the failures file has its answer, kind and reason."""
    reply = json.loads((CASES / "04_judge_failed_reply.jsonl").read_text())
    server = serve(replies=[reply])
    tasks(1)
    ran = command(*FILES, "+agent_name=a", f"+agent_url={server.url}")
    assert (ran.code, server.stats()["total"]) == (1, 1)
    assert "judge_failed, for example: quota" in ran.stderr
    assert "1 failed, 1 of them unscored: their answers are in r_failures.jsonl" in ran.stderr
    assert "asks for them again, because only the agent's own server or session could score" in ran.stderr
    assert read_rows(tmp_path / "r.jsonl") == []
    [failure] = read_rows(tmp_path / "r_failures.jsonl")
    assert failure["response"] == reply["response"]
    assert (failure["failure_kind"], failure["failure_reason"]) == ("judge_failed", "quota")
    assert (failure["_ng_failure_class"], failure["_ng_failure_judge_error"]) == ("judge_failed", "quota")


def test_trajectory_without_its_model_calls_says_so(
    command: Callable[..., Ran], serve: Callable[..., Any], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A trajectory whose calls were not captured gets NeMo Gym's gap, once, and stays as it is otherwise."""
    gap = {"code": "model_calls_unavailable"}
    turns = [{"answer": "hi", "model_calls": [{"model_call_id": "c1"}]}]
    trajectories = [{"turns": turns}, {"turns": turns, "gaps": [gap]}, {"turns": turns, "model_calls": [{"id": 1}]}]
    server = serve(replies=[{"reward": 1.0, "ng_trajectory": each} for each in trajectories])
    tasks(3)
    assert command(*FILES, "+agent_name=a", f"+agent_url={server.url}", "+num_samples_in_parallel=1").code == 0
    kept = [row["ng_trajectory"] for row in read_rows(tmp_path / "r.jsonl")]
    assert kept == [{"turns": turns, "gaps": [gap]}, *trajectories[1:]]


def test_each_rollout_of_a_listed_agent_has_its_own_id(
    command: Callable[..., Ran], serve: Callable[..., Any], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Ids differ between repeats and between commands, so that no capture is written to twice; the row has them."""
    agent = serve()
    head = serve(config=config_of(port_of(agent), {}))
    tasks(
        [{"responses_create_params": {"input": f"q{n}"}, **({"_ng_rollout_id": "mine"} if n else {})} for n in range(2)]
    )
    run = [*FILES, "+agent_name=a", f"+head_server.port={port_of(head)}", "+num_repeats=2", "+overwrite=true"]
    ids: list[str] = []
    for _ in range(2):
        assert command(*run).code == 0
        ids += [row["_ng_rollout_id"] for row in read_rows(tmp_path / "r.jsonl")]
    assert [each for each in ids if each.startswith("mine")] == ["mine", "mine.1"] * 2
    assert len({each for each in ids if not each.startswith("mine")}) == 4
    assert sorted(row["_ng_rollout_id"] for row in agent.stats()["last"]) == sorted(ids)
