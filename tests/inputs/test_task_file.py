"""Input JSONL to rollouts: order, bad lines, and inputs that change."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import InputChanged, InputError
from ng_rollouts.inputs.task_file import TaskFile
from ng_rollouts.inputs.task_parser import Task
from tests.conftest import SHARED_DATA, Ran, keys_of, read_rows
from tests.inputs.helpers import PARSER, PLAIN, expanded, lines, parser_of, written
from tests.servers import Served


@given(repeats=st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_rollouts_are_in_aabbcc_order(repeats: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Rollouts are in input order, task by task and counted from 0, also if rows differ in their repeats."""
    rows = [{**PLAIN, "agent_ref": {"name": f"agent{count}"}} for count in repeats]
    parser = parser_of(None, {f"agent{count}": count for count in repeats})
    plan, rollouts = expanded(written(tmp_path_factory.mktemp("t"), lines(rows)), parser)
    assert [rollout.key for rollout in rollouts] == [(t, r) for t, count in enumerate(repeats) for r in range(count)]
    assert [rollout.position for rollout in rollouts] == list(range(plan.rollouts))
    assert list(plan.rollout_keys()) == [rollout.key for rollout in rollouts]


@given(rows=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=8), has_index=st.booleans())
def test_interleaved_rollouts_are_sorted_by_their_rollout_index(
    rows: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory, *, has_index: bool
) -> None:
    """The same rollouts in the order of their rollout indices, also if rows differ in repeats or share a task index."""
    tasks = [
        {**PLAIN, "agent_ref": {"name": f"agent{count}"}} | ({"_ng_task_index": index} if has_index else {})
        for count, index in rows
    ]
    parser = parser_of(None, {f"agent{count}": count for count in range(1, 5)}, add_seed=True)
    file = TaskFile(path=written(tmp_path_factory.mktemp("t"), lines(tasks)), parser=parser)
    plan = file.plan()
    rollouts = list(file.rollouts(plan))
    assert [rollout.position for rollout in rollouts] == list(range(plan.rollouts))
    assert [rollout.seed for rollout in rollouts] == [rollout.key.rollout_index for rollout in rollouts]
    assert list(file.interleaved_rollouts(plan)) == sorted(rollouts, key=lambda rollout: rollout.key.rollout_index)


@given(repeats=st.lists(st.integers(1, 4), min_size=1, max_size=8), wanted=st.sets(st.integers(0, 40)))
def test_rollouts_at_some_positions_are_read_without_parsing_other_rows(
    repeats: list[int], wanted: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A run can read a few failed rollouts of a large input again without a pause."""
    rows = [{**PLAIN, "agent_ref": {"name": f"agent{count}"}} for count in repeats]
    parser = parser_of(None, {f"agent{count}": count for count in repeats})
    file = TaskFile(path=written(tmp_path_factory.mktemp("t"), lines(rows)), parser=parser)
    plan = file.plan()
    rollouts = list(file.rollouts(plan))
    expected = [each for each in rollouts if each.position in wanted]
    parse_again, parsed = TaskFile._parse_again, list[int]()

    def parse(file: TaskFile, number: int, line: bytes, *, has_long: bool | None = None) -> Task:
        parsed.append(number)
        return parse_again(file, number, line, has_long=has_long)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskFile, "_parse_again", parse)
        assert list(file.rollouts(plan, wanted)) == expected
    assert parsed == sorted({each.key.task_index + 1 for each in expected})


def test_blank_lines_crlf_and_byte_order_mark_are_ignored(tmp_path: Path) -> None:
    """Blank lines, CRLF, a byte-order mark and a missing newline at the end do not matter."""
    text = b"\xef\xbb\xbf" + json.dumps(PLAIN).encode() + b"\r\n\r\n   \n" + json.dumps(PLAIN).encode()
    plan, rollouts = expanded(written(tmp_path, text))
    assert (plan.rows, len(rollouts)) == (2, 2)


def test_error_lists_every_bad_line_by_its_number_in_the_file(tmp_path: Path) -> None:
    """One pass reports every bad line with its reason and its number in the file, in which blank lines count."""
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
    message = str(error.value)
    assert "10 bad lines" in message
    assert [f"line {number}:" in message for number in range(1, 13)] == [True, False, *[True] * 9, False]
    assert "temperature must be a number from 0 to 2, got 3" in message


def test_bad_lines_with_the_same_reason_are_reported_as_ranges(tmp_path: Path) -> None:
    """Every bad line is reported, and lines with the same reason are reported together, as ranges."""
    with pytest.raises(InputError) as error:
        TaskFile(path=written(tmp_path, "x\n" * 70 + json.dumps(PLAIN) + "\nx\n"), parser=PARSER).plan()
    assert "71 bad lines" in str(error.value)
    assert "lines 1-70, 72: not JSON: " in str(error.value)


def test_limit_counts_input_rows_and_reads_no_further(tmp_path: Path) -> None:
    """`limit` counts input rows before they are repeated, and rows after the limit are not read."""
    path = written(tmp_path, "\n" + lines([PLAIN, PLAIN]) + "broken\n")
    plan, rollouts = expanded(path, parser_of(repeats=3), limit=2)
    assert (plan.rows, plan.rollouts, len(rollouts)) == (2, 6, 6)


@pytest.mark.parametrize("text", ["", "\n \n"], ids=["empty", "blank lines"])
def test_input_without_rows_is_an_error(tmp_path: Path, text: str) -> None:
    """An input without rows is an error, since a run of nothing is a mistake."""
    with pytest.raises(InputError, match="has no rows"):
        TaskFile(path=written(tmp_path, text), parser=PARSER).plan()


def test_identical_rows_are_separate_tasks(tmp_path: Path) -> None:
    """Lines with the same bytes do not share a task index."""
    _, rollouts = expanded(written(tmp_path, lines([PLAIN] * 3)))
    assert [rollout.key.task_index for rollout in rollouts] == [0, 1, 2]


def test_index_from_the_position_must_not_equal_a_rows_own_index(tmp_path: Path) -> None:
    """A row without `_ng_task_index` must not have the position of another row's index: both would share a group."""
    file = TaskFile(path=written(tmp_path, lines([{**PLAIN, "_ng_task_index": 1}, PLAIN])), parser=PARSER)
    with pytest.raises(InputError, match="line 2: its position, 1, is also the _ng_task_index of line 1"):
        file.plan()
    apart = TaskFile(path=written(tmp_path, lines([{**PLAIN, "_ng_task_index": 9}, PLAIN])), parser=PARSER)
    assert [key.task_index for key in apart.plan().rollout_keys()] == [9, 1]


@pytest.mark.parametrize(
    ("row", "prompt_id"),
    [({"prompt_id": 7, "id": "x"}, "7"), ({"id": "x"}, "x"), ({"task_id": "t"}, "t"), ({"uuid": "u"}, "u"), ({}, "0")],
)
def test_prompt_id_is_the_rows_own_id_or_its_task_index(tmp_path: Path, row: Any, prompt_id: str) -> None:
    """`prompt_id` is the row's `prompt_id`, `id`, `task_id` or `uuid` as text, and the task index without any of them."""
    _, [rollout] = expanded(written(tmp_path, lines([{**PLAIN, **row}])))
    assert rollout.prompt_id == prompt_id


def test_rows_are_sent_with_all_digits(tmp_path: Path) -> None:
    """Integers beyond 64 bits keep their digits, whichever rows of the input have them."""
    rows = [{**PLAIN, "n": number} for number in (1, 10**30 + 1, 2, -(10**40) - 1)]
    _, rollouts = expanded(written(tmp_path, lines(rows)))
    assert [rollout.row["n"] for rollout in rollouts] == [row["n"] for row in rows]


@pytest.mark.parametrize("text", [lines([PLAIN]), "broken\n", lines([PLAIN, {**PLAIN, "id": "other"}]), ""])
def test_input_that_changes_before_it_is_read_again_is_an_error(tmp_path: Path, text: str) -> None:
    """The second pass over the input raises an error if rows are missing, bad or others than those of the first."""
    path = written(tmp_path, lines([PLAIN, PLAIN]))
    file = TaskFile(path=path, parser=PARSER)
    plan = file.plan()
    path.write_text(text)
    with pytest.raises(InputChanged, match="was changed while the run read it"):
        list(file.rollouts(plan))


@pytest.mark.parametrize("is_dated_back", [False, True], ids=["", "time set back"])
@pytest.mark.parametrize("rows", [3, 3000])
def test_no_row_of_an_input_that_is_rewritten_in_place_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, *, is_dated_back: bool
) -> None:
    """After a rewrite in place, at most rows of the old content follow, and then an error."""
    if rows == 3:  # all rows are in the buffer already
        monkeypatch.setattr("ng_rollouts.inputs.task_file._CHECK_EVERY_S", 0.0)
    path = written(tmp_path, lines([{**PLAIN, "id": "old"}] * rows))
    file = TaskFile(path=path, parser=PARSER)
    seen = []
    rollouts = file.rollouts(file.plan())
    seen.append(next(rollouts))
    state = path.stat()
    path.write_text(lines([{**PLAIN, "id": "new"}] * rows))
    if is_dated_back:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(InputChanged):
        seen.extend(rollouts)
    assert {rollout.prompt_id for rollout in seen} == {"old"}


@pytest.mark.parametrize("change", ["touch", "grow", "replace", "remove"])
def test_change_that_leaves_the_planned_rows_is_no_error(tmp_path: Path, change: str) -> None:
    """New rows at the end, a new time, an equal copy or the removal of the open file change nothing."""
    text = lines([{**PLAIN, "id": str(number)} for number in range(5)])
    path = written(tmp_path, text)
    file = TaskFile(path=path, parser=PARSER)
    rollouts = file.rollouts(file.plan())
    seen = [next(rollouts)]
    if change == "touch":
        os.utime(path, (1, 1))
    elif change == "grow":
        path.write_text(text + lines([PLAIN]))
    else:
        path.unlink()
        if change == "replace":
            path.write_text(text)
    seen.extend(rollouts)
    assert [rollout.prompt_id for rollout in seen] == list("01234")


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the data of NeMo Gym are not installed here")
@pytest.mark.parametrize("path", sorted(SHARED_DATA.glob("*/example.jsonl")), ids=lambda path: path.parent.name)
def test_example_rows_of_nemo_gym_are_sent_unchanged(
    command: Callable[..., Ran], serve: Callable[..., Served], path: Path, tmp_path: Path
) -> None:
    """The example rows of NeMo Gym, with tools and many messages, are sent unchanged and come back in order."""
    server = serve()
    ran = command(
        f"+agent_url={server.url}", f"+input_jsonl_fpath={path}", "+output_jsonl_fpath=r.jsonl", "+num_repeats=2"
    )
    assert ran.code == 0, ran.stderr
    rows, originals = read_rows(tmp_path / "r.jsonl"), read_rows(path)
    assert keys_of(tmp_path / "r.jsonl") == [(task, rollout) for task in range(len(originals)) for rollout in range(2)]
    for row, original in zip(rows[::2], originals, strict=True):
        sent, own = row["responses_create_params"], original["responses_create_params"]
        assert sent == {**own, "input": sent["input"]}
        assert isinstance(own["input"], str) or sent["input"] == own["input"]
    bodies: list[Any] = server.stats()["last"]
    for body in bodies:
        original = originals[body["_ng_task_index"]]
        assert {key: body[key] for key in original if key not in ("responses_create_params", "agent_ref")} == {
            key: value for key, value in original.items() if key not in ("responses_create_params", "agent_ref")
        }
