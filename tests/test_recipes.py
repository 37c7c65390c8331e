"""What people do with a finished file: their own bash, jq and Python run on it as they are typed.

The reader is one who has NeMo Gym's guides open. Each case is a thing done after collection; the figures that the
guides promise for a strategy come out of the packaged agent.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, SCRIPTS, Ran, read_rows

pytestmark = pytest.mark.skipif(not (shutil.which("jq") and shutil.which("shuf")), reason="needs jq and coreutils")

AGENT = "example_math_agent"
TASKS = ROOT / "examples" / "arithmetic.jsonl"
TOLERANCE = 0.05
"""How far a promised share may be missed."""


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what people collect: demonstrations, and three rollouts a task for pairs."""
    folder = tmp_path_factory.mktemp("collected")
    for name, strategy in (("sft_rollouts", "sft"), ("dpo_rollouts", "dpo"), ("research", "research")):
        collect(folder, name, f"+sampling={strategy}")
    rows = [json.loads(line) for line in TASKS.read_text().splitlines()]
    as_text = [
        {**row, "responses_create_params": {"input": row["responses_create_params"]["input"][0]["content"]}}
        for row in rows
    ]
    (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in as_text))
    collect(folder, "from_text", f"+input_jsonl_fpath={folder / 'text.jsonl'}")
    return folder


def collect(folder: Path, name: str, *arguments: str) -> None:
    base = [str(SCRIPTS / "ng_collect_rollouts"), f"+agent_name={AGENT}", f"+output_jsonl_fpath={name}.jsonl"]
    source = () if any("input_jsonl" in argument for argument in arguments) else (f"+input_jsonl_fpath={TASKS}",)
    subprocess.run([*base, *source, *arguments], cwd=folder, check=True, capture_output=True, timeout=100)


def bash(folder: Path, script: str) -> str:
    """What a script prints, in a shell that has our commands first on its path."""
    env = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(folder: Path, script: str) -> dict[str, Any]:
    """The names that a script leaves."""
    code = f"{script}\nimport json as _json\nprint(_json.dumps({{k: v for k, v in globals().items() if isinstance(v, (int, float, str, list, dict)) and k[0] != '_'}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_distribution_of_rewards(collected: Path) -> None:
    """How often each occurs."""
    printed = bash(collected, "jq '.reward' dpo_rollouts.jsonl | sort -n | uniq -c")
    counters = {float(reward): int(count) for count, reward in map(str.split, printed.splitlines())}
    assert sum(counters.values()) == 900
    assert counters[1.0] == sum(row["reward"] == 1 for row in read_rows(collected / "dpo_rollouts.jsonl"))


def test_filter_count_and_shuffle(collected: Path) -> None:
    """High rewards, a line each with -c, in another order."""
    script = """
        jq -c 'select(.reward >= 0.8)' sft_rollouts.jsonl > kept.jsonl
        shuf kept.jsonl > train.jsonl
        echo "$(wc -l < kept.jsonl) / $(wc -l < sft_rollouts.jsonl)"
        a=$(wc -l < sft_rollouts.jsonl); b=$(wc -l < kept.jsonl)
        python -c "print(f'{$b / $a * 100:.1f}%')"
    """
    counters, percent = bash(collected, script).splitlines()
    good = [row for row in read_rows(collected / "sft_rollouts.jsonl") if row["reward"] >= 0.8]
    assert counters == f"{len(good)} / 300"
    assert percent == f"{len(good) / 3:.1f}%"
    key = lambda row: row["_ng_task_index"]  # noqa: E731
    assert sorted(read_rows(collected / "train.jsonl"), key=key) == good


@pytest.mark.parametrize("name", ["sft_rollouts", "from_text"])
def test_categories_out_of_prompts(collected: Path, name: str) -> None:
    """Whether prompts were messages or text."""
    expression = '.responses_create_params.input[0].content | match("Category: ([A-Z]+)").captures[0].string'
    printed = bash(collected, f"jq -r '{expression}' {name}.jsonl | sort | uniq -c")
    assert sum(int(line.split()[0]) for line in printed.splitlines()) == 300
    assert {line.split()[1] for line in printed.splitlines()} == {"SHOPPING", "COOKING", "SAVINGS", "GARDENING"}


def test_groups_by_position_and_by_prompt(collected: Path) -> None:
    """So many lines in a row are a task's; a groupby over `prompt_id` finds the same groups."""
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
del rollouts, groups, group, best, worst, ranked, other
"""


@pytest.mark.parametrize(("other", "pairing"), [("worst", "best_worst"), ("ranked[1]", "best_second")])
def test_pairs_by_hand_are_those_of_the_command(collected: Path, other: str, pairing: str) -> None:
    """The loop over groups that guides show, and the command that does it better, make the same pairs."""
    by_hand = python(collected, PAIRS.replace("OTHER", other))
    command = f"ng_export_rollouts +recipe=dpo +pairing={pairing} +input_jsonl_fpath=dpo_rollouts.jsonl"
    printed = bash(collected, f"{command} +output_jsonl_fpath={pairing}.jsonl +min_reward_gap=0.15")
    made = read_rows(collected / f"{pairing}.jsonl")
    assert [pair["reward_gap"] for pair in made] == [pair["reward_gap"] for pair in by_hand["pairs"]]
    assert [pair["chosen"] for pair in made] == [pair["chosen"] for pair in by_hand["pairs"]]
    assert f"Pair creation rate: {100 * by_hand['rate']:.1f}%" in printed
    assert f"Gap:      μ={by_hand['gap']:.3f}, σ=" in printed


def test_pairs_come_as_often_as_promised(collected: Path) -> None:
    """Best against second best, three rollouts at temperature 0.7: 60 to 80 in a hundred, 0.2 to 0.4 apart."""
    made = python(collected, PAIRS.replace("OTHER", "ranked[1]"))
    assert 0.6 - TOLERANCE <= made["rate"] <= 0.8 + TOLERANCE
    assert 0.2 - TOLERANCE <= made["gap"] <= 0.4 + TOLERANCE


@pytest.mark.parametrize(("temperature", "least", "most"), [(0.2, 0.3, 0.5), (0.5, 0.6, 0.8), (0.9, 0.85, 0.95)])
def test_answers_differ_as_much_as_promised(tmp_path: Path, temperature: float, least: float, most: float) -> None:
    """Share of distinct last messages, over a rollout a task."""
    collect(tmp_path, "r", f"+responses_create_params.temperature={temperature}")
    distinct = int(bash(tmp_path, "jq -r '.output[-1].content' r.jsonl | sort | uniq | wc -l"))
    assert least - TOLERANCE <= distinct / 300 <= most + TOLERANCE


def test_rewards_spread_with_temperature(tmp_path: Path) -> None:
    """Peaked from 0.7 up at 0.2, from 0.3 to 0.9 for the most part at 0.5, from end to end at 0.9."""
    rewards = {}
    for temperature in (0.2, 0.5, 0.9):
        collect(tmp_path, "r", f"+responses_create_params.temperature={temperature}", "+overwrite=true")
        rewards[temperature] = [row["reward"] for row in read_rows(tmp_path / "r.jsonl")]
    spread = {temperature: statistics.stdev(values) for temperature, values in rewards.items()}
    assert spread[0.2] < spread[0.5] < spread[0.9]
    assert sum(reward >= 0.7 for reward in rewards[0.2]) / 300 >= 0.9 - TOLERANCE
    low, *_, high = statistics.quantiles(rewards[0.5], n=10)
    assert low == pytest.approx(0.3, abs=0.1 + TOLERANCE)
    assert high >= 0.9 - TOLERANCE
    assert (min(rewards[0.9]), max(rewards[0.9])) == (0.0, 1.0)


def test_an_rl_loop(tmp_path: Path) -> None:
    """A file for each iteration, its mean by jq, and the progression at the end."""
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


def test_models_are_compared(tmp_path: Path) -> None:
    """One after the other on the same tasks, with a seed; accuracy can be added up, and the command tells the rest."""
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


def test_a_list_comprehension_over_rewards(collected: Path) -> None:
    """The shortest filter there is."""
    script = (
        'import json\nkept = [r["reward"] for r in map(json.loads, open("sft_rollouts.jsonl")) if r["reward"] >= 0.8]'
    )
    assert min(python(collected, script)["kept"]) >= 0.8


def test_a_strategy_is_worth_what_it_says(command: Callable[..., Ran], collected: Path) -> None:
    """Demonstrations are better and more alike than what is collected to explore."""
    means = {
        name: statistics.mean(row["reward"] for row in read_rows(collected / f"{name}.jsonl"))
        for name in ("sft_rollouts", "dpo_rollouts", "research")
    }
    assert means["sft_rollouts"] > means["dpo_rollouts"] > means["research"]
