"""Rollouts whose environment says that their result is not a measurement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.metrics.group_aggregator import GroupAggregator
from ng_rollouts.metrics.result_rows import scores_of_row, stats_of
from ng_rollouts.types import RolloutKey
from tests.conftest import FILES, Ran, read_rows
from tests.servers import Served

NOT_MASKED: list[object] = [False, None, 0, 0.0, "", []]
MASKED: list[object] = [True, 1.0, "false", [0]]

members = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.booleans()), min_size=1, max_size=5)


@pytest.mark.parametrize("value", NOT_MASKED)
def test_rows_with_a_false_mask_are_measured(value: object) -> None:
    """A false, empty or missing `mask_sample` changes nothing, and is not a score."""
    row = {"reward": 0.5, "mask_sample": value, "failure_kind": "agent_timeout"}
    assert scores_of_row(row) == {"reward": 0.5}
    assert stats_of(row).masked is None


@pytest.mark.parametrize("value", MASKED)
def test_rows_with_a_true_mask_have_no_scores(value: object) -> None:
    """Any true `mask_sample` masks, as in NeMo Gym, and the reason is the `failure_kind`."""
    row = {"reward": 0.0, "accuracy": 1, "mask_sample": value, "failure_kind": "session_lost"}
    assert scores_of_row(row) == {}
    assert stats_of(row).masked == "session_lost"
    assert stats_of({"mask_sample": value}).masked == "no_kind"


def test_nested_masks_do_not_mask() -> None:
    """Only the top-level field masks."""
    assert stats_of({"reward": 1.0, "instance_config": {"mask_sample": True}}).masked is None


def test_masked_rollouts_still_count_their_tokens() -> None:
    """Tokens of a masked rollout were paid for."""
    row = {"mask_sample": True, "response": {"usage": {"input_tokens": 3, "output_tokens": 4}}}
    assert stats_of(row).tokens == {"input_tokens": 3, "output_tokens": 4}


@given(st.lists(members, max_size=6))
def test_statistics_are_those_of_the_measured_rollouts_alone(groups: list[list[tuple[float, bool]]]) -> None:
    """With masked rollouts, all metrics but the coverage equal those of a file without these rollouts."""
    with_masks, alone = AgentStats(), AgentStats()
    for group in groups:
        rows = [{"reward": reward, "mask_sample": masked} for reward, masked in group]
        with_masks.add([stats_of(row) for row in rows])
        if measured := [stats_of(row) for row in rows if not row["mask_sample"]]:
            alone.add(measured)
    with_masks.end()
    alone.end()
    metrics = with_masks.nemo_gym_metrics()
    coverage = {name: metrics.pop(name) for name in list(metrics) if name.startswith("coverage/")}
    assert metrics == alone.nemo_gym_metrics()
    masked = sum(is_masked for group in groups for _, is_masked in group)
    if not masked:
        assert coverage == {}
        return
    assert coverage == {
        "coverage/measured_rollouts": sum(map(len, groups)) - masked,
        "coverage/masked_rollouts": masked,
        "coverage/measured_tasks": sum(not all(is_masked for _, is_masked in group) for group in groups),
        "coverage/fully_masked_tasks": sum(all(is_masked for _, is_masked in group) for group in groups),
    }


def test_masked_rollouts_complete_a_group() -> None:
    """A group with a masked rollout is complete, and has the metrics of the others; a fully masked task has none."""
    aggregator = GroupAggregator(lambda _: 2)
    for task, masks in enumerate([(False, True), (True, True)]):
        for index, mask in enumerate(masks):
            aggregator.record(RolloutKey(task, index), "a", stats_of({"reward": 1.0, "mask_sample": mask}))
    aggregator.end()
    metrics = aggregator.agents["a"]
    assert [group["_ng_task_index"] for group in metrics.group_metrics()] == [0]
    assert (metrics.stats.rollouts, metrics.stats.masked.total()) == (1, 3)


@pytest.fixture
def half_masked(tmp_path: Path) -> list[str]:
    """A Python agent that masks every second task, and gives reward 1 to the others."""
    (tmp_path / "masking.py").write_text(
        "async def run(row, client):\n"
        "    number = row['n']\n"
        "    masked = {'mask_sample': True, 'failure_kind': 'session_lost', 'reward': 0.0, 'accuracy': 0.0}\n"
        "    return masked if number % 2 else {'reward': 1.0, 'accuracy': 1.0, 'mask_sample': False}\n"
    )
    rows = [{"n": n, "responses_create_params": {"input": f"question {n}"}} for n in range(4)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "+agents.masking._target_=masking.run",
        "+agent_name=masking",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=r.jsonl",
        "+num_repeats=2",
    ]


def test_masked_rollouts_are_in_no_average_and_are_counted(
    command: Callable[..., Ran], half_masked: list[str], tmp_path: Path
) -> None:
    """Masked rows stay in the output as they came; averages leave them out, and the last lines say how many."""
    ran = command(*half_masked)
    assert ran.code == 0, ran.stderr
    assert json.loads(ran.stdout[ran.stdout.index("{") :]) == {"reward": 1.0, "accuracy": 1.0}
    rows = read_rows(tmp_path / "r.jsonl")
    assert len(rows) == 8
    assert [row["mask_sample"] for row in rows] == [False, False, True, True] * 2
    assert "masked: 4 of 8 are not measurements (session_lost: 4)" in ran.stderr
    assert "4 of 8 rollouts: 4 masked)" in ran.stderr
    summary = json.loads((tmp_path / "r_summary.json").read_text())
    assert (summary["valid"], summary["masked"], summary["means"]["reward"]) == (4, {"session_lost": 4}, 1.0)
    [entry] = json.loads((tmp_path / "r_aggregate_metrics.json").read_text())
    assert entry["key_metrics"]["mean/reward"] == 1.0
    assert entry["key_metrics"]["coverage/fully_masked_tasks"] == 2


def test_masked_rollouts_are_done_on_a_resume(command: Callable[..., Ran], half_masked: list[str]) -> None:
    """A resume does not ask again for a masked rollout, and counts it as before."""
    command(*half_masked, "+limit=2")
    ran = command(*half_masked, "+resume_from_cache=true")
    assert "masked: 4 of 8" in ran.stderr
    assert json.loads(ran.stdout[ran.stdout.index("{") :])["reward"] == 1.0


def test_gates_do_not_count_masked_rollouts(command: Callable[..., Ran], half_masked: list[str]) -> None:
    """A run of which half is masked has a coverage of a half."""
    assert command(*half_masked, "+min_mean.reward=0.9", "+min_coverage=0.5").code == 0
    ran = command(*half_masked, "+min_coverage=0.6")
    assert (ran.code, "coverage is 0.5" in ran.stderr) == (5, True)


def test_commands_that_read_leave_out_masked_rollouts(
    command: Callable[..., Ran], half_masked: list[str], tmp_path: Path
) -> None:
    """Profile, comparison and exports use the measured rollouts, and say how many are masked."""
    command(*half_masked)
    (tmp_path / "other.jsonl").write_bytes((tmp_path / "r.jsonl").read_bytes())
    profile = command("+rollouts_jsonl_fpath=r.jsonl", script="ng_reward_profile")
    assert "Masked, in no statistic: 4 rollouts (session_lost: 4)" in profile.stdout
    assert [row["_ng_task_index"] for row in read_rows(tmp_path / "r_reward_profiling.jsonl")] == [0, 2]
    compared = command("+rollouts_jsonl_fpaths=r.jsonl,other.jsonl", script="ng_compare_rollouts")
    assert "r.jsonl  over 4 of 8 rollouts: 4 masked" in compared.stdout
    assert compared.stdout.startswith("reward over 2 tasks")


def test_exports_leave_out_masked_rollouts_unless_they_are_kept(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Masked rollouts are skipped with a count; `keep_masked` keeps them; `min_valid_per_group` drops whole tasks."""
    answer = {"output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}]}
    rows = [
        {
            "_ng_task_index": task,
            "_ng_rollout_index": index,
            "responses_create_params": {"input": f"q{task}"},
            "response": answer,
            "reward": float(index),
            "mask_sample": mask,
        }
        for task, masks in enumerate([(False, True), (False, False)])
        for index, mask in enumerate(masks)
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def export(*more: str) -> list[dict[str, object]]:
        files = ["+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=x.jsonl", "+overwrite=true"]
        ran = command(*files, *more, script="ng_export_rollouts")
        assert ran.code == 0, ran.stderr
        return read_rows(tmp_path / "x.jsonl")

    assert len(export("+recipe=sft")) == 3
    assert len(export("+recipe=sft", "+keep_masked=true")) == 4
    assert [row["valid"] for row in export("+recipe=rl")] == [[True, False], [True, True]]
    assert [row["_ng_task_index"] for row in export("+recipe=rl", "+min_valid_per_group=2")] == [1]


def test_coverage_is_that_of_each_agent(
    command: Callable[..., Ran], serve: Callable[..., Served], tmp_path: Path
) -> None:
    """With several agents, each line counts the agent's own masked rollouts, and one line those of all agents."""
    replies = [{"reward": 1.0}, {"reward": 0.0, "mask_sample": True}, {"reward": 1.0}]
    masked = {"reward": 0.0, "mask_sample": True, "failure_kind": "session_lost"}
    rows = [{"agent_ref": {"name": name}, "responses_create_params": {"input": "q"}} for name in "aaabb"]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    agents = [f"+agents.a.url={serve(replies=replies).url}", f"+agents.b.url={serve(replies=[masked]).url}"]
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+num_samples_in_parallel=1"]
    ran = command(*files, *agents)
    assert ran.code == 0, ran.stderr
    assert "a: reward 1.000 ± 0.000 (95 % interval, over 2 tasks; 2 of 3 rollouts: 1 masked)" in ran.stderr
    assert "b: no scores (over 0 tasks; 0 of 2 rollouts: 2 masked)" in ran.stderr
    assert "all agents: 2 of 5 rollouts: 3 masked" in ran.stderr
    summary = json.loads((tmp_path / "r_summary.json").read_text())
    assert (summary["measured"], summary["coverage"]) == (2, 0.4)


def test_masked_rollouts_have_no_problems_of_responses(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path]
) -> None:
    """An empty answer of a masked rollout is not a problem: its environment says that it measures nothing."""
    empty = {"output": [{"type": "message", "content": [{"type": "output_text", "text": ""}]}], "status": "completed"}
    tasks(2)
    server = serve(replies=[{"reward": 0.0, "mask_sample": True, "response": empty}, {"reward": 1.0}])
    ran = command(*FILES, f"+agent_url={server.url}", "+num_samples_in_parallel=1", "+fail_on=[empty]")
    assert (ran.code, "problems:" in ran.stderr) == (0, False), ran.stderr
