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
from ng_rollouts.export.example import Example
from ng_rollouts.export.formats import RECIPES
from ng_rollouts.export.writer import RowWriter

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
    return [row for group in groups for row, _ in made.rows(group)], made.skipped


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
    rows, skipped = exported(rollouts(groups), "sft", min_reward=least, best_of_group=best)
    assert len(rows) + skipped.total() == sum(map(len, groups))
    assert all(row["reward"] >= (least or 0) for row in rows)
    if best:
        tops = [max(group) for group in groups if max(group) >= (least or 0)]
        assert [row["reward"] for row in rows] == tops
    labelled, _ = exported(rollouts(groups), "kto")
    assert [row["label"] for row in labelled] == [reward >= 0.5 for group in groups for reward in group]


@given(groups=GROUPS, low=st.sampled_from([0.0, 0.3]), high=st.sampled_from([0.5, 1.0]))
def test_prompts_are_in_the_band(groups: list[list[float]], low: float, high: float) -> None:
    """With the mean and the variance of their group; a prompt can be collected from again."""
    rows, skipped = exported(rollouts(groups), "rl", min_pass_rate=low, max_pass_rate=high, threshold=0.5)
    rates = [sum(reward >= 0.5 for reward in group) / len(group) for group in groups]
    assert [row["pass_rate"] for row in rows] == [rate for rate in rates if low <= rate <= high]
    assert len(rows) + skipped.total() == len(groups)
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
        sink = RowWriter(file)
        for number, prompt in enumerate(prompts):
            sink.add({"number": number}, [{"role": "user", "content": str(prompt)}])
        train, validation = sink.parts(fraction, shuffle=shuffle, seed=seed)
        assert sink.parts(fraction, shuffle=shuffle, seed=seed) == (train, validation)
    assert sorted([*train, *validation]) == list(range(len(prompts)))
    parts = {prompts[place] for place in train}, {prompts[place] for place in validation}
    assert not parts[0] & parts[1]
    distinct = len(set(prompts))
    assert len(parts[1]) == (max(1, round(fraction * distinct)) if fraction and distinct > 1 else 0)
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
    rows, skipped = exported([group], "sft", min_tokens=2, max_tokens=4)
    assert [row["messages"][-1]["content"] for row in rows] == ["one two three"]
    reasons = {
        "no assistant text": 2,
        "no reward": 1,
        "too few tokens": 1,
        "too many tokens": 1,
        "truncated": 1,
    }
    assert skipped == reasons
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
    assert "out.jsonl exists: renamed to out.jsonl.1" in run(tmp_path, *arguments, "+seed=1").stderr
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
        (["+recipe=sft", "+validation_fraction=1"], "validation_fraction must be >= 0 and less than 1, got 1"),
        (["+recipe=sft", "+group_by=prompt_id"], "r.jsonl, line 1: no prompt_id to group by"),
        (
            ["+recipe=sft", "+output_jsonl_fpath=r.jsonl"],
            "output_jsonl_fpath r.jsonl would replace r.jsonl, which is the input",
        ),
        (["+recipe=sft", "+input_jsonl_fpath=nope.jsonl"], "nope.jsonl cannot be read: No such file"),
        (["+recipe=sft", "+output_jsonl_fpath=."], "output_jsonl_fpath . is a folder"),
        (["+recipe=sft", "+output_jsonl_fpath=/dev/null"], "is not a regular file"),
        (["+recipe=sft", "+score=rewrad"], "no rollout of r.jsonl has the score 'rewrad': available scores: reward"),
        (["+recipe=kto", "+threshold=nan"], "threshold must be a finite number, got nan"),
        (["+recipe=sft", "+min_rewards=1"], "did you mean +min_reward=?"),
    ],
)
def test_wrong_parameters_are_told_in_a_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    """With the cure, and nothing written."""
    write(tmp_path, [rollout(0, 0, 1.0)])
    done = run(tmp_path, *arguments)
    assert (done.returncode, said in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_gap_is_what_it_reads() -> None:
    """0.2 lies between 1.0 and 0.8, whatever floats make of it."""
    rows, _ = exported(rollouts([[1.0, 0.8], [0.8, 0.6]]), "dpo", min_reward_gap=0.2)
    assert len(rows) == 2


def test_only_answers_to_the_same_prompt_are_held_against_each_other(tmp_path: Path) -> None:
    """By position that is an error, since the number of repeats is wrong; else others are left out."""
    rows = [rollout(task, index, index / 2, prompt_id="same") for task in range(2) for index in range(3)]
    write(tmp_path, rows)
    done = run(tmp_path, "+recipe=dpo", "+group_by=position", "+num_repeats=4")
    assert (done.returncode, "group 1 contains different prompts: is num_repeats=4 right?" in done.stderr) == (2, True)
    done = run(tmp_path, "+recipe=dpo", "+group_by=prompt_id")
    assert "Left out: 3 different prompt in the same group" in done.stdout
    assert [row["_ng_task_index"] for row in read_rows(tmp_path / "out.jsonl")] == [0]
    write(tmp_path, [*rows, {**rows[0], "prompt_id": None}])
    assert "line 7: no prompt_id to group by" in run(tmp_path, "+recipe=dpo", "+group_by=prompt_id").stderr


def test_a_split_by_position_leaks_no_prompt(tmp_path: Path) -> None:
    """However groups lie."""
    write(tmp_path, [rollout(task, index, 1.0) for task in range(20) for index in range(3)])
    assert (
        run(tmp_path, "+recipe=sft", "+group_by=position", "+num_repeats=4", "+validation_fraction=0.2").returncode == 0
    )
    parts = [
        {row["_ng_task_index"] for row in read_rows(tmp_path / name)} for name in ("out.jsonl", "out_validation.jsonl")
    ]
    assert (len(parts[0]), len(parts[1]), parts[0] & parts[1]) == (16, 4, set())


def test_the_input_is_no_output(tmp_path: Path) -> None:
    """Nor as the file of the validation rows; one that an earlier export left there is not left in place."""
    write(tmp_path, [rollout(task, 0, 1.0) for task in range(10)])
    (tmp_path / "r.jsonl").rename(tmp_path / "out_validation.jsonl")
    before = (tmp_path / "out_validation.jsonl").read_text()
    done = run(
        tmp_path,
        "+recipe=sft",
        "+input_jsonl_fpath=out_validation.jsonl",
        "+validation_fraction=0.1",
        "+overwrite=true",
    )
    assert (done.returncode, "which is the input" in done.stderr) == (2, True)
    assert (tmp_path / "out_validation.jsonl").read_text() == before
    (tmp_path / "out_validation.jsonl").rename(tmp_path / "r.jsonl")
    assert run(tmp_path, "+recipe=sft", "+validation_fraction=0.01").returncode == 0
    assert len(read_rows(tmp_path / "out_validation.jsonl")) == 1
    assert run(tmp_path, "+recipe=sft", "+overwrite=true").returncode == 0
    assert not (tmp_path / "out_validation.jsonl").exists()


def test_seeded_rollouts_can_be_collected_from_again(command: Callable[..., Ran], tmp_path: Path) -> None:
    """What differs between them, the seed, is not the task's."""
    tasks = [
        {"responses_create_params": {"input": f"What is {n} + 3?"}, "expected_answer": str(n + 3)} for n in range(4)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    run_it = ["+agent_name=example_math_agent", "+num_repeats=3"]
    assert (
        command(*run_it, "+num_repeats_add_seed=true", "+input_jsonl_fpath=t.jsonl", "+output_jsonl_fpath=r.jsonl").code
        == 0
    )
    assert run(tmp_path, "+recipe=rl").returncode == 0
    assert command(*run_it, "+input_jsonl_fpath=out.jsonl", "+output_jsonl_fpath=again.jsonl").code == 0
    assert all(
        row["expected_answer"] == tasks[row["_ng_task_index"]]["expected_answer"]
        for row in read_rows(tmp_path / "again.jsonl")
    )
    old = [
        {k: v for k, v in row.items() if k[0] != "_" and k not in ("prompt_id", "input")}
        for row in read_rows(tmp_path / "r.jsonl")
    ]
    write(tmp_path, old)
    assert "of 4 groups" in run(tmp_path, "+recipe=dpo", "+overwrite=true").stdout


def test_answers_that_are_calls_differ_by_their_arguments() -> None:
    """And not by their ids; what is no list of tools is none."""

    def calling(index: int, arguments: str) -> dict[str, Any]:
        call = {"type": "function_call", "call_id": f"c{index}", "name": "calc", "arguments": arguments}
        row = rollout(0, index, 1.0, response={"output": [call]})
        row["responses_create_params"]["tools"] = 5
        return row

    rows, _ = exported([[calling(0, "1"), calling(1, "2"), calling(2, "1")]], "sft", dedupe="normalised")
    assert [row["messages"][-1]["tool_calls"][0]["function"]["arguments"] for row in rows] == ["1", "2"]
    assert "tools" not in rows[0]


def test_the_best_is_paired_with_the_worst_that_says_something_else() -> None:
    """The same answer with another reward is no pair, and if there is only one answer, that is the reason."""
    group = [rollout(0, 0, 1.0, "same"), rollout(0, 1, 0.2, "other"), rollout(0, 2, 0.0, "same")]
    (row,), _ = exported([group], "dpo")
    assert row["reward_rejected"] == 0.2
    _, skipped = exported([[group[0], group[2]]], "dpo")
    assert +skipped == {"groups with only one distinct answer": 1}


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
