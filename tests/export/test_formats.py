"""Recipes select and pair rollouts, and count the ones that they leave out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.export.recipes import RECIPES
from tests.conftest import ROOT, Ran, read_rows
from tests.export.helpers import export_groups, rollout_groups
from tests.rollout_files import rollout_row, write_rows

REWARDS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.8, 1.0])
GROUPS = st.lists(st.lists(REWARDS, min_size=1, max_size=5), min_size=1, max_size=6)


@given(
    groups=GROUPS,
    gap=st.sampled_from([0.0, 0.15, 0.5]),
    pairing=st.sampled_from(["best_worst", "best_second", "all", "random"]),
)
def test_dpo_pairs_agree_with_enumeration(groups: list[list[float]], gap: float, pairing: str) -> None:
    """Each pairing selects the pairs whose reward gap is wide enough; `random` selects one of them per group."""
    rows, _ = export_groups(rollout_groups(groups), "dpo", min_reward_gap=gap, pairing=pairing)
    pairs = Counter((row["_ng_task_index"], row["reward_chosen"], row["reward_rejected"]) for row in rows)
    expected: Counter[tuple[int, float, float]] = Counter()
    for task, rewards in enumerate(groups):
        ordered = sorted(rewards, reverse=True)
        candidates = list(combinations(ordered, 2))
        if pairing.startswith("best"):
            candidates = [(ordered[0], ordered[-1 if pairing == "best_worst" else 1])] if len(ordered) > 1 else []
        fit = [(task, high, low) for high, low in candidates if high > low and high - low >= gap]
        if pairing == "random":
            assert sum(pairs[pair] for pair in set(fit)) == bool(fit)
            assert not {pair for pair in pairs if pair[0] == task} - set(fit)
        expected.update(fit)
    assert pairing == "random" or pairs == expected
    assert all(row["reward_gap"] == row["reward_chosen"] - row["reward_rejected"] for row in rows)


def test_min_reward_gap_tolerates_floating_point_rounding() -> None:
    """Rewards of 1.0 and 0.8 have a gap of 0.2, although their difference as floats is slightly smaller."""
    rows, _ = export_groups(rollout_groups([[1.0, 0.8], [0.8, 0.6]]), "dpo", min_reward_gap=0.2)
    assert len(rows) == 2


def test_best_rollout_is_paired_with_the_worst_of_another_answer() -> None:
    """Rollouts with the same answer are never a pair, and a group with only one answer is counted as such."""
    group = [rollout_row(0, 0, 1.0, "same"), rollout_row(0, 1, 0.2, "other"), rollout_row(0, 2, 0.0, "same")]
    (row,), _ = export_groups([group], "dpo")
    assert row["reward_rejected"] == 0.2
    _, skipped = export_groups([[group[0], group[2]]], "dpo")
    assert +skipped == {"groups with only one distinct answer": 1}


def test_rollouts_of_different_prompts_are_never_paired(command: Callable[..., Ran], tmp_path: Path) -> None:
    """With `group_by=position`, different prompts in a group are an error; else only the first prompt's are used."""
    rows = [rollout_row(task, index, index / 2, prompt_id="same") for task in range(2) for index in range(3)]
    write_rows(tmp_path / "r.jsonl", rows)
    export = ["+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=out.jsonl", "+recipe=dpo"]
    ran = command(*export, "+group_by=position", "+num_repeats=4", script="ng_export_rollouts")
    assert ran.code == 2
    assert "group 1 contains different prompts: is num_repeats=4 right?" in ran.stderr
    ran = command(*export, "+group_by=prompt_id", script="ng_export_rollouts")
    assert "Left out: 3 different prompt in the same group" in ran.stdout
    assert [row["_ng_task_index"] for row in read_rows(tmp_path / "out.jsonl")] == [0]


@given(groups=GROUPS, min_reward=st.sampled_from([None, 0.25, 0.8]), best=st.booleans())
def test_every_rollout_is_exported_or_counted_by_reason(
    *, groups: list[list[float]], min_reward: float | None, best: bool
) -> None:
    """With recipe=sft, exported and skipped rollouts add up to all; recipe=kto labels rewards of 0.5 and more."""
    rows, skipped = export_groups(rollout_groups(groups), "sft", min_reward=min_reward, best_of_group=best)
    assert len(rows) + skipped.total() == sum(map(len, groups))
    assert all(row["reward"] >= (min_reward or 0) for row in rows)
    if best:
        highest = [max(group) for group in groups if max(group) >= (min_reward or 0)]
        assert [row["reward"] for row in rows] == highest
    labelled, _ = export_groups(rollout_groups(groups), "kto")
    assert [row["label"] for row in labelled] == [reward >= 0.5 for group in groups for reward in group]


@pytest.mark.parametrize(("dedupe", "kept"), [(None, 4), ("exact", 3), ("normalised", 2)])
def test_dedupe_keeps_one_of_each_answer_to_a_prompt(dedupe: str | None, kept: int) -> None:
    """Repeated answers to one prompt are dropped, and the same answer to another prompt is kept."""
    group = [rollout_row(0, 0, 1.0, "Four."), rollout_row(0, 1, 1.0, "Four."), rollout_row(0, 2, 1.0, " four. ")]
    rows, _ = export_groups([group, [rollout_row(1, 0, 1.0, "Four.")]], "sft", dedupe=dedupe)
    assert len(rows) == kept


@given(groups=GROUPS, low=st.sampled_from([0.0, 0.3]), high=st.sampled_from([0.5, 1.0]))
def test_rl_prompts_have_a_pass_rate_within_the_limits(groups: list[list[float]], low: float, high: float) -> None:
    """Prompts are exported with the mean reward of their group and without a response, as tasks to collect again."""
    rows, skipped = export_groups(rollout_groups(groups), "rl", min_pass_rate=low, max_pass_rate=high, threshold=0.5)
    rates = [sum(reward >= 0.5 for reward in group) / len(group) for group in groups]
    assert [row["pass_rate"] for row in rows] == [rate for rate in rates if low <= rate <= high]
    assert len(rows) + skipped.total() == len(groups)
    for row in rows:
        group = groups[row["_ng_task_index"]]
        assert row["mean_reward"] == pytest.approx(sum(group) / len(group))
        assert row["responses_create_params"]["input"] == row["prompt"]
        assert "response" not in row


def test_seeded_rollouts_are_exported_as_tasks_without_their_seeds(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Rollouts that differ in their seed are one task, and recipe=rl exports it with all fields that it had.

    Without task indices, such rollouts are still grouped by their input.
    """
    tasks = [
        {"responses_create_params": {"input": f"What is {n} + 3?"}, "expected_answer": str(n + 3)} for n in range(4)
    ]
    write_rows(tmp_path / "t.jsonl", tasks)
    collect = ["+agent_name=example_math_agent", "+num_repeats=3"]
    first = ["+num_repeats_add_seed=true", "+input_jsonl_fpath=t.jsonl", "+output_jsonl_fpath=r.jsonl"]
    assert command(*collect, *first).code == 0
    export = ["+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=out.jsonl"]
    assert command(*export, "+recipe=rl", script="ng_export_rollouts").code == 0
    assert command(*collect, "+input_jsonl_fpath=out.jsonl", "+output_jsonl_fpath=again.jsonl").code == 0
    assert all(
        row["expected_answer"] == tasks[row["_ng_task_index"]]["expected_answer"]
        for row in read_rows(tmp_path / "again.jsonl")
    )
    without_keys = [
        {name: value for name, value in row.items() if name[0] != "_" and name not in ("prompt_id", "input")}
        for row in read_rows(tmp_path / "r.jsonl")
    ]
    write_rows(tmp_path / "r.jsonl", without_keys)
    ran = command(*export, "+recipe=dpo", "+overwrite=true", script="ng_export_rollouts")
    assert "of 4 groups" in ran.stdout


@pytest.mark.extras
def test_trainers_accept_the_exported_rows(
    command: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` loads the file of every recipe, and TRL recognises each row as conversational."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets
    from trl.data_utils import is_conversational

    export = ["+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=out.jsonl", "+overwrite=true"]
    for agent in ("example_math_agent", "example_tool_agent"):
        files = [f"+input_jsonl_fpath={ROOT / 'examples' / 'arithmetic.jsonl'}", "+output_jsonl_fpath=r.jsonl"]
        collect = [f"+agent_name={agent}", "+sampling=dpo", "+limit=30", "+overwrite=true"]
        assert command(*collect, *files).code == 0
        for recipe in RECIPES:
            assert command(*export, f"+recipe={recipe}", script="ng_export_rollouts").code == 0
            loaded = datasets.load_dataset(
                "json", data_files=str(tmp_path / "out.jsonl"), split="train", cache_dir=str(tmp_path / agent / recipe)
            )
            assert len(loaded) == len(read_rows(tmp_path / "out.jsonl")) > 0
            assert all(is_conversational(row) for row in loaded)
