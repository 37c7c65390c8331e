"""Files of rollouts are read group by group, in any order of their rows."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from ng_rollouts import read_rollouts
from ng_rollouts.errors import InputError
from ng_rollouts.outputs.merge import RolloutIndex
from ng_rollouts.outputs.reader import groups_of, row_groups, scan
from ng_rollouts.storage.lock import lock
from tests.conftest import EXAMPLE, Ran, files_in
from tests.rollout_files import rollout_row, write_rewards, write_rows


def test_groups_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    """A file in order of completion has the same groups as the file in order of keys."""
    rewards = {(task, index): float((task * index) % 2) for task in range(20) for index in range(3)}
    shuffled = list(rewards)
    random.Random(2).shuffle(shuffled)
    in_order = write_rewards(tmp_path / "a.jsonl", rewards)
    out_of_order = write_rewards(tmp_path / "b.jsonl", {key: rewards[key] for key in shuffled})
    assert list(groups_of(in_order)) == list(groups_of(out_of_order))


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " : ")])
def test_keys_are_read_from_the_top_level_of_a_row(tmp_path: Path, separators: tuple[str, str]) -> None:
    """Keys are found with any white space, and field names in nested objects and in strings are not taken for keys."""
    order = [(1, 0), (0, 0), (1, 1), (0, 1)]
    rows = [
        {
            "_ng_task_index": task,
            "_ng_rollout_index": rollout,
            "reward": 1.0,
            "meta": {"_ng_task_index": position, "_ng_rollout_index": 0},
        }
        for position, (task, rollout) in enumerate(order)
    ]
    for name, change in (("nested", {}), ("plain", {"meta": 'a "_ng_task_index": 7'})):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({**row, **change}, separators=separators) + "\n" for row in rows))
        assert [(group.task_index, group.indices) for group in groups_of(path)] == [(0, [0, 1]), (1, [0, 1])]
        assert scan(path).max_repeats == {"agent": 2}


def test_row_without_prompt_id_cannot_be_grouped_by_it(tmp_path: Path) -> None:
    """Grouping by `prompt_id` names the first line whose `prompt_id` is missing or null."""
    rows = [rollout_row(task, index, index / 2, prompt_id="same") for task in range(2) for index in range(3)]
    path = write_rows(tmp_path / "r.jsonl", [*rows, {**rows[0], "prompt_id": None}])
    with pytest.raises(InputError, match="line 7: no prompt_id to group by"):
        list(row_groups(path, "prompt_id"))


def test_commands_read_compressed_files_like_plain_ones(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Every command that reads rollouts gives the same results for a compressed file as for the plain one."""
    run = [*EXAMPLE, "+num_repeats=2"]
    results = []
    for folder, name in (("a", "r.jsonl"), ("b", "r.jsonl.zst")):
        path = f"{folder}/{name}"
        assert command(*run, f"+output_jsonl_fpath={path}").code == 0
        profile = command(f"+rollouts_jsonl_fpath={path}", script="ng_reward_profile")
        export = [f"+input_jsonl_fpath={path}", f"+output_jsonl_fpath={folder}/sft.jsonl", "+recipe=sft"]
        exported = command(*export, script="ng_export_rollouts")
        report = command(f"+input_jsonl_fpath={path}", script="ng_view_rollouts")
        assert (profile.code, exported.code, report.code) == (0, 0, 0), report.stderr
        assert files_in(tmp_path / folder).keys() >= {"r_reward_profiling.jsonl", "r_agent_metrics.json", "r.html"}
        results.append((profile.stdout.replace("b/", "a/"), (tmp_path / folder / "sft.jsonl").read_bytes()))
    assert results[0] == results[1]
    assert list(read_rollouts(tmp_path / "b" / "r.jsonl.zst")) == list(read_rollouts(tmp_path / "a" / "r.jsonl"))
    compared = command("+rollouts_jsonl_fpaths=a/r.jsonl,b/r.jsonl.zst", script="ng_compare_rollouts")
    assert '"difference": 0.0' in compared.stdout


READING = [
    ("ng_reward_profile", ["+rollouts_jsonl_fpath=r.jsonl"]),
    ("ng_view_rollouts", ["+input_jsonl_fpath=r.jsonl"]),
    ("ng_compare_rollouts", ["+rollouts_jsonl_fpaths=r.jsonl,other.jsonl"]),
    ("ng_export_rollouts", ["+recipe=rl", "+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=x.jsonl"]),
]


@pytest.mark.parametrize(("script", "arguments"), READING)
@pytest.mark.parametrize("is_shuffled", [False, True], ids=["adjacent", "apart"])
def test_repeated_rollout_is_left_out_with_a_note(
    command: Callable[..., Ran],
    tmp_path: Path,
    script: str,
    arguments: list[str],
    is_shuffled: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Every reading command uses the first row of each rollout, and says once that there are others."""
    rows = [rollout_row(task, index, 1.0) for task in (0, 1) for index in (0, 1)]
    write_rows(tmp_path / "other.jsonl", rows)
    again = {**rows[1], "reward": 0.0}
    write_rows(tmp_path / "r.jsonl", [*rows, again, rows[3]] if is_shuffled else [*rows[:2], again, *rows[2:]])
    ran = command(*arguments, script=script)
    assert (ran.code, ran.stderr.count("more than once: the first row of each counts")) == (0, 1), ran.stderr
    if script == "ng_reward_profile":
        assert json.loads((tmp_path / "r_agent_metrics.json").read_text())[0]["mean/reward"] == 1.0


def test_rows_without_keys_are_tasks_by_input_or_id(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Rows without keys can be merged: equal inputs, or else equal ids, are one task; a row without both is one, too."""
    asked = [{"responses_create_params": {"input": text}, "reward": 1.0} for text in ("a", "b", "a")]
    named = [{"id": name, "reward": 0.0} for name in ("x", "x", "y")]
    write_rows(tmp_path / "1.jsonl", [*asked, *named, {"reward": 0.5}, {"reward": 0.5}])
    write_rows(tmp_path / "2.jsonl", asked[:1])
    ran = command("+input_glob=[12].jsonl", "+output_jsonl_fpath=m.jsonl", script="ng_aggregate_rollouts")
    assert ran.stdout.startswith("Merged 9 rollouts of 2 files"), ran.stderr
    (entry,) = json.loads((tmp_path / "m_aggregate_metrics.json").read_text())
    assert [group["mean/reward"] for group in entry["group_level_metrics"]] == [1.0, 1.0, 0.0, 0.0, 0.5, 0.5]
    write_rows(tmp_path / "3.jsonl", [{"_ng_task_index": 0, "_ng_rollout_index": 0, "reward": 1.0}])
    mixed = command("+input_glob=[123].jsonl", "+output_jsonl_fpath=n.jsonl", script="ng_aggregate_rollouts")
    assert (mixed.code, "and others do not: merge them apart" in mixed.stderr) == (2, True)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)], ids=["in order", "in completion order"])
def test_file_that_is_replaced_between_two_passes_is_an_error(tmp_path: Path, order: tuple[int, ...]) -> None:
    """A file of other rows with equally long lines would be read at the wrong offsets."""
    path = write_rewards(tmp_path / "a.jsonl", {(task, 0): float(task) for task in order})
    scanned = scan(path)
    groups = groups_of(path, scanned=scanned)
    other = write_rewards(tmp_path / "b.jsonl", {(task, 0): float(task) for task in reversed(order)})
    if scanned.in_order:
        other.replace(path)
        with pytest.raises(InputError, match="was changed while it was read"):
            list(groups)
        return
    index = RolloutIndex([path])
    other.replace(path)
    with pytest.raises(InputError, match="was changed while it was read"):
        index.write(tmp_path / "merged.jsonl")


def test_rows_that_a_live_run_appends_are_left_out(tmp_path: Path) -> None:
    """A file that has grown since its first pass is read as it was then."""
    path = write_rewards(tmp_path / "a.jsonl", {(task, 0): 1.0 for task in range(3)})
    scanned = scan(path)
    with path.open("a") as file:
        file.write(json.dumps(rollout_row(0, 0, 0.0)) + "\n")
    assert [group.task_index for group in groups_of(path, scanned=scanned)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("ng_reward_profile", ["+rollouts_jsonl_fpath=p.jsonl"]),
        ("ng_view_rollouts", ["+input_jsonl_fpath=p.jsonl"]),
        ("ng_export_rollouts", ["+recipe=sft", "+input_jsonl_fpath=p.jsonl", "+output_jsonl_fpath=s.jsonl"]),
        ("ng_compare_rollouts", ["+rollouts_jsonl_fpaths=p.jsonl,p2.jsonl"]),
        ("ng_aggregate_rollouts", ["+input_glob=p.jsonl", "+output_jsonl_fpath=m.jsonl"]),
    ],
)
def test_pipe_is_rejected_by_commands_that_read_twice(
    command: Callable[..., Ran], tmp_path: Path, script: str, arguments: list[str]
) -> None:
    """A named pipe can be read once, and without a writer it would be waited for."""
    os.mkfifo(tmp_path / "p.jsonl")
    ran = command(*arguments, script=script)
    assert (ran.code, "p.jsonl is not a regular file" in ran.stderr) == (2, True), ran.stderr


def test_reader_of_an_output_that_is_being_written_gets_a_warning(command: Callable[..., Ran], tmp_path: Path) -> None:
    """An export of a live run says that it has a part of the rows."""
    assert command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl").code == 0
    fd = lock(tmp_path / "r.jsonl")
    ran = command("+rollouts_jsonl_fpath=r.jsonl", script="ng_reward_profile")
    os.close(fd)
    assert (ran.code, "warning: r.jsonl is being written by process" in ran.stderr) == (0, True), ran.stderr


def test_negative_index_is_not_a_key(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Rows whose `_ng_rollout_index` is negative are grouped by their prompt, as rows without keys."""
    write_rows(tmp_path / "r.jsonl", [{**rollout_row(0, 0, 1.0), "_ng_rollout_index": -1} for _ in range(2)])
    ran = command("+rollouts_jsonl_fpath=r.jsonl", script="ng_reward_profile")
    assert (ran.code, "2/2 rollout rows" in ran.stdout) == (0, True), ran.stderr
