"""Shards: several commands over one input, put together into what one command would have written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import ConfigError
from ng_rollouts.executors.ray_worker import per_actor_config
from ng_rollouts.inputs.shards import Shard, shard_of
from ng_rollouts.inputs.task_file import TaskFile
from ng_rollouts.inputs.task_parser import TaskParser

from .conftest import ROOT, SCRIPTS, Ran, Served, keys_of, read_rows

TASKS = ROOT / "examples" / "arithmetic.jsonl"
RUN = ["+agent_name=example_math_agent", "+num_repeats=2", "+limit=10", f"+input_jsonl_fpath={TASKS}"]


@settings(deadline=None)
@given(
    brought=st.lists(st.none() | st.integers(0, 30), min_size=1, max_size=20),
    count=st.integers(1, 5),
    repeats=st.sampled_from([1, 3, {"a": 1, "b": 2}]),
)
def test_shards_share_a_plan(
    brought: list[int | None], count: int, repeats: int | dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each rollout is in one of them, with its key, whole groups together, and each finds its own by key."""
    brought = [None if index is None else index + 20 for index in brought]  # which no row has by its place
    path = tmp_path_factory.mktemp("shards") / "tasks.jsonl"
    rows = [
        {"responses_create_params": {"input": str(number)}, "agent_ref": {"name": "ab"[number % 2]}}
        | ({} if index is None else {"_ng_task_index": index})
        for number, index in enumerate(brought)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = TaskFile(path=path, parser=TaskParser(repeats=repeats))
    expected = {rollout.key: rollout.row for rollout in whole.rollouts(whole.plan())}
    found = {}
    for index in range(count):
        part = TaskFile(path=path, parser=TaskParser(repeats=repeats), shard=Shard(index, count))
        plan = part.plan()
        rollouts = list(part.rollouts(plan))
        assert plan.digest == whole.plan().digest
        assert plan.input_rows == len(rows)
        assert [rollout.position for rollout in rollouts] == list(range(plan.rollouts))
        locate, size = plan.locator(), plan.group_size()
        for rollout in rollouts:
            assert rollout.key.task_index % count == index
            assert locate(rollout.key) == rollout.position
            assert size(rollout.key.task_index) == sum(key.task_index == rollout.key.task_index for key in expected)
            assert rollout.key not in found
            found[rollout.key] = rollout.row
    assert found == expected


def test_shards_are_merged_into_what_one_run_writes(command: Callable[..., Ran], tmp_path: Path) -> None:
    """To the byte; an empty shard is no failure; what is missing is told, and collected by a resume of the whole."""
    for index in range(12):
        ran = command(*RUN, "+output_jsonl_fpath=r.jsonl", f"+shard_index={index}", "+num_shards=12", "+min_coverage=1")
        assert ran.code == 0, ran.stderr
    assert (tmp_path / "r_shard_11_of_12.jsonl").read_text() == ""
    merge = ["+input_glob=r_shard_*_of_12.jsonl", "+output_jsonl_fpath=all.jsonl"]
    assert command(*merge, script="ng_aggregate_rollouts").code == 0
    assert command(*RUN, "+output_jsonl_fpath=one.jsonl").code == 0
    whole = (tmp_path / "one.jsonl").read_bytes()
    assert (tmp_path / "all.jsonl").read_bytes() == whole
    figures = [json.loads((tmp_path / f"{name}_aggregate_metrics.json").read_text())[0] for name in ("all", "one")]
    assert figures[0]["agent_metrics"] == figures[1]["agent_metrics"]
    (tmp_path / "r_shard_03_of_12.jsonl").unlink()
    ran = command("+input_glob=r_shard_*_of_12.jsonl", "+output_jsonl_fpath=part.jsonl", script="ng_aggregate_rollouts")
    assert (ran.code, "of 12 shards, these are missing: 3" in ran.stderr) == (1, True), ran.stderr
    assert "2 rollouts are missing from tasks that have no rows, starting with task 3" in ran.stderr
    ran = command(*RUN, "+output_jsonl_fpath=part.jsonl", "+resume_from_cache=true")
    assert "18 of 20 rollouts are collected" in ran.stderr
    assert (tmp_path / "part.jsonl").read_bytes() == whole


def test_what_shards_set_aside_is_finished_by_the_whole(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Failures and incomplete groups go with the merge; a resume completes them."""
    server, well = serve(faults={"500": 0.3}, sticky=True), serve()
    tasks(12)
    run = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+num_repeats=2", "+max_attempts=1"]
    for index in range(2):
        command(*run, f"+agent_url={server.url}", f"+shard_index={index}", "+num_shards=2")
    failed = sum(len(read_rows(path)) for path in tmp_path.glob("r_shard_*_failures.jsonl"))
    assert failed
    merged = command("+input_glob=r_shard_?_of_2.jsonl", "+output_jsonl_fpath=r.jsonl", script="ng_aggregate_rollouts")
    assert merged.code == 1
    ran = command(*run, f"+agent_url={well.url}", "+resume_from_cache=true")
    assert (ran.code, well.stats()["total"]) == (0, failed), ran.stderr
    assert keys_of(tmp_path / "r.jsonl") == [(task, index) for task in range(12) for index in range(2)]


def test_what_is_missing_is_counted_with_repeats_by_agent(command: Callable[..., Ran], tmp_path: Path) -> None:
    """And what the shards were asked has to be one thing; a torn line is a missing rollout."""
    lines = [json.loads(line) for line in TASKS.read_text().splitlines()[:5]]
    names = ["example_math_agent", "example_tool_agent"]
    rows = [{**line, "agent_ref": {"name": names[number % 2]}} for number, line in enumerate(lines)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = ["+input_jsonl_fpath=t.jsonl", "+output_jsonl_fpath=r.jsonl", "+num_shards=2"]
    repeats = "+num_repeats={example_math_agent: 1, example_tool_agent: 2}"
    for index in range(2):
        assert command(*run, repeats, f"+shard_index={index}").code == 0
    merge = ["+input_glob=r_shard_*.jsonl", "+output_jsonl_fpath=all.jsonl", "+overwrite=true"]
    assert command(*merge, script="ng_aggregate_rollouts").code == 0
    first = tmp_path / "r_shard_0_of_2.jsonl"
    whole = first.read_text()
    first.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    ran = command(*merge, script="ng_aggregate_rollouts")
    assert (ran.code, "1 rollouts are missing from tasks that have no rows, starting with task 4" in ran.stderr) == (
        1,
        True,
    ), ran.stderr
    first.write_text(whole[:-40])
    ran = command(*merge, script="ng_aggregate_rollouts")
    assert (ran.code, "the last line of r_shard_0_of_2.jsonl is cut off" in ran.stderr) == (1, True), ran.stderr
    command(*run, repeats, "+shard_index=0", "+overwrite=true", "+responses_create_params.temperature=0.1")
    ran = command(*merge, script="ng_aggregate_rollouts")
    assert (ran.code, "is not of the same run as" in ran.stderr) == (1, True), ran.stderr
    assert "responses_create_params.temperature: null then, 0.1 now" in ran.stderr


def test_workers_share_what_is_allowed_a_minute() -> None:
    """So that together they keep to it."""
    config = CollectConfig(input_jsonl_fpath="i", output_jsonl_fpath="o", max_requests_per_minute=240)
    assert per_actor_config(config, 2).max_requests_per_minute == 120
    assert per_actor_config(config, 2).max_tokens_per_minute is None


@pytest.mark.parametrize(
    ("told", "count", "expected"),
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
)
def test_slurm_tells_which_shard_this_is(told: dict[str, int], count: int | None, expected: Shard | str) -> None:
    """By the job array, or by the rank within a job; what is not certain is not guessed."""
    config = CollectConfig(input_jsonl_fpath="i", output_jsonl_fpath="o", shard_from="slurm", num_shards=count)
    environment = {f"SLURM_{name}": str(value) for name, value in told.items()}
    if isinstance(expected, Shard):
        assert shard_of(config, environment) == expected
    else:
        with pytest.raises(ConfigError, match=expected):
            shard_of(config, environment)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["+shard_index=1"], "shard_index and num_shards go together"),
        (["+shard_index=4", "+num_shards=4"], "shard_index must be from 0 to num_shards - 1 = 3, got 4"),
        (["+shard_index=0", "+num_shards=0"], "num_shards must be >= 1"),
        (["+shard_from=slurm", "+shard_index=0"], "give one of them"),
        (["+shard_from=pbs"], "shard_from must be slurm or null"),
    ],
)
def test_shards_that_cannot_be(command: Callable[..., Ran], arguments: list[str], said: str) -> None:
    """Told before anything is sent."""
    ran = command(*RUN, "+output_jsonl_fpath=r.jsonl", *arguments)
    assert (ran.code, said in ran.stderr) == (2, True), ran.stderr


def test_a_resume_is_of_the_same_shard(command: Callable[..., Ran], tmp_path: Path) -> None:
    """And goes on when the input has grown; a file of another number of shards has another name."""
    (tmp_path / "t.jsonl").write_text("".join(TASKS.read_text().splitlines(keepends=True)[:5]))
    run = [
        "+agent_name=example_math_agent",
        "+input_jsonl_fpath=t.jsonl",
        "+output_jsonl_fpath=r.jsonl",
        "+num_shards=2",
    ]
    assert command(*run, "+shard_index=1").code == 0
    (tmp_path / "t.jsonl").write_text("".join(TASKS.read_text().splitlines(keepends=True)[:8]))
    assert "2 of 4 rollouts are collected" in command(*run, "+shard_index=1", "+resume_from_cache=true").stderr
    (tmp_path / "r_shard_1_of_2.jsonl").rename(tmp_path / "r_shard_0_of_2.jsonl")
    (tmp_path / "r_shard_1_of_2_manifest.json").rename(tmp_path / "r_shard_0_of_2_manifest.json")
    ran = command(*run, "+shard_index=0", "+resume_from_cache=true")
    assert (ran.code, "shard_index: 1 then, 0 now" in ran.stderr) == (2, True)


def test_a_launcher_runs_shards_as_jobs(command: Callable[..., Ran], tmp_path: Path) -> None:
    """submitit's local executor stands in for Slurm; a job that fails is the sweep's exit code."""
    shards = ["-m", "hydra/launcher=submitit_local", "num_shards=3", "shard_index=range(3)"]
    ran = command(*shards, *RUN, "+output_jsonl_fpath=r.jsonl")
    assert ran.code == 0, ran.stderr
    assert (
        command("+input_glob=r_shard_*.jsonl", "+output_jsonl_fpath=all.jsonl", script="ng_aggregate_rollouts").code
        == 0
    )
    assert keys_of(tmp_path / "all.jsonl") == [(task, index) for task in range(10) for index in range(2)]
    ran = command(
        *shards, *RUN[1:], "+output_jsonl_fpath=n.jsonl", "+agent_url=http://127.0.0.1:9", "+wait_for_agent_s=0"
    )
    assert (ran.code, "a job of the sweep ended with exit code 3" in ran.stderr) == (3, True), ran.stderr
    assert list((tmp_path / "ng_rollouts_jobs").rglob("*_log.err"))


def test_the_end_of_a_slurm_job_drains(
    serve: Callable[..., Served], tasks: Callable[..., Path], command: Callable[..., Ran], tmp_path: Path
) -> None:
    """SIGUSR2, by which Slurm and submitit announce it, is heeded as SIGTERM is."""
    server = serve(delay=[0.2, 0.3])
    tasks(60)
    run = [
        f"+agent_url={server.url}",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=r.jsonl",
        "+num_samples_in_parallel=4",
    ]
    process = subprocess.Popen(
        [str(SCRIPTS / "ng_collect_rollouts"), *run],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not read_rows(tmp_path / "r.jsonl") and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGUSR2)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGUSR2
    assert "SIGUSR2: stopping: 4 rollouts in flight" in told
    assert command(*run, "+resume_from_cache=true").code == 0
    assert keys_of(tmp_path / "r.jsonl") == [(task, 0) for task in range(60)]


def test_a_signal_to_a_launcher_drains_its_jobs(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Those on this machine end as a run of their own would, and nothing goes on asking."""
    server = serve(delay=[0.2, 0.3])
    tasks(200)
    shards = [
        "-m",
        "hydra/launcher=submitit_local",
        "num_shards=2",
        "shard_index=range(2)",
        "num_samples_in_parallel=3",
    ]
    run = [f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    process = subprocess.Popen(
        [str(SCRIPTS / "ng_collect_rollouts"), *shards, *run],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    outputs = [tmp_path / f"r_shard_{index}_of_2.jsonl" for index in range(2)]
    deadline = time.monotonic() + 60
    while not all(read_rows(output) for output in outputs) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "the jobs on this machine drain and stop" in told
    summaries = [output.with_name(output.stem + "_summary.json") for output in outputs]
    while not all(summary.exists() for summary in summaries) and time.monotonic() < deadline:
        time.sleep(0.1)
    collected = [json.loads(summary.read_text())["collected"] for summary in summaries]
    assert collected == [len(read_rows(output)) for output in outputs]
    assert server.stats()["total"] == sum(collected) < 200


def test_an_empty_failures_file_is_no_failure(command: Callable[..., Ran], tmp_path: Path) -> None:
    """As NeMo Gym's collector always leaves one: nothing is told, and none is made."""
    example = [
        "+agent_name=example_math_agent",
        f"+input_jsonl_fpath={ROOT / 'examples' / 'arithmetic.jsonl'}",
        "+limit=3",
    ]
    assert command(*example, "+output_jsonl_fpath=a.jsonl").code == 0
    (tmp_path / "a_failures.jsonl").touch()
    ran = command("+input_glob=a.jsonl", "+output_jsonl_fpath=o.jsonl", script="ng_aggregate_rollouts")
    assert (ran.code, ran.stderr) == (0, "")
    assert not (tmp_path / "o_failures.jsonl").exists()
