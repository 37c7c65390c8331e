"""`dispatch=longest_first`: the same rollouts, the longest tasks first, in little memory."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import InputChanged
from ng_rollouts.inputs.dispatch_order import UNKNOWN, LongestFirst, TaskMeans, field_estimate, key_of_estimate
from ng_rollouts.inputs.shards import Shard
from ng_rollouts.inputs.task_file import TaskFile
from ng_rollouts.jsonl import loads
from tests.conftest import Ran
from tests.inputs.helpers import PLAIN, lines, parser_of, written
from tests.servers import Served

ESTIMATE = field_estimate("tokens")


def by_tokens(_: int, line: bytes) -> float | None:
    """The estimate in a line."""
    return ESTIMATE(loads(line))


@given(
    rows=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=90),
    blank=st.sets(st.integers(0, 89)),
    has_index=st.booleans(),
    shard=st.sampled_from([None, Shard(0, 3), Shard(2, 3)]),
)
def test_longest_first_sends_the_same_rollouts_by_falling_estimate(
    rows: list[tuple[int, int, int]],
    blank: set[int],
    shard: Shard | None,
    tmp_path_factory: pytest.TempPathFactory,
    *,
    has_index: bool,
) -> None:
    """No rollout is lost or changed, estimates fall, and equal ones stay in the order of the input.

    This holds with blank lines, shards, different repeats, and rows that share a task index.
    """
    tasks = [
        {**PLAIN, "tokens": tokens, "agent_ref": {"name": f"agent{count}"}}
        | ({"_ng_task_index": index} if has_index else {})
        for count, index, tokens in rows
    ]
    text = "".join("\n" * (at in blank) + line for at, line in enumerate(lines(tasks).splitlines(keepends=True)))
    parser = parser_of(None, {f"agent{count}": count for count in range(1, 4)})
    file = TaskFile(path=written(tmp_path_factory.mktemp("t"), text), parser=parser, shard=shard)
    plan = file.plan()
    sent = list(file.ordered_rollouts(plan, file.longest_first(plan, by_tokens)))
    assert sent == sorted(file.rollouts(plan), key=lambda rollout: -rollout.row["tokens"])
    first = list(file.ordered_rollouts(plan, file.longest_first(plan, by_tokens), 0))
    assert first == [rollout for rollout in sent if rollout.key.rollout_index == 0]


@given(st.lists(st.floats(min_value=0, max_value=1e30) | st.none(), min_size=1))
def test_order_is_that_of_estimates_within_a_hundredth(estimates: list[float | None]) -> None:
    """Tasks without an estimate are first, then estimates fall, except that nearly equal ones may be swapped."""
    order = LongestFirst()
    for each in estimates:
        order.add(each)
    in_order = [estimates[row] for row in order.rows]
    unknown = in_order.count(None)
    assert in_order[:unknown] == [None] * unknown
    known = [each for each in in_order if each is not None]
    assert all(after <= before * 1.01 + 1e-37 for before, after in pairwise(known))


@pytest.mark.parametrize("value", [-1.0, float("-inf"), -(10**400)])
def test_negative_estimate_counts_as_zero(value: float) -> None:
    """A negative number is no reason to send a task first."""
    assert key_of_estimate(value) == key_of_estimate(0.0) < UNKNOWN


@pytest.mark.parametrize("value", [float("inf"), 10**400, 1e300])
def test_largest_estimate_is_no_error(value: float) -> None:
    """Infinite numbers, and integers that no float can have, are larger than all others."""
    assert key_of_estimate(3e37) < key_of_estimate(ESTIMATE({"tokens": value})) < UNKNOWN


@pytest.mark.parametrize("value", [float("nan"), "90", None, True, [90]])
def test_value_that_is_no_number_is_no_estimate(value: object) -> None:
    """Such a task has an unknown estimate, as one without the field."""
    assert key_of_estimate(ESTIMATE({"tokens": value})) == key_of_estimate(ESTIMATE({})) == UNKNOWN


@pytest.mark.parametrize(("length", "most"), [(1000, 31), (10_000, 6), (300_000, 0)])
def test_few_rows_are_read_to_find_one(length: int, most: int) -> None:
    """From the offset before a row, at most 31 other rows are read, and about 64 KB at most."""
    order = LongestFirst()
    for row in range(200):
        order.add(1.0)
        if order.begins_block(offset := length * (row + 1)):
            order.add_block(offset, row + 1, row + 1, row + 1)
    for row in order.rows:
        first, place = order.block(row)
        assert place == (length * first, first, first, first)
        assert 0 <= row - first <= most


def test_changed_input_is_an_error(tmp_path: Path) -> None:
    """A row that was changed after the check is not sent."""
    path = written(tmp_path, lines([{**PLAIN, "tokens": 1}] * 200))
    file = TaskFile(path=path, parser=parser_of())
    plan = file.plan()
    sent = file.ordered_rollouts(plan, file.longest_first(plan, by_tokens))
    next(sent)
    path.write_text(lines([{**PLAIN, "tokens": 2}] * 200))
    with pytest.raises(InputChanged):
        list(sent)


def test_order_takes_at_most_eight_bytes_for_each_task() -> None:
    """At no time, sorting and means of earlier rollouts included."""
    tasks = 200_000
    tracemalloc.start()
    try:
        means, order = TaskMeans(), LongestFirst()
        for task in range(tasks):
            means.add(task, float(task % 977))
        for task in range(tasks):
            if order.begins_block(task):
                order.add_block(task, task, task, task)
            order.add(means.mean(task))
        del means
        assert len(order.rows) == tasks
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most <= 8.5 * tasks + 2_000_000  # arrays grow in steps of an eighth; the sort takes 1 MB at any size


@pytest.mark.parametrize("option", ["+dispatch_field=tokens", "+dispatch_from=earlier.jsonl"])
def test_longest_tasks_are_sent_first_and_the_output_is_in_order(
    serve_model: Callable[..., Served], command: Callable[..., Ran], tmp_path: Path, option: str
) -> None:
    """The server is asked by falling estimate, from a field or from the tokens of earlier rollouts."""
    server = serve_model(apis=["chat"])
    (tmp_path / "tasks.jsonl").write_text(
        "".join(
            json.dumps({"responses_create_params": {"input": f"{task} + 1"}, "tokens": tokens}) + "\n"
            for task, tokens in enumerate((5, 90, 40))
        )
    )
    (tmp_path / "earlier.jsonl").write_text(
        "".join(earlier(task, tokens) for task, tokens in ((0, 4), (0, 6), (1, 90), (2, 40), (9, 1))) + '{"_ng_task_in'
    )
    ran = command(
        f"+policy_base_url={server.url}/v1",
        "+policy_api=chat_completions",
        "+verifier=none",
        "+num_samples_in_parallel=1",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=rollouts.jsonl",
        "+dispatch=longest_first",
        option,
    )
    assert ran.code == 0, ran.stderr
    rows = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    assert [row["_ng_task_index"] for row in rows] == [0, 1, 2]
    asked = re.findall(r"(\d) \+ 1", json.dumps(server.stats()["last"]))
    assert asked == ["1", "2", "0"]


def earlier(task: int, tokens: int) -> str:
    """A line of a file of rollouts."""
    row: dict[str, Any] = {"_ng_task_index": task, "response": {"usage": {"output_tokens": tokens}}}
    return json.dumps(row) + "\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["+dispatch=longest_first"], "dispatch=longest_first needs an estimate"),
        (["+dispatch_field=tokens"], "have no effect without dispatch=longest_first"),
        (["+dispatch=longest_first", "+dispatch_from=none.jsonl"], "dispatch_from none.jsonl cannot be read"),
        (["+dispatch=longest_first", "+dispatch_field=nope"], "no task has a number in dispatch_field=nope"),
        (["+dispatch=longest_first", "+dispatch_field=expected_answer"], "no task has a number in dispatch_field"),
        (["+dispatch=longest_first", "+dispatch_from=tasks.jsonl"], "dispatch_from tasks.jsonl has no rollouts"),
    ],
)
def test_order_without_an_estimate_is_an_error(
    collect_sums: Callable[..., Ran], options: list[str], message: str
) -> None:
    """Bad combinations end with exit code 2 before anything is sent."""
    ran = collect_sums("http://127.0.0.1:1", *options)
    assert (ran.code, message in ran.stderr) == (2, True), ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "earlier_rollouts",
    ["", '{"_ng_task_index": 9, "response": {"usage": {"output_tokens": 3}}}\n',
     '{"_ng_task_index": 0, "response": {}}\n', '{"_ng_task_index": 0, "resp'],
    ids=["empty", "of other tasks", "without tokens", "half-written"],
)  # fmt: skip
def test_file_without_an_estimate_for_these_tasks_is_a_note(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], tmp_path: Path, earlier_rollouts: str
) -> None:
    """A run that has just begun, or one of other tasks, is no mistake in the command."""
    (tmp_path / "earlier.jsonl").write_text(earlier_rollouts)
    order = ["+dispatch=longest_first", "+dispatch_from=earlier.jsonl"]
    ran = collect_sums(serve_model().url, "+verifier=none", *order)
    assert (ran.code, "note: 5 of 5 tasks have no estimate in dispatch_from" in ran.stderr) == (0, True), ran.stderr


def test_shard_whose_tasks_have_no_estimate_is_collected(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran]
) -> None:
    """One element of a job array does not fail because the tasks with a number are in others."""
    order = ["+dispatch=longest_first", "+dispatch_field=tokens", "+shard_index=0", "+num_shards=2"]
    rows = [{"responses_create_params": {"input": "1 + 1"}}, {"responses_create_params": {"input": "2"}, "tokens": 3}]
    ran = collect_sums(serve_model().url, "+verifier=none", *order, rows=rows)
    assert (ran.code, "note: 1 of 1 task has no estimate" in ran.stderr) == (0, True), ran.stderr
