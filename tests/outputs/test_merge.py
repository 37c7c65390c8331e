"""Merged files are in order, and missing rollouts are counted."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.cli.aggregate import AggregationConfig, run
from tests.conftest import EXAMPLE, ROOT, Ran, files_in, keys_of, read_rows
from tests.rollout_files import write_rewards
from tests.servers import Served


@given(shard_of=st.lists(st.integers(0, 2), min_size=6, max_size=24))
def test_merge_does_not_depend_on_the_distribution_over_files(
    shard_of: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rollouts distributed over files in any way are merged to the bytes of the undivided file."""
    folder = tmp_path_factory.mktemp("shards")
    keys = [(number // 2, number % 2) for number in range(len(shard_of))]
    rewards = {key: float(sum(key) % 2) for key in keys}
    write_rewards(folder / "undivided.jsonl", rewards)
    for shard in range(3):
        own = {key: rewards[key] for key, number in zip(keys, shard_of, strict=True) if number == shard}
        write_rewards(folder / f"shard_{shard}.jsonl", own)
    config = AggregationConfig(input_glob=f"{folder}/shard_*.jsonl", output_jsonl_fpath=str(folder / "all.jsonl"))
    assert run(config) == (1 if len(shard_of) % 2 else 0)
    assert (folder / "all.jsonl").read_bytes() == (folder / "undivided.jsonl").read_bytes()


def test_merge_counts_missing_rollouts_by_the_manifest(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Missing rollouts of the last tasks are known from the manifest, although nothing in the rows shows them."""
    files = [f"+input_jsonl_fpath={ROOT / 'examples' / 'arithmetic.jsonl'}", "+output_jsonl_fpath=r.jsonl"]
    assert command("+agent_name=example_math_agent", "+limit=10", "+num_repeats=2", *files).code == 0
    lines = (tmp_path / "r.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_text("".join(lines[:13]))
    ran = command("+input_glob=r.jsonl", "+output_jsonl_fpath=all.jsonl", script="ng_aggregate_rollouts")
    assert ran.code == 1
    assert "6 rollouts are missing from tasks that have no rows" in ran.stderr
    assert "1 rollout of 1 task is missing, by task: 6 (1)" in ran.stderr


def test_gaps_between_sparse_task_indices_are_not_missing_tasks(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Without a manifest, task indices that are far apart are taken as they are, and no task counts as missing."""
    write_rewards(tmp_path / "sparse.jsonl", {(10**9, 0): 1.0, (3, 0): 1.0})
    ran = command("+input_glob=sparse.jsonl", "+output_jsonl_fpath=s.jsonl", script="ng_aggregate_rollouts")
    assert (ran.code, ran.stderr) == (0, "")


TASKS = ROOT / "examples" / "arithmetic.jsonl"
TEN_TASKS_TWICE = ["+agent_name=example_math_agent", "+num_repeats=2", "+limit=10", f"+input_jsonl_fpath={TASKS}"]


def test_merged_shards_equal_the_output_of_a_single_run(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Merged shards, of which some are empty, equal the output of a single run, and a resume collects a missing one."""
    run = [*TEN_TASKS_TWICE, "+output_jsonl_fpath=r.jsonl", "+num_shards=12", "+min_coverage=1"]
    for index in range(12):
        ran = command(*run, f"+shard_index={index}")
        assert ran.code == 0, ran.stderr
    assert (tmp_path / "r_shard_11_of_12.jsonl").read_text() == ""
    merge = ["+input_glob=r_shard_*_of_12.jsonl", "+output_jsonl_fpath=all.jsonl"]
    assert command(*merge, script="ng_aggregate_rollouts").code == 0
    assert command(*TEN_TASKS_TWICE, "+output_jsonl_fpath=one.jsonl").code == 0
    complete = (tmp_path / "one.jsonl").read_bytes()
    assert (tmp_path / "all.jsonl").read_bytes() == complete
    metrics = [json.loads((tmp_path / f"{name}_aggregate_metrics.json").read_text())[0] for name in ("all", "one")]
    assert metrics[0]["agent_metrics"] == metrics[1]["agent_metrics"]
    (tmp_path / "r_shard_03_of_12.jsonl").unlink()
    ran = command("+input_glob=r_shard_*_of_12.jsonl", "+output_jsonl_fpath=part.jsonl", script="ng_aggregate_rollouts")
    assert (ran.code, "of 12 shards, these are missing: 3" in ran.stderr) == (1, True), ran.stderr
    assert "2 rollouts are missing from tasks that have no rows, starting with task 3" in ran.stderr
    ran = command(*TEN_TASKS_TWICE, "+output_jsonl_fpath=part.jsonl", "+resume_from_cache=true")
    assert "18 of 20 rollouts are collected" in ran.stderr
    assert (tmp_path / "part.jsonl").read_bytes() == complete


def test_merge_keeps_failures_and_incomplete_groups_for_a_resume(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Failures and incomplete groups of shards are merged too, and a resume of the merged output retries the failures."""
    failing, working = serve(faults={"500": 0.3}, sticky=True), serve()
    tasks(12)
    run = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+num_repeats=2", "+max_attempts=1"]
    for index in range(2):
        command(*run, f"+agent_url={failing.url}", f"+shard_index={index}", "+num_shards=2")
    failed = sum(len(read_rows(path)) for path in tmp_path.glob("r_shard_*_failures.jsonl"))
    assert failed
    merged = command("+input_glob=r_shard_?_of_2.jsonl", "+output_jsonl_fpath=r.jsonl", script="ng_aggregate_rollouts")
    assert merged.code == 1
    ran = command(*run, f"+agent_url={working.url}", "+resume_from_cache=true")
    assert (ran.code, working.stats()["total"]) == (0, failed), ran.stderr
    assert keys_of(tmp_path / "r.jsonl") == [(task, index) for task in range(12) for index in range(2)]


def test_merge_reports_missing_rollouts_torn_lines_and_shards_of_different_runs(
    command: Callable[..., Ran], tmp_path: Path
) -> None:
    """Missing rollouts are counted by each agent's repeats, a torn line is one of them, and all shards must be of one run."""
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
    complete = first.read_text()
    first.write_text("".join(complete.splitlines(keepends=True)[:-1]))
    ran = command(*merge, script="ng_aggregate_rollouts")
    missing = "1 rollout is missing from tasks that have no rows, starting with task 4"
    assert (ran.code, missing in ran.stderr) == (1, True), ran.stderr
    first.write_text(complete[:-40])
    ran = command(*merge, script="ng_aggregate_rollouts")
    assert (ran.code, "the last line of r_shard_0_of_2.jsonl is cut off" in ran.stderr) == (1, True), ran.stderr
    command(*run, repeats, "+shard_index=0", "+overwrite=true", "+responses_create_params.temperature=0.1")
    ran = command(*merge, script="ng_aggregate_rollouts")
    shards = ["r_shard_1_of_2.jsonl", "r_shard_0_of_2.jsonl"]
    assert (ran.code, f"warning: {' and '.join(shards)} are of different runs: " in ran.stderr) == (1, True), ran.stderr
    assert f"responses_create_params.temperature: null in {shards[0]}, 0.1 in {shards[1]}: collect" in ran.stderr
    assert ran.stderr.endswith("error: all.jsonl has the problems above\n")


def test_empty_failures_file_is_ignored_by_a_merge(command: Callable[..., Ran], tmp_path: Path) -> None:
    """NeMo Gym's collector leaves an empty failures file: a merge does not report it, and does not write one."""
    run = ["+agent_name=example_math_agent", f"+input_jsonl_fpath={TASKS}", "+limit=3", "+output_jsonl_fpath=a.jsonl"]
    assert command(*run).code == 0
    (tmp_path / "a_failures.jsonl").touch()
    ran = command("+input_glob=a.jsonl", "+output_jsonl_fpath=o.jsonl", script="ng_aggregate_rollouts")
    assert (ran.code, ran.stderr) == (0, "")
    assert not (tmp_path / "o_failures.jsonl").exists()


def test_merge_reads_and_writes_compressed_files(command: Callable[..., Ran], tmp_path: Path) -> None:
    """A merge decompresses its inputs, and compresses its output if the name has a compression extension."""
    run = [*EXAMPLE, "+num_repeats=2"]
    assert command(*run, "+output_jsonl_fpath=plain.jsonl").code == 0
    assert command(*run, "+output_jsonl_fpath=r.jsonl.zst").code == 0
    merge = ["+input_glob=r.jsonl.zst", "+output_jsonl_fpath=all.jsonl.gz"]
    assert command(*merge, script="ng_aggregate_rollouts").code == 0
    assert gzip.decompress((tmp_path / "all.jsonl.gz").read_bytes()) == (tmp_path / "plain.jsonl").read_bytes()


def test_merge_onto_another_name_of_its_input_is_rejected(command: Callable[..., Ran], tmp_path: Path) -> None:
    """`r.jsonl` cannot be merged into `r.jsonl.zst`, because both have the same side files."""
    assert command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl").code == 0
    before = files_in(tmp_path)
    merge = ["+input_glob=r.jsonl", "+output_jsonl_fpath=r.jsonl.zst", "+overwrite=true"]
    assert command(*merge, script="ng_aggregate_rollouts").code == 2
    assert files_in(tmp_path) == before
