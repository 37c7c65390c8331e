"""Input JSONL -> tasks -> rollouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import InputError
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.sources import local_input
from ng_rollouts.inputs.task_file import TaskFile
from ng_rollouts.inputs.task_parser import TaskParser
from ng_rollouts.types import Rollout

PLAIN = {"responses_create_params": {"input": "hi"}}
PARSER = TaskParser(agent_name="a")


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "tasks.jsonl"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def expanded(path: Path, recipe: TaskParser = PARSER, limit: int | None = None) -> tuple[Plan, list[Rollout]]:
    file = TaskFile(path=path, parser=recipe, limit=limit)
    plan = file.plan()
    return plan, list(file.rollouts(plan))


@given(repeats=st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_expansion_is_aabbcc(repeats: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever each row's repeats are, rollouts come task by task, in input order, counted from 0."""
    rows = [{**PLAIN, "agent_ref": {"name": f"agent{count}"}} for count in repeats]
    recipe = TaskParser(repeats={f"agent{count}": count for count in repeats})
    plan, rollouts = expanded(written(tmp_path_factory.mktemp("t"), lines(rows)), recipe)
    assert [rollout.key for rollout in rollouts] == [(t, r) for t, count in enumerate(repeats) for r in range(count)]
    assert [rollout.position for rollout in rollouts] == list(range(plan.rollouts))
    assert list(plan.rollout_keys()) == [rollout.key for rollout in rollouts]


@given(indices=st.lists(st.integers(0, 5), min_size=1, max_size=12), repeats=st.integers(1, 3), done=st.data())
def test_brought_indices_count_on_and_group(
    indices: list[int], repeats: int, done: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rows that share a task index share its group: keys are unique, and a group is whole when all of it is done."""
    rows = [{**PLAIN, "_ng_task_index": index} for index in indices]
    plan, rollouts = expanded(
        written(tmp_path_factory.mktemp("t"), lines(rows)), TaskParser(agent_name="a", repeats=repeats)
    )
    keys = [rollout.key for rollout in rollouts]
    assert len(set(keys)) == len(keys)
    assert [key.task_index for key in keys] == [index for index in indices for _ in range(repeats)]
    for index in set(indices):
        assert [key.rollout_index for key in keys if key.task_index == index] == list(
            range(indices.count(index) * repeats)
        )
    finished = done.draw(st.sets(st.integers(0, plan.rollouts - 1)))
    missing = {key.task_index for position, key in enumerate(keys) if position not in finished}
    assert list(plan.complete(finished.__contains__)) == [key.task_index not in missing for key in keys]


def test_blank_lines_crlf_bom_and_no_last_newline_are_fine(tmp_path: Path) -> None:
    """What editors leave in a file does not matter."""
    text = b"\xef\xbb\xbf" + json.dumps(PLAIN).encode() + b"\r\n\r\n   \n" + json.dumps(PLAIN).encode()
    plan, rollouts = expanded(written(tmp_path, text))
    assert (plan.rows, len(rollouts)) == (2, 2)


def test_all_bad_lines_are_named_by_physical_number(tmp_path: Path) -> None:
    """One pass reports every bad line with its number and reason; blank lines count."""
    bad = [
        b"{oops",
        b"",
        b"[1]",
        b'{"responses_create_params": {"input": NaN}}',
        b'{"responses_create_params": {"input": "\xff"}}',
        b'{"responses_create_params": {}}',
        b'{"responses_create_params": {"input": ["text"]}}',
        b'{"responses_create_params": {"input": "x", "temperature": 3}}',
        b'{"responses_create_params": {"input": "x"}, "agent_ref": "a"}',
        b'{"responses_create_params": {"input": "x"}, "_ng_task_index": -1}',
        b'{"responses_create_params": []}',
        json.dumps(PLAIN).encode(),
    ]
    with pytest.raises(InputError) as error:
        TaskFile(path=written(tmp_path, b"\n".join(bad)), parser=PARSER).plan()
    told = str(error.value)
    assert "10 bad lines" in told
    assert [f"line {number}:" in told for number in range(1, 13)] == [True, False, *[True] * 9, False]
    assert "temperature must be a number from 0 to 2, got 3" in told


def test_many_bad_lines_are_told_in_ranges(tmp_path: Path) -> None:
    """Every bad line is named, those with the same reason together."""
    with pytest.raises(InputError) as error:
        TaskFile(path=written(tmp_path, "x\n" * 70 + json.dumps(PLAIN) + "\nx\n"), parser=PARSER).plan()
    assert "71 bad lines" in str(error.value)
    assert "lines 1-70, 72: not JSON: " in str(error.value)


def test_limit_counts_rows_and_looks_no_further(tmp_path: Path) -> None:
    """`limit` counts input rows before they are repeated; what lies beyond is not read."""
    path = written(tmp_path, "\n" + lines([PLAIN, PLAIN]) + "broken\n")
    plan, rollouts = expanded(path, TaskParser(agent_name="a", repeats=3), limit=2)
    assert (plan.rows, plan.rollouts, len(rollouts)) == (2, 6, 6)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_is_an_error(tmp_path: Path, text: str) -> None:
    """Nothing to do is not what anyone meant."""
    with pytest.raises(InputError, match="has no rows"):
        TaskFile(path=written(tmp_path, text), parser=PARSER).plan()


def test_identical_rows_are_tasks_of_their_own(tmp_path: Path) -> None:
    """Byte-identical lines do not share an index."""
    _, rollouts = expanded(written(tmp_path, lines([PLAIN] * 3)))
    assert [rollout.key.task_index for rollout in rollouts] == [0, 1, 2]


def test_an_index_by_position_may_not_collide_with_a_brought_one(tmp_path: Path) -> None:
    """Two tasks never share a group by accident."""
    file = TaskFile(path=written(tmp_path, lines([{**PLAIN, "_ng_task_index": 1}, PLAIN])), parser=PARSER)
    with pytest.raises(InputError, match="line 2: its position, 1, is also the _ng_task_index of line 1"):
        file.plan()
    apart = TaskFile(path=written(tmp_path, lines([{**PLAIN, "_ng_task_index": 9}, PLAIN])), parser=PARSER)
    assert [key.task_index for key in apart.plan().rollout_keys()] == [9, 1]


def test_overrides_are_laid_shallowly_over_the_row(tmp_path: Path) -> None:
    """A nested override replaces the sub-dict; everything else of the row stays."""
    row = {"keep": 1, "responses_create_params": {"input": "hi", "reasoning": {"effort": "low", "x": 1}, "top_p": 0.5}}
    recipe = TaskParser(agent_name="a", overrides={"reasoning": {"effort": "high"}, "temperature": 0.0})
    _, [rollout] = expanded(written(tmp_path, lines([row])), recipe)
    assert rollout.request().body == {
        "keep": 1,
        "responses_create_params": {
            "input": [{"role": "user", "content": "hi"}],
            "reasoning": {"effort": "high"},
            "top_p": 0.5,
            "temperature": 0.0,
        },
        "_ng_task_index": 0,
        "_ng_rollout_index": 0,
        "agent_ref": {"name": "a"},
    }


def test_each_rollout_may_have_a_seed_of_its_own(tmp_path: Path) -> None:
    """The seed is the rollout index, counted from a given seed."""
    path = written(tmp_path, lines([PLAIN, PLAIN]))
    for given_seed, expected in ((None, [0, 1, 0, 1]), (40, [40, 41, 40, 41])):
        overrides = {} if given_seed is None else {"seed": given_seed}
        _, rollouts = expanded(path, TaskParser(agent_name="a", repeats=2, add_seed=True, overrides=overrides))
        assert [rollout.request().body["responses_create_params"]["seed"] for rollout in rollouts] == expected


def test_a_rows_own_agent_wins(tmp_path: Path) -> None:
    """`agent_name` fills the rows that name none; what else `agent_ref` holds is kept."""
    rows = [{**PLAIN, "agent_ref": {"type": "responses_api_agents", "name": "mine"}}, PLAIN]
    _, rollouts = expanded(written(tmp_path, lines(rows)))
    assert [rollout.agent for rollout in rollouts] == ["mine", "a"]
    assert rollouts[0].request().body["agent_ref"] == {"type": "responses_api_agents", "name": "mine"}


def test_a_row_without_an_agent_is_bad(tmp_path: Path) -> None:
    """Neither `agent_name` nor `agent_ref`: the cure is named."""
    with pytest.raises(InputError, match=r"no agent specified: give \+agent_name=NAME"):
        TaskFile(path=written(tmp_path, lines([PLAIN])), parser=TaskParser()).plan()


def test_repeats_by_agent(tmp_path: Path) -> None:
    """An agent in the data that the dict does not cover is an error, unless there is a `_default`."""
    path = written(tmp_path, lines([PLAIN, {**PLAIN, "agent_ref": {"name": "b"}}]))
    assert expanded(path, TaskParser(agent_name="a", repeats={"a": 2, "_default": 3}))[0].rollouts == 5
    with pytest.raises(InputError, match="num_repeats has neither the agent 'b' nor _default"):
        expanded(path, TaskParser(agent_name="a", repeats={"a": 2}))


@pytest.mark.parametrize(
    ("row", "prompt_id"),
    [({"prompt_id": 7, "id": "x"}, "7"), ({"id": "x"}, "x"), ({"task_id": "t"}, "t"), ({"uuid": "u"}, "u"), ({}, "0")],
)
def test_prompt_id_is_the_rows_own_or_its_index(tmp_path: Path, row: Any, prompt_id: str) -> None:
    """`prompt_id`, `id`, `task_id` or `uuid` as text, else the task index."""
    _, [rollout] = expanded(written(tmp_path, lines([{**PLAIN, **row}])))
    assert rollout.prompt_id == prompt_id


def test_a_file_that_changes_under_the_run_is_told(tmp_path: Path) -> None:
    """The second pass notices lines that went away or went bad."""
    path = written(tmp_path, lines([PLAIN, PLAIN]))
    file = TaskFile(path=path, parser=PARSER)
    plan = file.plan()
    for text in (lines([PLAIN]), "broken\n"):
        path.write_text(text)
        with pytest.raises(InputError, match="changed while it was being read"):
            list(file.rollouts(plan))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    """One line with the path and the reason."""
    for path, reason in ((tmp_path / "nope", "No such file"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=reason), local_input(str(path)):
            pass
