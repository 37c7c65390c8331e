"""Rows to train on: what goes in, what comes out, and why not."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ng_rollouts.export.config import ExportConfig
from ng_rollouts.export.examples import Example
from ng_rollouts.export.recipes import RECIPES
from ng_rollouts.export.sink import Sink

from .conftest import SCRIPTS, SHARED_DATA, Ran, read_rows

REWARDS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.8, 1.0])
GROUPS = st.lists(st.lists(REWARDS, min_size=1, max_size=5), min_size=1, max_size=6)


def rollout(task: int, index: int, reward: float | None, text: str | None = None, **more: Any) -> dict[str, Any]:
    text = f"answer {index}" if text is None else text
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    return {
        "responses_create_params": {"input": [{"role": "user", "content": f"question {task}"}]},
        "response": {"output": [message], "usage": {"output_tokens": len(text.split())}},
        **({} if reward is None else {"reward": reward}),
        "_ng_task_index": task,
        "_ng_rollout_index": index,
        **more,
    }


def rollouts(groups: list[list[float]]) -> list[list[dict[str, Any]]]:
    return [[rollout(task, index, reward) for index, reward in enumerate(group)] for task, group in enumerate(groups)]


def config(recipe: str, **more: Any) -> ExportConfig:
    return ExportConfig(recipe=recipe, input_jsonl_fpath="i", output_jsonl_fpath="o", **more)


def exported(groups: list[list[dict[str, Any]]], recipe: str, **more: Any) -> tuple[list[Any], Counter[str]]:
    made = RECIPES[recipe](config(recipe, **more))
    return [row for group in groups for row in made.rows(group)], made.drops


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            str(SCRIPTS / "ng_export_rollouts"),
            "+input_jsonl_fpath=r.jsonl",
            "+output_jsonl_fpath=out.jsonl",
            *arguments,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def write(folder: Path, rows: list[Any]) -> None:
    (folder / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@given(
    groups=GROUPS,
    gap=st.sampled_from([0.0, 0.15, 0.5]),
    pairing=st.sampled_from(["best_worst", "best_second", "all", "random"]),
)
def test_pairs_are_those_that_the_gap_allows(groups: list[list[float]], gap: float, pairing: str) -> None:
    """Held against brute force: which rewards are paired, and how often."""
    rows, _ = exported(rollouts(groups), "dpo", min_reward_gap=gap, pairing=pairing)
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


@given(groups=GROUPS, least=st.sampled_from([None, 0.25, 0.8]), best=st.booleans())
def test_every_rollout_is_written_or_left_out_for_a_reason(
    *, groups: list[list[float]], least: float | None, best: bool
) -> None:
    """Nothing goes without being counted."""
    rows, drops = exported(rollouts(groups), "sft", min_reward=least, best_of_group=best)
    assert len(rows) + drops.total() == sum(map(len, groups))
    assert all(row["reward"] >= (least or 0) for row in rows)
    if best:
        tops = [max(group) for group in groups if max(group) >= (least or 0)]
        assert [row["reward"] for row in rows] == tops
    labelled, _ = exported(rollouts(groups), "kto")
    assert [row["label"] for row in labelled] == [reward >= 0.5 for group in groups for reward in group]


@given(groups=GROUPS, low=st.sampled_from([0.0, 0.3]), high=st.sampled_from([0.5, 1.0]))
def test_prompts_are_in_the_band(groups: list[list[float]], low: float, high: float) -> None:
    """With the mean and the variance of their group; a prompt can be collected from again."""
    rows, drops = exported(rollouts(groups), "rl", min_pass_rate=low, max_pass_rate=high, threshold=0.5)
    rates = [sum(reward >= 0.5 for reward in group) / len(group) for group in groups]
    assert [row["pass_rate"] for row in rows] == [rate for rate in rates if low <= rate <= high]
    assert len(rows) + drops.total() == len(groups)
    for row in rows:
        group = groups[row["_ng_task_index"]]
        assert row["mean_reward"] == pytest.approx(sum(group) / len(group))
        assert row["responses_create_params"]["input"] == row["prompt"]
        assert "response" not in row


@settings(deadline=None)
@given(
    prompts=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    fraction=st.sampled_from([0.0, 0.1, 0.5]),
    shuffle=st.booleans(),
    seed=st.integers(0, 5),
)
def test_a_split_is_of_prompts_and_an_order_is_seeded(
    *, prompts: list[int], fraction: float, shuffle: bool, seed: int
) -> None:
    """No prompt is in both parts, all rows are in one, the same seed gives the same."""
    with TemporaryFile() as file:
        sink = Sink(file)
        for number, prompt in enumerate(prompts):
            sink.add([{"number": number}], [{"role": "user", "content": str(prompt)}])
        train, validation = sink.parts(fraction, shuffle=shuffle, seed=seed)
        assert sink.parts(fraction, shuffle=shuffle, seed=seed) == (train, validation)
    assert sorted([*train, *validation]) == list(range(len(prompts)))
    parts = {prompts[place] for place in train}, {prompts[place] for place in validation}
    assert not parts[0] & parts[1]
    assert len(parts[1]) == round(fraction * len(set(prompts)))
    if not shuffle:
        assert list(train) == sorted(train)


def test_bounds_and_what_cannot_be_trained_on() -> None:
    """Each with its reason."""
    group = [
        rollout(0, 0, 1.0, "one two three"),
        rollout(0, 1, 1.0, ""),
        rollout(0, 2, None),
        rollout(0, 3, 1.0, "one"),
        rollout(0, 4, 1.0, "one two three four five"),
        {**rollout(0, 5, 1.0), "response": {"output": []}},
        {**rollout(0, 6, 1.0), "response": {**rollout(0, 6, 1.0)["response"], "incomplete_details": {"reason": "max"}}},
    ]
    rows, drops = exported([group], "sft", min_tokens=2, max_tokens=4)
    assert [row["messages"][-1]["content"] for row in rows] == ["one two three"]
    reasons = {
        "nothing said by the assistant": 2,
        "no reward": 1,
        "too few tokens": 1,
        "too many tokens": 1,
        "truncated": 1,
    }
    assert drops == reasons
    assert len(exported([group], "sft", keep_truncated=True, max_turns=1, max_characters=13)[0]) == 3


@pytest.mark.parametrize(("dedupe", "kept"), [(None, 4), ("exact", 3), ("normalised", 2)])
def test_duplicates(dedupe: str | None, kept: int) -> None:
    """One of each answer to a prompt; other prompts may have the same."""
    group = [rollout(0, 0, 1.0, "Four."), rollout(0, 1, 1.0, "Four."), rollout(0, 2, 1.0, " four. ")]
    rows, _ = exported([group, [rollout(1, 0, 1.0, "Four.")]], "sft", dedupe=dedupe)
    assert len(rows) == kept


def test_tool_calls_and_reasoning_are_messages() -> None:
    """Calls and results are there, tools as JSON text, reasoning as long as it is to be kept."""
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "2"}]},
    ]
    row = rollout(0, 0, 1.0)
    row["response"]["output"] = items
    row["responses_create_params"]["tools"] = [{"type": "function", "name": "add", "parameters": {"type": "object"}}]
    (made,), _ = exported([[row]], "sft")
    assert [message["role"] for message in made["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert made["messages"][1]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert made["messages"][1]["reasoning_content"] == "hm"
    assert json.loads(made["tools"]) == [
        {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    ]
    (made,), _ = exported([[row]], "sft", keep_reasoning=False)
    assert not any("reasoning_content" in message for message in made["messages"])


@pytest.mark.parametrize("group_by", ["auto", "prompt_id", "position", "input"])
def test_groups_by_what_rows_have(tmp_path: Path, group_by: str) -> None:
    """Old files without indices, in whatever order their prompts lie."""
    rows = [rollout(task, index, index / 2, prompt_id=f"p{task}") for task in range(4) for index in range(3)]
    if group_by != "position":
        rows = [rows[place] for place in (7, 0, 3, 11, 5, 1, 2, 9, 8, 10, 4, 6)]
    write(tmp_path, [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows])
    done = run(
        tmp_path, "+recipe=dpo", f"+group_by={group_by}", *(["+num_repeats=3"] if group_by == "position" else [])
    )
    assert done.returncode == 0, done.stderr
    assert (
        "Created 4 preference pairs from 4 groups\nPair creation rate: 100.0%\nChosen:   μ=1.000, σ=0.000"
        in done.stdout
    )
    assert json.loads(done.stdout[done.stdout.index("\n{") :])["reward_gap"] == {"mean": 1.0, "sd": 0.0}
    assert len(read_rows(tmp_path / "out.jsonl")) == 4


def test_outputs_that_are_there_are_moved_aside(tmp_path: Path) -> None:
    """Unless they may be replaced; the parts of a split likewise."""
    write(tmp_path, [rollout(task, 0, 1.0) for task in range(10)])
    arguments = ["+recipe=sft", "+validation_fraction=0.2", "+shuffle=true"]
    assert run(tmp_path, *arguments).returncode == 0
    first = read_rows(tmp_path / "out.jsonl"), read_rows(tmp_path / "out_validation.jsonl")
    assert (len(first[0]), len(first[1])) == (8, 2)
    assert "out.jsonl was there: moved to out.jsonl.1" in run(tmp_path, *arguments, "+seed=1").stderr
    assert first == (read_rows(tmp_path / "out.jsonl.1"), read_rows(tmp_path / "out_validation.jsonl.1"))
    assert run(tmp_path, *arguments, "+overwrite=true").stderr == ""
    assert first == (read_rows(tmp_path / "out.jsonl"), read_rows(tmp_path / "out_validation.jsonl"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.jsonl", "out.jsonl.1", "out_validation.jsonl", "out_validation.jsonl.1", "r.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["+recipe=ppo"], "recipe must be one of sft, dpo, kto, rl, got 'ppo'"),
        (["+recipe=sft", "+min_reward_gap=0.3"], "min_reward_gap is for recipe=dpo, not sft"),
        (["+recipe=dpo", "+pairing=best"], "pairing must be one of best_worst"),
        (
            ["+recipe=rl", "+min_pass_rate=0.9", "+max_pass_rate=0.1"],
            "min_pass_rate=0.9 is more than max_pass_rate=0.1",
        ),
        (["+recipe=sft", "+group_by=position"], "group_by=position and num_repeats go together"),
        (["+recipe=sft", "+validation_fraction=1"], "validation_fraction must be from 0 to less than 1, got 1"),
        (["+recipe=sft", "+group_by=prompt_id"], "r.jsonl, line 1: no prompt_id to group by"),
        (["+recipe=sft", "+output_jsonl_fpath=r.jsonl"], "output_jsonl_fpath r.jsonl is the input"),
        (["+recipe=sft", "+input_jsonl_fpath=nope.jsonl"], "nope.jsonl cannot be read: No such file"),
        (["+recipe=sft", "+min_rewards=1"], "did you mean +min_reward=?"),
    ],
)
def test_wrong_parameters_are_told_in_a_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    """With the cure, and nothing written."""
    write(tmp_path, [rollout(0, 0, 1.0)])
    done = run(tmp_path, *arguments)
    assert (done.returncode, said in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared rollouts are not here")
def test_real_rollouts_are_exported(tmp_path: Path) -> None:
    """Those that NeMo Gym wrote: every row has a prompt and an answer, or a reason."""
    written = 0
    for source in SHARED_DATA.glob("*/example_rollouts.jsonl"):
        (tmp_path / "r.jsonl").write_bytes(source.read_bytes())
        for recipe in RECIPES:
            done = run(tmp_path, f"+recipe={recipe}", "+overwrite=true")
            assert done.returncode == 0, done.stderr
            for row in read_rows(tmp_path / "out.jsonl"):
                messages = row.get("messages") or row["prompt"]
                assert all(isinstance(message["content"], str) for message in messages)
                written += 1
    assert written > 50


def test_an_agents_own_view_goes_first() -> None:
    """Rows that have chat messages as input and output are taken at their word."""
    own = [{"role": "assistant", "content": "mine"}]
    assert Example({**rollout(0, 0, 1.0), "output": own}).completion == own
    assert Example({**rollout(0, 0, 1.0), "output": "text"}).completion[0]["content"] == "answer 0"


@pytest.mark.extras
def test_trainers_take_the_rows(command: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` loads each file, and TRL calls each row conversational."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets
    from trl.data_utils import is_conversational

    examples = Path(__file__).parents[1] / "examples" / "arithmetic.jsonl"
    for agent in ("example_math_agent", "example_tool_agent"):
        files = [f"+input_jsonl_fpath={examples}", "+output_jsonl_fpath=r.jsonl", "+overwrite=true"]
        assert command(f"+agent_name={agent}", "+sampling=dpo", "+limit=30", *files).code == 0
        for recipe in RECIPES:
            assert run(tmp_path, f"+recipe={recipe}", "+overwrite=true").returncode == 0
            loaded = datasets.load_dataset(
                "json", data_files=str(tmp_path / "out.jsonl"), split="train", cache_dir=str(tmp_path / agent / recipe)
            )
            assert len(loaded) == len(read_rows(tmp_path / "out.jsonl")) > 0
            assert all(is_conversational(row) for row in loaded)
