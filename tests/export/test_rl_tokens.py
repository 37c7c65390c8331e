"""Rows of token ids have the tokens that were sampled, each of them once, and advantages within their group."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ng_rollouts.export.advantages import advantages_of
from ng_rollouts.export.rl_tokens import RlTokens
from tests.conftest import ROOT, Ran, read_rows
from tests.export.helpers import export_groups
from tests.rollout_files import rollout_row, write_rows

NEMO_GYM_ROWS = ROOT / "tests" / "gym07" / "14_token_ids.jsonl"
EXAMPLE = ROOT / "examples" / "token_ids.jsonl"
IDS = st.integers(0, 5)
LOG_PROBS = st.floats(-20, 0, width=32)


def token_item(prompt: Any, sampled: Any, log_probs: Any) -> dict[str, Any]:
    """An item of a response with token ids."""
    ids = {"prompt_token_ids": prompt, "generation_token_ids": sampled, "generation_log_probs": log_probs}
    return {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c", **ids}


def token_row(index: int, items: list[dict[str, Any]], reward: float = 1.0, **fields: Any) -> dict[str, Any]:
    """A rollout whose response has these items."""
    return rollout_row(0, index, reward, response={"output": items}, **fields)


def with_results(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items with the result of a tool after each."""
    return [each for item in items for each in (item, {"type": "function_call_output", "call_id": "c", "output": "1"})]


@st.composite
def rollouts(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[bool]]:
    """The items of a rollout, and for each whether its prompt was made independently of the tokens before it."""
    items: list[dict[str, Any]] = []
    drifts: list[bool] = []
    before: list[int] = []
    for number in range(draw(st.integers(1, 5))):
        drift = number > 0 and draw(st.booleans())
        prompt = (
            draw(st.lists(IDS, min_size=1, max_size=8))
            if drift
            else before + draw(st.lists(IDS, min_size=number == 0, max_size=4))
        )
        sampled = draw(st.lists(IDS, min_size=1, max_size=4))
        log_probs = draw(st.lists(LOG_PROBS, min_size=len(sampled), max_size=len(sampled)))
        item = token_item(prompt, sampled, log_probs)
        assume(items[-1:] != [item])  # equal neighbours are one turn
        items.append(item)
        drifts.append(drift)
        before = prompt + sampled
    return items, drifts


@given(rollout=rollouts(), results=st.booleans())
def test_each_sampled_token_is_trained_once_with_its_log_probability(
    *, rollout: tuple[list[dict[str, Any]], list[bool]], results: bool
) -> None:
    """The rows of a rollout have its sampled tokens and log probabilities, in order; each row is what the server saw."""
    items, _ = rollout
    rows, _ = export_groups([[token_row(0, with_results(items) if results else items)]], "rl_tokens")
    for row in rows:
        assert len(row["loss_mask"]) == len(row["logprobs"]) == len(row["response_ids"])
        assert set(row["loss_mask"]) <= {0, 1}
        assert row["loss_mask"][0] == 1  # what precedes the first sampled token is the prompt
        assert all(value == 0.0 for value, mask in zip(row["logprobs"], row["loss_mask"], strict=True) if not mask)
    assert sum(sum(row["loss_mask"]) for row in rows) == sum(len(item["generation_token_ids"]) for item in items)
    for column, name in (("response_ids", "generation_token_ids"), ("logprobs", "generation_log_probs")):
        trained = [value for row in rows for value, mask in zip(row[column], row["loss_mask"], strict=True) if mask]
        assert trained == [value for item in items for value in item[name]]


@given(rollout=rollouts())
def test_rows_begin_where_a_prompt_does_not_begin_with_all_tokens_before_it(
    rollout: tuple[list[dict[str, Any]], list[bool]],
) -> None:
    """A row is the last prompt and the last sampled tokens of its turns, and its prompt is that of its first turn."""
    items, _ = rollout
    expected: list[tuple[list[int], list[int]]] = []
    for item in items:
        prompt, whole = item["prompt_token_ids"], item["prompt_token_ids"] + item["generation_token_ids"]
        if expected and prompt[: len(expected[-1][1])] == expected[-1][1]:
            expected[-1] = (expected[-1][0], whole)
        else:
            expected.append((prompt, whole))
    rows, _ = export_groups([[token_row(0, items)]], "rl_tokens")
    assert [(row["prompt_ids"], row["prompt_ids"] + row["response_ids"]) for row in rows] == expected
    assert [(row["row_index"], row["num_rows"]) for row in rows] == [(n, len(expected)) for n in range(len(expected))]


@given(rollout=rollouts())
def test_drift_can_leave_a_rollout_out(rollout: tuple[list[dict[str, Any]], list[bool]]) -> None:
    """With `on_drift=drop`, a rollout is one row or counted by its reason, and without drift it is always a row."""
    items, drifts = rollout
    rows, skipped = export_groups([[token_row(0, items)]], "rl_tokens", on_drift="drop")
    assert len(rows) + sum(skipped.values()) == 1
    assert any(drifts) or len(rows) == 1


REWARDS = st.lists(st.sampled_from([0.0, 0.1, 1 / 3, 1.0, 7.0]) | st.floats(-100, 100), min_size=1, max_size=8)


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@given(rewards=REWARDS, data=st.data())
def test_advantages_sum_to_zero_and_follow_their_rollouts(kind: str, rewards: list[float], data: st.DataObject) -> None:
    """The advantages of a group sum to 0, and those of a permuted group are the permuted ones."""
    values = dict(enumerate(advantages_of(rewards, kind)))
    assert math.fsum(value for value in values.values() if value is not None) == pytest.approx(0, abs=1e-9)
    order = data.draw(st.permutations(range(len(rewards))))
    permuted = advantages_of([rewards[number] for number in order], kind)
    assert permuted == pytest.approx([values[number] for number in order], abs=1e-9)


@given(rewards=REWARDS)
def test_advantages_are_those_of_the_definitions(rewards: list[float]) -> None:
    """`grpo` divides by the sample's standard deviation plus 1e-4, `rloo` takes the mean of the others, `none` is null."""
    assume(len(rewards) > 1 and len(set(rewards)) > 1)
    mean, sd = statistics.fmean(rewards), statistics.stdev(rewards)
    assert advantages_of(rewards, "grpo") == pytest.approx([(each - mean) / (sd + 1e-4) for each in rewards])
    others = [statistics.fmean(rewards[:n] + rewards[n + 1 :]) for n in range(len(rewards))]
    expected = [each - other for each, other in zip(rewards, others, strict=True)]
    assert advantages_of(rewards, "rloo") == pytest.approx(expected, abs=1e-9)
    assert advantages_of(rewards, "none") == [None] * len(rewards)


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("rewards", [[0.1], [0.1] * 3, []])
def test_groups_without_differences_have_advantages_of_zero(kind: str, rewards: list[float]) -> None:
    """Equal rewards, and a single one, have advantages of exactly 0."""
    assert advantages_of(rewards, kind) == [0.0] * len(rewards)


def test_only_valid_rollouts_count_in_a_group() -> None:
    """Masked rollouts are no rows and do not count; those left out for their tokens count, as their reward is measured."""
    good = [token_item([1], [2], [-0.5])]
    group = [
        token_row(0, good, 1.0),
        token_row(1, good, 0.0),
        token_row(2, good, 100.0, mask_sample=True),
        token_row(3, [], 0.5),
    ]
    rows, skipped = export_groups([group], "rl_tokens", advantage="rloo")
    assert [(row["rollout_index"], row["advantage"]) for row in rows] == [(0, 0.75), (1, -0.75)]
    assert +skipped == {"masked": 1, "no sampled tokens": 1}


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([rollout_row(0, 0, 1.0)["response"]["output"][0]], "no token ids"),
        ([*with_results([token_item([1], [2], [-1.0])]), {"type": "message", "role": "assistant"}], "turns without token ids"),
        ([{"type": "reasoning"}, *with_results([{"type": "function_call"}]), token_item([1], [2], [-1.0])], "turns without token ids"),
        ([token_item([1], [2, 3], [-1.0])], "not one log probability for each sampled token"),
        ([token_item([1], [2], None)], "no log probabilities"),
        ([token_item([1], [2], {"0": -1})], "not one log probability for each sampled token"),
        ([token_item([], [2], [-1.0])], "no token ids of a prompt"),
        ([token_item(None, [2], [-1.0])], "no token ids of a prompt"),
        ([token_item([1], [], [])], "no sampled tokens"),
        *(
            ([token_item(prompt, sampled, [-1.0])], "token ids that are not integers from 0 to 2147483647")
            for prompt, sampled in (([-1], [2]), ([1], [-2]), ([1], [2.0]), ([True], [2]), (["1"], [2]), ([1], [2**31]), ([1], "2"))
        ),
        *(
            ([token_item([1], [2], [value])], "log probabilities that are not finite numbers up to 0")
            for value in (0.1, -math.inf, math.nan, -(10**400), None, True, "-1")
        ),
    ],
)  # fmt: skip
def test_rollouts_with_unusable_tokens_are_counted_by_reason(items: list[dict[str, Any]], reason: str) -> None:
    """A rollout whose ids or log probabilities are missing or not valid is no row, and is counted."""
    good = token_row(0, [token_item([1], [2], [-0.5])])
    rows, skipped = export_groups([[good, token_row(1, items)]], "rl_tokens")
    assert (len(rows), +skipped) == (1, {reason: 1})


def test_log_probabilities_may_exceed_zero_by_rounding() -> None:
    """A log probability of 1e-6 or of the integer 0 is valid, and the row has it as a float."""
    [row], _ = export_groups([[token_row(0, [token_item([1], [2, 3], [1e-6, 0])])]], "rl_tokens")
    assert row["logprobs"] == [1e-6, 0.0]
    assert all(isinstance(each, float) for each in row["logprobs"])


def test_ids_on_each_item_of_a_turn_are_one_turn() -> None:
    """Ids that a server repeats on each item of a turn are trained on once; turns without tokens are none."""
    item = token_item([1], [2], [-0.5])
    rows, _ = export_groups(
        [[token_row(0, [{**item, "type": "reasoning"}, item, token_item([9], [], [])])]], "rl_tokens"
    )
    assert [(row["prompt_ids"], row["response_ids"]) for row in rows] == [([1], [2])]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ([1, 2, 7, 8], "sampled tokens encoded differently"),
        ([1, 9, 3, 4, 5], "prompt or tool results encoded differently"),
        ([1, 2, 3], "prompt shorter than the turns before it"),
    ],
)
def test_reasons_of_new_rows_say_what_differs(prompt: list[int], reason: str) -> None:
    """The first token that differs decides the reason."""
    items = [token_item([1, 2], [3, 4], [-1.0, -1.0]), token_item(prompt, [6], [-1.0])]
    rows, skipped = export_groups([[token_row(0, items)]], "rl_tokens", on_drift="drop")
    assert (rows, +skipped) == ([], {reason: 1})


def test_truncated_rollouts_are_flagged_or_left_out() -> None:
    """Truncated rollouts are rows with the flag; `keep_truncated=false` leaves them out, and their reward still counts."""
    items = [token_item([1], [2], [-0.5])]
    cut = token_row(1, items, 0.0)
    cut["response"]["status"] = "incomplete"
    group = [token_row(0, items, 1.0), cut]
    rows, _ = export_groups([group], "rl_tokens", advantage="rloo")
    assert [(row["truncated"], row["advantage"]) for row in rows] == [(False, 1.0), (True, -1.0)]
    rows, skipped = export_groups([group], "rl_tokens", advantage="rloo", keep_truncated=False)
    assert ([row["advantage"] for row in rows], +skipped) == ([1.0], {"truncated": 1})


@pytest.mark.parametrize(
    ("response", "row", "version"),
    [
        ({"metadata": {"weight_version": "v1"}}, {}, "v1"),
        ({"meta_info": {"weight_version": 3}}, {}, "3"),
        ({}, {"weight_version": "v2"}, "v2"),
        ({"metadata": None, "weight_version": ["odd"]}, {}, None),
    ],
)
def test_rows_have_the_weight_version_of_the_server(
    response: dict[str, Any], row: dict[str, Any], version: str | None
) -> None:
    """The version is text, from wherever servers put it; null without one."""
    rollout = token_row(0, [token_item([1], [2], [-0.5])], **row)
    rollout["response"].update(response)
    [exported], _ = export_groups([[rollout]], "rl_tokens")
    assert exported["weight_version"] == version


@pytest.fixture
def export(command: Callable[..., Ran]) -> Callable[..., Ran]:
    """Run `ng_export_rollouts +recipe=rl_tokens` on the example, unless the arguments name another input."""

    def run(*arguments: str, output: str = "out.jsonl") -> Ran:
        files = (f"+input_jsonl_fpath={EXAMPLE}", f"+output_jsonl_fpath={output}", "+recipe=rl_tokens")
        return command(*files, *arguments, script="ng_export_rollouts")

    return run


def test_drift_can_be_an_error(export: Callable[..., Ran], tmp_path: Path) -> None:
    """With `on_drift=fail`, the first such rollout is named, and no file is written."""
    ran = export("+on_drift=fail")
    assert ran.code == 2
    assert "error: group 0, rollout 1, turn 2: sampled tokens encoded differently: +on_drift=fork" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_statistics_count_rows_forks_and_tokens(export: Callable[..., Ran], tmp_path: Path) -> None:
    """The last output has rows, rollouts, forks by reason, sampled tokens, their share and the spread of advantages."""
    ran = export("+quiet=true")
    found = json.loads(ran.stdout)
    assert found["mean_advantage_sd"] == pytest.approx(1, abs=1e-3)
    rows = read_rows(tmp_path / "out.jsonl")
    tokens = sum(len(row["prompt_ids"]) + len(row["response_ids"]) for row in rows)
    expected = {
        "rows": len(rows),
        "exported_rollouts": 5,
        "forks": {"sampled tokens encoded differently": 1},
        "sampled_tokens": 17,
        "share_with_loss": 17 / tokens,
        "groups_without_advantage": 0,
    }
    assert {name: found[name] for name in expected} == expected
    assert json.loads(export("+quiet=true", "+advantage=none").stdout)["mean_advantage_sd"] is None


def test_file_without_token_ids_is_an_error(export: Callable[..., Ran], tmp_path: Path) -> None:
    """Without any token ids, the message says what to ask the server for, and no file is written."""
    source = write_rows(tmp_path / "r.jsonl", [rollout_row(0, 0, 1.0)])
    ran = export(f"+input_jsonl_fpath={source}")
    assert ran.code == 2
    assert "has token ids: collect with +token_ids=required" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


def test_trajectories_have_the_rows_of_their_rollouts(
    export: Callable[..., Ran], command: Callable[..., Ran], tmp_path: Path
) -> None:
    """Exported as trajectories and read again, rollouts have the same rows of token ids."""
    assert export(output="direct.jsonl").code == 0
    assert export("+recipe=atif", output="atif.jsonl").code == 0
    assert export("+input_jsonl_fpath=atif.jsonl", output="again.jsonl").code == 0
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "direct.jsonl").read_bytes()


@pytest.mark.parametrize("advantage", ["grpo", "none"])
def test_parquet_has_the_rows_of_jsonl(export: Callable[..., Ran], tmp_path: Path, advantage: str) -> None:
    """Parquet has the same rows, with ids as 32-bit integers and log probabilities as 32-bit floats."""
    for name in ("t.jsonl", "t.parquet"):
        assert export(f"+advantage={advantage}", output=name).code == 0
    table = pq.read_table(tmp_path / "t.parquet")
    types = {name: str(table.schema.field(name).type) for name in ("prompt_ids", "loss_mask", "logprobs", "advantage")}
    ids = "list<element: int32>"
    assert types == {"prompt_ids": ids, "loss_mask": ids, "logprobs": "list<element: float>", "advantage": "double"}
    for row, read in zip(read_rows(tmp_path / "t.jsonl"), table.to_pylist(), strict=True):
        assert read.pop("logprobs") == pytest.approx(row.pop("logprobs"))
        assert read == row


def test_parquet_without_rows_has_all_columns(export: Callable[..., Ran], tmp_path: Path) -> None:
    """If all rollouts are left out, the file is valid, and has the columns of the other files."""
    assert export(output="t.parquet").code == 0
    assert export("+min_valid_per_group=9", output="none.parquet").code == 0
    columns = [pq.read_table(tmp_path / name).column_names for name in ("t.parquet", "none.parquet")]
    assert columns[0] == columns[1] == list(RlTokens.column_types)


def test_parquet_file_of_a_run_is_not_replaced(export: Callable[..., Ran], tmp_path: Path) -> None:
    """The name of the Parquet file that a run writes beside its output is an error."""
    write_rows(tmp_path / "r.jsonl.gz", [])
    (tmp_path / "r_manifest.json").write_text("{}")
    ran = export(output="r.parquet")
    assert ran.code == 2
    assert (
        "r.parquet is the name of a side file: r.jsonl.gz is the output of a run (it has r_manifest.json)" in ran.stderr
    )


def test_split_does_not_divide_a_group(export: Callable[..., Ran], tmp_path: Path) -> None:
    """All rows of a group are in one part, also if the rollouts have no prompt as text."""
    items = [token_item([1], [2], [-0.5]), token_item([7], [8], [-0.5])]
    rows = [{**token_row(index, items), "_ng_task_index": task} for task in range(6) for index in range(2)]
    source = write_rows(tmp_path / "r.jsonl", [{**row, "responses_create_params": {}} for row in rows])
    ran = export(f"+input_jsonl_fpath={source}", "+validation_fraction=0.34", output="t.parquet")
    assert ran.code == 0, ran.stderr
    train, held_out = (
        set(pq.read_table(tmp_path / name)["group_id"].to_pylist()) for name in ("t.parquet", "t_validation.parquet")
    )
    assert (len(train), len(held_out), train & held_out) == (4, 2, set())


def test_rows_of_nemo_gyms_token_ids(export: Callable[..., Ran], tmp_path: Path) -> None:
    """Two turns are one sequence, a masked rollout is none, and a prompt that does not extend the first begins a row."""
    assert export(f"+input_jsonl_fpath={NEMO_GYM_ROWS}").code == 0
    rows = [
        (row["group_id"], row["prompt_ids"], row["response_ids"], row["loss_mask"], row["logprobs"])
        for row in read_rows(tmp_path / "out.jsonl")
    ]
    assert rows == [
        (0, [1, 2, 3], [4, 5, 6, 7], [1, 1, 0, 1], [-0.1, -0.2, 0.0, -0.3]),
        (2, [1, 2], [3], [1], [-0.1]),
        (2, [1, 9, 3], [4], [1], [-0.1]),
    ]
