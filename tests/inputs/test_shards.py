"""Shards: several commands over one input, each with its part of the tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import ConfigError
from ng_rollouts.inputs.shards import Shard, shard_of
from ng_rollouts.inputs.task_file import TaskFile
from tests.conftest import ROOT, Ran
from tests.inputs.helpers import parser_of


@given(
    indices=st.lists(st.none() | st.integers(20, 50), min_size=1, max_size=20),  # no row has such a position
    count=st.integers(1, 5),
    repeats=st.sampled_from([1, 3, {"a": 1, "b": 2}]),
)
def test_shards_divide_the_plan_without_splitting_groups(
    indices: list[int | None], count: int, repeats: int | dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each planned rollout is in exactly one shard with its key and its whole group, and can be located by its key."""
    path = tmp_path_factory.mktemp("shards") / "tasks.jsonl"
    rows = [
        {"responses_create_params": {"input": str(number)}, "agent_ref": {"name": "ab"[number % 2]}}
        | ({} if index is None else {"_ng_task_index": index})
        for number, index in enumerate(indices)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    undivided = TaskFile(path=path, parser=parser_of(None, repeats))
    expected = {rollout.key: rollout.row for rollout in undivided.rollouts(undivided.plan())}
    divided = {}
    for index in range(count):
        part = TaskFile(path=path, parser=parser_of(None, repeats), shard=Shard(index, count))
        plan = part.plan()
        rollouts = list(part.rollouts(plan))
        assert plan.digest == undivided.plan().digest
        assert plan.input_rows == len(rows)
        assert [rollout.position for rollout in rollouts] == list(range(plan.rollouts))
        locate, size = plan.locator(), plan.group_size()
        for rollout in rollouts:
            assert rollout.key.task_index % count == index
            assert locate(rollout.key) == rollout.position
            assert size(rollout.key.task_index) == sum(key.task_index == rollout.key.task_index for key in expected)
            assert rollout.key not in divided
            divided[rollout.key] = rollout.row
    assert divided == expected


@pytest.mark.parametrize(
    ("slurm", "count", "expected"),
    [
        ({"ARRAY_TASK_ID": 2, "ARRAY_TASK_MIN": 0, "ARRAY_TASK_MAX": 3, "ARRAY_TASK_COUNT": 4}, None, Shard(2, 4)),
        ({"ARRAY_TASK_ID": 2, "ARRAY_TASK_MIN": 2, "ARRAY_TASK_MAX": 2, "ARRAY_TASK_COUNT": 1}, 4, Shard(2, 4)),
        ({"ARRAY_TASK_ID": 2, "ARRAY_TASK_MIN": 2, "ARRAY_TASK_MAX": 2, "ARRAY_TASK_COUNT": 1}, None, "num_shards"),
        (
            {"ARRAY_TASK_ID": 4, "ARRAY_TASK_MIN": 1, "ARRAY_TASK_MAX": 4, "ARRAY_TASK_COUNT": 4},
            4,
            "must be less than num_shards=4",
        ),
        ({"PROCID": 1, "NTASKS": 8}, None, Shard(1, 8)),
        ({}, None, "neither SLURM_ARRAY_TASK_ID nor SLURM_PROCID is set"),
    ],
    ids=["array", "resubmitted element", "array with gaps", "array from 1", "tasks of srun", "no job"],
)
def test_shard_from_slurm_is_the_element_of_the_array_or_the_rank(
    slurm: dict[str, int], count: int | None, expected: Shard | str
) -> None:
    """The shard is the element of the job array, or else the rank within the job; an ambiguous one is an error."""
    config = CollectConfig(input_jsonl_fpath="i", output_jsonl_fpath="o", shard_from="slurm", num_shards=count)
    environment = {f"SLURM_{name}": str(value) for name, value in slurm.items()}
    if isinstance(expected, Shard):
        assert shard_of(config, environment) == expected
    else:
        with pytest.raises(ConfigError, match=expected):
            shard_of(config, environment)


def test_resume_of_a_shard_must_be_of_the_same_shard(command: Callable[..., Ran], tmp_path: Path) -> None:
    """A shard can be resumed after the input has grown, but not as another shard."""
    tasks = (ROOT / "examples" / "arithmetic.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "t.jsonl").write_text("".join(tasks[:5]))
    run = [
        "+agent_name=example_math_agent",
        "+input_jsonl_fpath=t.jsonl",
        "+output_jsonl_fpath=r.jsonl",
        "+num_shards=2",
    ]
    assert command(*run, "+shard_index=1").code == 0
    (tmp_path / "t.jsonl").write_text("".join(tasks[:8]))
    assert "2 of 4 rollouts are collected" in command(*run, "+shard_index=1", "+resume_from_cache=true").stderr
    (tmp_path / "r_shard_1_of_2.jsonl").rename(tmp_path / "r_shard_0_of_2.jsonl")
    (tmp_path / "r_shard_1_of_2_manifest.json").rename(tmp_path / "r_shard_0_of_2_manifest.json")
    ran = command(*run, "+shard_index=0", "+resume_from_cache=true")
    assert (ran.code, "shard_index: 1 then, 0 now" in ran.stderr) == (2, True)
