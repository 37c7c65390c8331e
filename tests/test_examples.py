"""Finished files in the hands of users: bash, jq and Python as NeMo Gym's guides show them.

Each test does one thing that follows a collection. The ranges that the guides give for a sampling strategy hold for
the example agent.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SCRIPTS, Ran, needs, read_rows
from tests.example_runs import AGENT, TASKS, collect_examples
from tests.rollout_files import write_rows

pytestmark = needs("jq", "shuf")

TOLERANCE = 0.05
"""How far a documented share may be missed."""


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each of three strategies, and one whose tasks have text instead of messages."""
    folder = tmp_path_factory.mktemp("collected")
    for name, strategy in (("sft_rollouts", "sft"), ("dpo_rollouts", "dpo"), ("research", "research")):
        collect_examples(folder / f"{name}.jsonl", f"+sampling={strategy}")
    as_text = [
        {**row, "responses_create_params": {"input": row["responses_create_params"]["input"][0]["content"]}}
        for row in read_rows(TASKS)
    ]
    collect_examples(folder / "from_text.jsonl", tasks=write_rows(folder / "text.jsonl", as_text))
    return folder


def bash(folder: Path, script: str) -> str:
    """The stdout of a script, in a shell with the installed commands first on its PATH."""
    env = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(folder: Path, script: str) -> dict[str, Any]:
    """The global names that a script defines, when it runs in a folder."""
    namespace: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(script, namespace)
    return namespace


def test_rewards_are_counted_with_jq(collected: Path) -> None:
    """`jq '.reward' | sort -n | uniq -c` counts every rollout once."""
    printed = bash(collected, "jq '.reward' dpo_rollouts.jsonl | sort -n | uniq -c")
    counts = {float(reward): int(count) for count, reward in map(str.split, printed.splitlines())}
    assert sum(counts.values()) == 900
    assert counts[1.0] == sum(row["reward"] == 1 for row in read_rows(collected / "dpo_rollouts.jsonl"))


def test_distinct_answers_are_counted_with_jq(collected: Path) -> None:
    """`jq -r '.output[-1].content' | sort | uniq | wc -l` counts the distinct last messages."""
    distinct = int(bash(collected, "jq -r '.output[-1].content' research.jsonl | LC_ALL=C sort | uniq | wc -l"))
    assert distinct == len({row["output"][-1]["content"] for row in read_rows(collected / "research.jsonl")})


def test_high_rewards_are_selected_counted_and_shuffled_with_jq(collected: Path) -> None:
    """`jq -c 'select(...)'` writes one line per rollout, which `shuf` and `wc` then process."""
    script = """
        jq -c 'select(.reward >= 0.8)' sft_rollouts.jsonl > kept.jsonl
        shuf kept.jsonl > train.jsonl
        echo "$(wc -l < kept.jsonl) / $(wc -l < sft_rollouts.jsonl)"
        a=$(wc -l < sft_rollouts.jsonl); b=$(wc -l < kept.jsonl)
        python -c "print(f'{$b / $a * 100:.1f}%')"
    """
    counts, percent = bash(collected, script).splitlines()
    good = [row for row in read_rows(collected / "sft_rollouts.jsonl") if row["reward"] >= 0.8]
    assert counts == f"{len(good)} / 300"
    assert percent == f"{len(good) / 3:.1f}%"
    assert sorted(read_rows(collected / "train.jsonl"), key=lambda row: row["_ng_task_index"]) == good


@pytest.mark.parametrize("name", ["sft_rollouts", "from_text"])
def test_prompts_are_matched_with_jq(collected: Path, name: str) -> None:
    """A prompt is a message in `responses_create_params.input`, also if the task gave it as text."""
    expression = '.responses_create_params.input[0].content | match("Category: ([A-Z]+)").captures[0].string'
    printed = bash(collected, f"jq -r '{expression}' {name}.jsonl | sort | uniq -c")
    assert sum(int(line.split()[0]) for line in printed.splitlines()) == 300
    assert {line.split()[1] for line in printed.splitlines()} == {"SHOPPING", "COOKING", "SAVINGS", "GARDENING"}


def test_groups_are_consecutive_lines_with_one_prompt_id(collected: Path) -> None:
    """Every `num_repeats` consecutive lines are the rollouts of one task, and grouping by `prompt_id` agrees."""
    rows = read_rows(collected / "dpo_rollouts.jsonl")
    by_position = [rows[start : start + 3] for start in range(0, len(rows), 3)]
    by_prompt = [list(group) for _, group in groupby(rows, key=lambda row: row["prompt_id"])]
    assert by_position == by_prompt
    assert all(len({json.dumps(row["responses_create_params"]) for row in group}) == 1 for group in by_position)


PAIRS = """
import json, statistics
with open("dpo_rollouts.jsonl") as lines:
    rollouts = [json.loads(line) for line in lines]
groups = [rollouts[i:i + 3] for i in range(0, len(rollouts), 3)]
pairs = []
for group in groups:
    best, *_, worst = ranked = sorted(group, key=lambda r: r["reward"], reverse=True)
    other = OTHER
    if best["reward"] - other["reward"] >= 0.15:
        pairs.append({"prompt": best["responses_create_params"]["input"], "chosen": best["output"],
                      "rejected": other["output"], "reward_gap": best["reward"] - other["reward"]})
rate = len(pairs) / len(groups)
gap = statistics.mean(pair["reward_gap"] for pair in pairs)
"""
"""The loop of the guides that makes preference pairs; OTHER is replaced by the rollout to pair with the best."""


@pytest.mark.parametrize(("other", "pairing"), [("worst", "best_worst"), ("ranked[1]", "best_second")])
def test_pairs_of_a_python_loop_equal_those_of_the_export(
    command: Callable[..., Ran], collected: Path, tmp_path: Path, other: str, pairing: str
) -> None:
    """`ng_export_rollouts +recipe=dpo` makes the pairs, and prints the statistics, of the loop in the guides."""
    by_loop = python(collected, PAIRS.replace("OTHER", other))
    files = [f"+input_jsonl_fpath={collected / 'dpo_rollouts.jsonl'}", "+output_jsonl_fpath=pairs.jsonl"]
    parameters = ["+recipe=dpo", f"+pairing={pairing}", "+min_reward_gap=0.15"]
    ran = command(*parameters, *files, script="ng_export_rollouts")
    pairs = read_rows(tmp_path / "pairs.jsonl")
    assert [pair["reward_gap"] for pair in pairs] == [pair["reward_gap"] for pair in by_loop["pairs"]]
    assert [pair["chosen"] for pair in pairs] == [pair["chosen"] for pair in by_loop["pairs"]]
    assert f"Pair creation rate: {100 * by_loop['rate']:.1f}%" in ran.stdout
    assert f"Gap:      μ={by_loop['gap']:.3f}, σ=" in ran.stdout


def test_dpo_sampling_creates_pairs_at_the_documented_rate(collected: Path) -> None:
    """Best and second best of three rollouts are a pair in 60 % to 80 % of the groups, with a gap of 0.2 to 0.4."""
    pairs = python(collected, PAIRS.replace("OTHER", "ranked[1]"))
    assert 0.6 - TOLERANCE <= pairs["rate"] <= 0.8 + TOLERANCE
    assert 0.2 - TOLERANCE <= pairs["gap"] <= 0.4 + TOLERANCE


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the one-liner does not close its file
def test_rewards_are_filtered_by_a_list_comprehension(collected: Path) -> None:
    """A finished file can be filtered with a list comprehension over its lines."""
    script = (
        'import json\nkept = [r["reward"] for r in map(json.loads, open("sft_rollouts.jsonl")) if r["reward"] >= 0.8]'
    )
    assert min(python(collected, script)["kept"]) >= 0.8


def test_mean_reward_falls_from_sft_over_dpo_to_research_sampling(collected: Path) -> None:
    """Strategies that explore more have a lower mean reward."""
    means = {
        name: statistics.mean(row["reward"] for row in read_rows(collected / f"{name}.jsonl"))
        for name in ("sft_rollouts", "dpo_rollouts", "research")
    }
    assert means["sft_rollouts"] > means["dpo_rollouts"] > means["research"]


def test_rl_loop_in_bash_reports_the_mean_of_each_iteration(tmp_path: Path) -> None:
    """A bash loop collects a file per iteration, and `jq` computes the mean of each."""
    script = f"""
        for iter in $(seq -f "%03g" 1 3); do
            ng_collect_rollouts +agent_name={AGENT} +input_jsonl_fpath={TASKS} +limit=20 \\
                +output_jsonl_fpath=outputs/rl_iter_${{iter}}.jsonl +responses_create_params.temperature=0.5 \\
                +num_samples_in_parallel=15 > log 2>&1
            avg_reward=$(jq -s 'map(.reward) | add/length' outputs/rl_iter_${{iter}}.jsonl)
            echo "Average reward: $avg_reward"
        done
        for f in outputs/rl_iter_*[0-9].jsonl; do
            echo -n "$(basename $f): "; jq -s 'map(.reward) | add/length' < $f
        done
    """
    lines = bash(tmp_path, script).splitlines()
    assert len(lines) == 6
    mean = statistics.mean(row["reward"] for row in read_rows(tmp_path / "outputs" / "rl_iter_002.jsonl"))
    assert float(lines[1].removeprefix("Average reward: ")) == pytest.approx(mean)
    assert lines[4].startswith("rl_iter_002.jsonl: ")


def test_models_are_compared_in_a_bash_loop(tmp_path: Path) -> None:
    """Models are evaluated on the same tasks with a seed; `jq` adds up accuracy, and the command compares the files."""
    script = f"""
        for model in example_math_agent example_tool_agent; do
            ng_collect_rollouts +agent_name=$model +input_jsonl_fpath={TASKS} +output_jsonl_fpath=eval_${{model}}_results.jsonl \\
                +responses_create_params.temperature=0.1 +responses_create_params.seed=42 \\
                +num_samples_in_parallel=5 +limit=50 > log 2>&1
            echo "$model: reward=$(jq -s 'map(.reward) | add/length' eval_${{model}}_results.jsonl)," \\
                "accuracy=$(jq -s 'map(.accuracy) | add/length' eval_${{model}}_results.jsonl)"
        done
        ng_compare_rollouts +rollouts_jsonl_fpaths=eval_example_math_agent_results.jsonl,eval_example_tool_agent_results.jsonl
    """
    lines = bash(tmp_path, script).splitlines()
    assert lines[0].startswith("example_math_agent: reward=0.")
    assert "accuracy=" in lines[1]
    assert json.loads("\n".join(lines[lines.index("[") :]))[0]["tasks"] == 50
