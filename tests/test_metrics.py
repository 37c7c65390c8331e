"""Figures, held against independent references: scipy, pandas, brute force, NeMo Gym's own definitions."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.metrics.distribution import Distribution
from ng_rollouts.metrics.estimators import majority_scores, pass_at_k, pass_hat_k, t_quantile
from ng_rollouts.metrics.group_aggregator import GroupAggregator, aggregate_groups
from ng_rollouts.metrics.latency_histogram import LatencyHistogram
from ng_rollouts.metrics.paired_comparison import difference_of
from ng_rollouts.metrics.result_rows import stats_of
from ng_rollouts.metrics.score_stats import GroupScore, ScoreStats, scores_of
from ng_rollouts.outputs.reader import groups_of, scan
from ng_rollouts.types import RolloutKey, RolloutStats

from .conftest import ROOT, SCRIPTS, SHARED_DATA, Ran, Served, read_rows

FLOATS = st.floats(-10, 10, allow_nan=False).map(lambda value: round(value, 3))


@given(n=st.integers(1, 7), data=st.data())
def test_pass_at_k_is_what_subsets_say(n: int, data: st.DataObject) -> None:
    """At least one, or all, of every k of n."""
    right = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n))
    subsets = list(itertools.combinations(right, k))
    assert pass_at_k(n, sum(right), k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert pass_hat_k(n, sum(right), k) == pytest.approx(sum(map(all, subsets)) / len(subsets))


@pytest.mark.parametrize("degrees", [1, 2, 3, 7, 30, 199, 200, 5000])
def test_t_is_students(degrees: int) -> None:
    """As scipy has it."""
    assert t_quantile(degrees) == pytest.approx(scipy_stats.t.ppf(0.975, degrees), rel=1e-6)


@given(values=st.lists(FLOATS, min_size=1, max_size=200))
def test_columns_are_what_pandas_says(values: list[float]) -> None:
    """Mean, extremes, median, deviation, quantiles."""
    column = Distribution()
    for value in values:
        column.add(value)
    series = pd.Series(values)
    assert column.mean == pytest.approx(series.mean(), abs=1e-9)
    assert (column.maximum, column.minimum) == (series.max(), series.min())
    assert column.sd == pytest.approx(series.std() if len(values) > 1 else 0.0, abs=1e-9)
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert column.quantile(share) == pytest.approx(series.quantile(share), abs=1e-9)
    assert sum(column.histogram()) == len(values)


def test_a_column_of_many_values_stays_small() -> None:
    """And tells its median to a thousandth of its range."""
    column, rng = Distribution(), random.Random(1)
    for _ in range(120_000):
        column.add(rng.random())
    assert len(column._values) <= 50_001
    assert column.quantile(0.5) == pytest.approx(0.5, abs=0.005)


@given(groups=st.lists(st.lists(FLOATS, min_size=1, max_size=6), min_size=2, max_size=12))
def test_the_standard_error_is_clustered(groups: list[list[float]]) -> None:
    """As the sandwich formula has it; for groups of one size, the standard error of task means."""
    score = ScoreStats()
    for group in groups:
        score.add(GroupScore.of(group, [None] * len(group)))
    total = sum(map(len, groups))
    mean = sum(map(sum, groups)) / total
    residuals = [sum(value - mean for value in group) for group in groups]
    expected = math.sqrt(len(groups) / (len(groups) - 1) * sum(value**2 for value in residuals)) / total
    assert score.standard_error == pytest.approx(expected, abs=1e-6)
    if len({len(group) for group in groups}) == 1:
        means = [sum(group) / len(group) for group in groups]
        assert score.standard_error == pytest.approx(scipy_stats.sem(means), abs=1e-6)


def test_majorities_by_hand() -> None:
    """The answer most give, the mean of equals, by their own scores; those that answer nothing have no vote."""
    answers, scores = ["a", "b", "b", None, "a", "a"], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert majority_scores(answers, scores) == [1.0, 0.5, 0.0, 0.0, 0.5, 1.0]
    assert majority_scores([None], [1.0]) == [0.0]


FACTS = st.builds(
    lambda reward, tokens, answer: RolloutStats(
        scores={"reward": reward}, tokens={"output_tokens": tokens}, answer=answer
    ),
    st.sampled_from([0.0, 1.0, 0.5]),
    st.integers(0, 50),
    st.sampled_from(["x", "y", None]),
)


@given(groups=st.lists(st.lists(FACTS, min_size=1, max_size=3), min_size=1, max_size=8))
def test_tasks_of_one_rollout_are_figured_as_others_are(groups: list[list[RolloutStats]]) -> None:
    """Taken in all at once, or each as a group: the same."""
    at_once, one_by_one = AgentStats(), AgentStats()
    for group in groups:
        at_once.add(group)
        one_by_one.add(group) if len(group) > 1 else add_as_group(one_by_one, group)
    at_once.end()
    assert flat(at_once.statistics()) == pytest.approx(flat(one_by_one.statistics()))
    assert flat(at_once.nemo_gym_metrics()) == pytest.approx(flat(one_by_one.nemo_gym_metrics()))


def add_as_group(aggregate: AgentStats, group: list[RolloutStats]) -> None:
    """What `add` does with a group of several."""
    (stats,) = group
    aggregate.tasks, aggregate.rollouts = aggregate.tasks + 1, aggregate.rollouts + 1
    aggregate.group_sizes[1] += 1
    aggregate.distinct_answers, aggregate.answers = (
        aggregate.distinct_answers + (stats.answer is not None),
        aggregate.answers + (stats.answer is not None),
    )
    for name, score in scores_of(group).items():
        aggregate.columns.setdefault(name, Distribution()).add(score.values[0])
        aggregate.scores.setdefault(name, ScoreStats()).add(score)
    aggregate._add_tokens(stats)


@given(groups=st.lists(st.lists(FACTS, min_size=2, max_size=2), min_size=1, max_size=8), data=st.data())
def test_the_order_of_completion_does_not_matter(groups: list[list[RolloutStats]], data: st.DataObject) -> None:
    """Rollouts as they come are figured as groups in order are."""
    work = [(RolloutKey(task, index), stats) for task, group in enumerate(groups) for index, stats in enumerate(group)]
    aggregator = GroupAggregator(lambda _: 2)
    for key, stats in data.draw(st.permutations(work)):
        aggregator.record(key, "a", stats)
    aggregator.end()
    batch = aggregate_groups((task, "a", group) for task, group in enumerate(groups))
    assert flat(aggregator.agents["a"].stats.statistics()) == pytest.approx(flat(batch["a"].stats.statistics()))
    assert flat(aggregator.agents["a"].stats.nemo_gym_metrics()) == pytest.approx(
        flat(batch["a"].stats.nemo_gym_metrics())
    )
    assert aggregator.agents["a"].group_metrics() == batch["a"].group_metrics()
    assert not aggregator._open


def flat(value: Any, name: str = "") -> dict[str, float]:
    if isinstance(value, dict):
        return {key: number for each, inner in value.items() for key, number in flat(inner, f"{name}.{each}").items()}
    if isinstance(value, list):
        return flat(dict(enumerate(value)), name)
    return {name: float("-inf") if value is None else float(value)}


def test_groups_that_cannot_be_whole_are_let_go() -> None:
    """And nothing is kept of them."""
    aggregator = GroupAggregator(lambda _: 2)
    aggregator.record(RolloutKey(0, 0), "a", RolloutStats(scores={"reward": 1.0}))
    aggregator.mark_incomplete(RolloutKey(0, 1))
    aggregator.record(RolloutKey(1, 0), "a", RolloutStats(scores={"reward": 0.0}))
    aggregator.record(RolloutKey(1, 1), "a", RolloutStats(scores={"reward": 1.0}))
    aggregator.end()
    assert aggregator.agents["a"].stats.columns["reward"].mean == 0.5
    assert not aggregator._open


def test_a_task_asked_of_two_agents_counts_for_each() -> None:
    """Its rollouts are figured under the agent that answered them."""
    aggregator = GroupAggregator(lambda _: 4)
    for index, (agent, reward) in enumerate([("a", 1.0), ("a", 1.0), ("b", 0.0), ("b", 0.0)]):
        aggregator.record(RolloutKey(0, index), agent, RolloutStats(scores={"reward": reward}))
    aggregator.end()
    means = {agent: statistics.stats.columns["reward"].mean for agent, statistics in aggregator.agents.items()}
    assert means == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ({("a", 0): 2, ("b", 1): 4}, 0),
        ({("a", 0): 2, ("b", 1): 3}, 1),
        ({("a", 0): 1, ("b", 1): 4}, 1),
        ({("a", 0): 2}, 4),
    ],
)
def test_what_is_missing_is_told_by_the_plan(
    command: Callable[..., Ran], tmp_path: Path, there: dict[tuple[str, int], int], missing: int
) -> None:
    """Agents with repeats of their own, a first task that is short, a task that is not there at all."""
    rows = [
        {"responses_create_params": {"input": f"{task}"}, "agent_ref": {"name": name}} for task, name in enumerate("ab")
    ]
    (tmp_path / "m.jsonl").write_text(
        "".join(
            json.dumps({**row, "_ng_task_index": task, "_ng_rollout_index": rollout}) + "\n"
            for task, (row, repeats) in enumerate(zip(rows, (2, 4), strict=True))
            for rollout in range(repeats)
        )
    )
    (tmp_path / "r.jsonl").write_text(
        "".join(
            json.dumps({**rows[task], "reward": 1.0, "_ng_task_index": task, "_ng_rollout_index": rollout}) + "\n"
            for (_, task), count in there.items()
            for rollout in range(count)
        )
    )
    arguments = ["+rollouts_jsonl_fpath=r.jsonl", "+materialized_inputs_jsonl_fpath=m.jsonl"]
    done = small("ng_reward_profile", *arguments, cwd=tmp_path)
    assert done.returncode == (1 if missing else 0)
    assert (f"error: {missing} rollouts are missing" in done.stderr) == bool(missing)


def test_a_profile_tells_how_much_completions_differ(tmp_path: Path) -> None:
    """By the last message, of our rows and of NeMo Gym's, within tasks and over all."""
    said = [["Four.", "four. ", "Five."], ["Four.", "Four.", "Four."]]
    rows = [
        {
            "reward": 1.0,
            "_ng_task_index": task,
            "_ng_rollout_index": index,
            "output": [{"role": "assistant", "content": text}],
        }
        for task, texts in enumerate(said)
        for index, text in enumerate(texts)
    ]
    content = [{"type": "output_text", "text": "Four."}]
    rows[4] |= {"output": None, "response": {"output": [{"type": "message", "role": "assistant", "content": content}]}}
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = small("ng_reward_profile", "+rollouts_jsonl_fpath=r.jsonl", cwd=tmp_path)
    assert "Distinct completions: 3/6 (50.0%), 2 ignoring case and white space" in done.stdout
    first, second = read_rows(tmp_path / "r_reward_profiling.jsonl")
    assert (first["share_distinct_completions"], first["share_distinct_completions_normalised"]) == (1.0, 2 / 3)
    assert second["share_distinct_completions"] == 1 / 3


@given(seconds=st.lists(st.floats(0.001, 1000), min_size=1, max_size=50))
def test_latency_percentiles_are_right_to_a_twentieth(seconds: list[float]) -> None:
    """Whatever they are."""
    latencies = LatencyHistogram()
    for each in seconds:
        latencies.add(each)
    ordered = sorted(seconds)
    assert latencies.quantile(0.5) == pytest.approx(ordered[math.ceil(len(ordered) / 2) - 1], rel=0.06)


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared rollouts are not here")
def test_real_rollouts_are_figured_as_pandas_figures_them() -> None:
    """Every environment's example rollouts: scores and tokens, by NeMo Gym's keys."""
    figured = 0
    for file in sorted(SHARED_DATA.glob("*/example_rollouts.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        aggregate = AgentStats()
        for row in rows:
            aggregate.add([stats_of(row)])
        aggregate.end()
        metrics = aggregate.nemo_gym_metrics()
        frame = pd.DataFrame([{**stats_of(row).scores, **stats_of(row).tokens} for row in rows])
        for name in frame:
            assert metrics[f"mean/{name}"] == pytest.approx(frame[name].mean())
            assert metrics[f"median/{name}"] == pytest.approx(frame[name].median())
            if frame[name].count() > 1:
                assert metrics[f"std/{name}"] == pytest.approx(frame[name].std(), abs=1e-9)
            figured += 1
    assert figured > 20


def test_files_of_a_run_tell_the_same(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Printed averages, summary, aggregates, jq and a profile of the file agree."""
    server = serve(faults={"400": 0.1}, sticky=True)
    tasks(30)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=rollouts.jsonl"]
    ran = command(f"+agent_url={server.url}", "+agent_name=a", *files, "+num_repeats=3", "+metrics_by=agent")
    assert ran.code == 1
    rows = read_rows(tmp_path / "rollouts.jsonl")
    summary = json.loads((tmp_path / "rollouts_summary.json").read_text())
    (aggregate,) = json.loads((tmp_path / "rollouts_aggregate_metrics.json").read_text())
    printed, _ = json.JSONDecoder().raw_decode(ran.stdout[ran.stdout.index("{\n") :])
    assert summary["means"] == printed
    assert aggregate["agent_metrics"]["mean/reward"] == pytest.approx(printed["reward"])
    assert summary["exit_code"] == 1
    assert summary["finished"] == len(rows) == aggregate["statistics"]["rollouts"]
    assert summary["coverage"] == len(rows) / 90
    assert summary["planned"] == summary["collected"] + summary["failed"]
    collected = rows + read_rows(tmp_path / "rollouts_incomplete.jsonl")
    with_zeros = sum(row["reward"] for row in collected) / (len(collected) + summary["failed"])
    assert summary["means_with_failures_as_zero"]["reward"] == pytest.approx(with_zeros)
    assert len(aggregate["group_level_metrics"]) == len(rows) / 3
    assert '"agent_ref"' in ran.stdout.rpartition("}\n{")[2]
    done = small("ng_reward_profile", "+rollouts_jsonl_fpath=rollouts.jsonl", cwd=tmp_path)
    assert (done.returncode, f"error: {90 - len(rows)} rollouts are missing" in done.stderr) == (1, True), done.stderr
    partial = ("+rollouts_jsonl_fpath=rollouts.jsonl", "+allow_partial_rollouts=true")
    assert small("ng_reward_profile", *partial, cwd=tmp_path).returncode == 0
    (profile,) = json.loads((tmp_path / "rollouts_agent_metrics.json").read_text())
    assert profile["mean/reward"] == pytest.approx(printed["reward"])
    assert flat(profile["statistics"]["scores"]) == pytest.approx(flat(aggregate["statistics"]["scores"]))
    assert not (tmp_path / "rollouts_status.json").exists()


def test_a_summary_after_a_resume_is_of_all_that_is_there(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Its tokens are those of all rows, and it says how many of them were there before."""
    server = serve()
    tasks(10)
    run = [f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    assert command(*run, "+limit=4").code == 0
    assert command(*run, "+resume_from_cache=true", "+price_per_million.output=1000000").code == 0
    summary = json.loads((tmp_path / "r_summary.json").read_text())
    assert summary["tokens"] == {"input": 0, "output": 70}
    assert summary["cost"] == 70
    assert (summary["collected_before"], summary["tokens_before"]["output"], summary["attempts"]) == (4, 28, 6)


OWN = {"agent_metrics": {"mean/reward": 9.0}, "key_metrics": {"pass@4/best": 0.25}, "group_level_metrics": []}


@pytest.mark.parametrize(
    ("answer", "choice", "said"),
    [
        ([200, json.dumps(OWN)], "auto", 'Key metrics for mine:\n{\n    "pass@4/best": 0.25\n}\n'),
        ([200, json.dumps(OWN)], "never", None),
        ([200, json.dumps([1])], "auto", "note: agent 'mine' did not return metrics"),
        (
            [200, json.dumps({"agent_metrics": 3})],
            "auto",
            "note: agent 'mine' returned metrics in an unexpected format",
        ),
        ([500, "broken"], "auto", "note: agent 'mine' did not return metrics"),
        (None, "auto", "note: agent 'mine' has no /aggregate_metrics"),
    ],
)
def test_agents_of_a_head_server_are_asked_for_their_own_metrics(
    command: Callable[..., Ran],
    serve: Callable[..., Served],
    tasks: Callable[..., Path],
    tmp_path: Path,
    answer: list[Any] | None,
    choice: str,
    said: str | None,
) -> None:
    """They are printed and filed; whatever goes wrong is a note, and never a failed run."""
    agent = serve(**({} if answer is None else {"own_metrics": answer}))
    head = serve(head={"mine": ["127.0.0.1", agent.port]})
    tasks(6)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+num_repeats=2"]
    ran = command("+agent_name=mine", f"+head_server.port={head.port}", *files, f"+agent_side_metrics={choice}")
    assert ran.code == 0
    (filed,) = json.loads((tmp_path / "r_aggregate_metrics.json").read_text())
    has_own = said is not None and said.startswith("Key")
    assert (filed["agent_metrics"]["mean/reward"] == 9.0) == has_own
    assert filed["statistics"]["rollouts"] == 12
    if said:
        assert said in (ran.stdout if has_own else ran.stderr)
    assert ("note:" in ran.stderr) == bool(said and not has_own)
    if has_own:
        (sent,) = agent.stats()["last"]
        assert len(sent["verify_responses"]) == 12
        assert sent["verify_responses"][3]["response"] == {"usage": {"output_tokens": 7}}
        assert not {"input", "output", "responses_create_params"} & sent["verify_responses"][3].keys()


@pytest.mark.parametrize(
    ("gate", "code"),
    [("+min_mean.reward=0.99", 5), ("+min_mean.reward=0.0", 0), ("+min_mean.nope=0", 5), ("+min_coverage=1.0", 0)],
)
def test_gates(command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path, gate: str, code: int) -> None:
    """A finished run that measured too little ends with 5 and the figure; the averages are printed all the same."""
    tasks(10)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    ran = command("+agent_name=example_math_agent", *files, gate)
    assert ran.code == code
    assert ran.averages["reward"] is not None
    assert json.loads((tmp_path / "r_summary.json").read_text())["exit_code"] == code
    assert (gate.partition("=")[0].lstrip("+") in ran.stderr) == (code == 5)


def small(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run one of the commands beside the collector."""
    return subprocess.run(
        [SCRIPTS / name, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def rollouts(path: Path, rewards: dict[tuple[int, int], float], question: str = "q") -> Path:
    rows = [
        {
            "responses_create_params": {"input": f"{question}{task}"},
            "reward": reward,
            "extracted_answer": f" A{task % 2} " if index else f"a{task % 2}",
            "_ng_task_index": task,
            "_ng_rollout_index": index,
            "agent_ref": {"name": "a"},
        }
        for (task, index), reward in rewards.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_profiles_do_not_need_order(tmp_path: Path) -> None:
    """A file in completion order has the groups of the sorted one."""
    rewards = {(task, index): float((task * index) % 2) for task in range(20) for index in range(3)}
    shuffled = list(rewards)
    random.Random(2).shuffle(shuffled)
    ordered = rollouts(tmp_path / "a.jsonl", rewards)
    mixed = rollouts(tmp_path / "b.jsonl", {key: rewards[key] for key in shuffled})
    assert list(groups_of(ordered)) == list(groups_of(mixed))


def test_a_profile_counts_what_is_missing_and_what_differs(tmp_path: Path) -> None:
    """Exit 1 unless told otherwise; distinct answers exactly and but for case and white space; the hardest first."""
    rewards = {(0, 0): 1.0, (0, 1): 1.0, (1, 0): 0.0, (1, 1): 0.0, (2, 0): 1.0}
    rollouts(tmp_path / "r.jsonl", rewards)
    done = small("ng_reward_profile", "+rollouts_jsonl_fpath=r.jsonl", "+top=1", cwd=tmp_path)
    assert done.returncode == 1
    assert "1 rollouts are missing" in done.stderr
    assert "Distinct answers: 4/5 (80.0%), 2 ignoring" in done.stdout
    assert done.stdout.splitlines()[1].split()[0] == "1"
    lines = read_rows(tmp_path / "r_reward_profiling.jsonl")
    assert [line["missing_num_rollouts"] for line in lines] == [0, 0, 1]
    assert lines[0]["pass@2/reward"] == 1.0
    allowed = small("ng_reward_profile", "+rollouts_jsonl_fpath=r.jsonl", "+allow_partial_rollouts=true", cwd=tmp_path)
    assert allowed.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "rollouts_jsonl_fpath is missing"),
        (["+rollouts_jsonl_fpath=nope.jsonl"], "cannot be read"),
        (["+rollout_jsonl_fpath=x"], "did you mean +rollouts_jsonl_fpath"),
        (["+rollouts_jsonl_fpath=bad.jsonl"], "bad.jsonl, line 1"),
        (["+rollouts_jsonl_fpath=bad.jsonl", "+top=many"], "top must be a number"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    """Exit 2, no traceback."""
    (tmp_path / "bad.jsonl").write_text("{oops\n")
    done = small("ng_reward_profile", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@given(pairs=st.lists(st.tuples(FLOATS, FLOATS), min_size=2, max_size=30))
def test_differences_are_paired(pairs: list[tuple[float, float]]) -> None:
    """Mean and interval as scipy's paired t-test has them; the same seed, the same p."""
    numbered = dict(enumerate(pairs))
    found = difference_of(numbered, random.Random(0))
    first, second = zip(*pairs, strict=True)
    assert found.difference == pytest.approx(sum(second) / len(second) - sum(first) / len(first), abs=1e-9)
    assert found.wins + found.losses + found.ties == len(pairs)
    assert found.p is not None
    assert 0 < found.p <= 1
    assert found == difference_of(numbered, random.Random(0))
    if pd.Series(second).sub(pd.Series(first)).std() > 1e-3:
        low, high = scipy_stats.ttest_rel(second, first).confidence_interval(0.95)
        assert found.interval_95 == pytest.approx([low, high], abs=1e-6)


def test_outputs_over_the_same_tasks_are_compared(tmp_path: Path) -> None:
    """Wins, flips and p; different tasks are refused unless only the common ones are asked for."""
    better = {(task, index): float(task % 3 > 0) for task in range(30) for index in range(2)}
    worse = {(task, index): float(task % 3 > 1) for task in range(30) for index in range(2)}
    rollouts(tmp_path / "a.jsonl", worse)
    rollouts(tmp_path / "b.jsonl", better)
    done = small("ng_compare_rollouts", "+rollouts_jsonl_fpaths=a.jsonl,b.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert (found["wins"], found["losses"], found["ties"]) == (10, 0, 20)
    assert found["difference"] == pytest.approx(1 / 3)
    assert found["p"] < 0.01
    assert found["flipped_to_right"] == [task for task in range(30) if task % 3 == 1]
    rollouts(tmp_path / "c.jsonl", {key: value for key, value in better.items() if key[0] < 20})
    refused = small("ng_compare_rollouts", "+rollouts_jsonl_fpaths=a.jsonl,c.jsonl", cwd=tmp_path)
    assert refused.returncode == 2
    assert "intersection=true" in refused.stderr
    common = small("ng_compare_rollouts", "+rollouts_jsonl_fpaths=a.jsonl,c.jsonl", "+intersection=true", cwd=tmp_path)
    assert common.returncode == 0
    rollouts(tmp_path / "d.jsonl", better, question="other")
    assert (
        "no task in common"
        in small("ng_compare_rollouts", "+rollouts_jsonl_fpaths=a.jsonl,d.jsonl", cwd=tmp_path).stderr
    )


@given(parts=st.lists(st.integers(0, 2), min_size=6, max_size=24))
def test_shards_put_together_are_the_whole(parts: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """However rollouts lie in them, the merged file is the one that never was apart."""
    from ng_rollouts.cli.aggregate import AggregationConfig, run

    folder = tmp_path_factory.mktemp("shards")
    keys = [(place // 2, place % 2) for place in range(len(parts))]
    whole = {key: float(sum(key) % 2) for key in keys}
    rollouts(folder / "whole.jsonl", whole)
    for shard in range(3):
        mine = {key: whole[key] for key, part in zip(keys, parts, strict=True) if part == shard}
        rollouts(folder / f"shard_{shard}.jsonl", mine)
    config = AggregationConfig(input_glob=f"{folder}/shard_*.jsonl", output_jsonl_fpath=str(folder / "all.jsonl"))
    assert run(config) == (1 if len(parts) % 2 else 0)
    assert (folder / "all.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()


def test_what_occurs_twice_is_told(tmp_path: Path) -> None:
    """The first counts, and the exit code says so."""
    rollouts(tmp_path / "s1.jsonl", {(0, 0): 1.0, (1, 0): 1.0})
    rollouts(tmp_path / "s2.jsonl", {(1, 0): 0.0, (3, 0): 0.0})
    done = small("ng_aggregate_rollouts", "+input_glob=s*.jsonl", "+output_jsonl_fpath=all.jsonl", cwd=tmp_path)
    assert done.returncode == 1
    assert "1 duplicate rollouts: task 1 rollout 0; the first of each was kept" in done.stderr
    assert "1 rollouts are missing from tasks that have no rows, starting with task 2" in done.stderr
    assert [row["reward"] for row in read_rows(tmp_path / "all.jsonl")] == [1.0, 1.0, 0.0]


def nemo_gym(tasks: list[list[RolloutStats]]) -> dict[str, float]:
    """pass@k and its kin as NeMo Gym defines them, worked out the long way; shares, where it gives percentages."""
    found = {}
    for k in range(1, max(map(len, tasks)) + 1):
        passes, averages, majorities = [], [], []
        for task in tasks:
            values = [stats.scores["reward"] for stats in task]
            if len(values) >= k:
                binary = all(value in (0, 1) for value in values)
                subsets = list(itertools.combinations(values, k))
                passes.append(sum(map(any, subsets)) / len(subsets) if binary else max(values[:k]))
            averages.append(sum(values[:k]) / len(values[:k]))
            votes = Counter((stats.answer, stats.scores["reward"]) for stats in task[:k] if stats.answer is not None)
            tied = [score for (_, score), count in votes.items() if count == max(votes.values())]
            majorities.append(sum(tied) / len(tied) if tied else 0.0)
        for name, values in ((f"pass@{k}", passes), (f"pass@1[avg-of-{k}]", averages), (f"majority@{k}", majorities)):
            found[f"{name}/reward"] = sum(values) / len(values)
    return found


@given(groups=st.lists(st.lists(FACTS, min_size=1, max_size=4), min_size=1, max_size=8))
def test_figures_over_tasks_are_nemo_gyms(groups: list[list[RolloutStats]]) -> None:
    """Ragged groups, graded scores among binary ones, tasks that nobody answered."""
    aggregate = AgentStats()
    for group in groups:
        aggregate.add(group)
    aggregate.end()
    expected = nemo_gym(groups)
    if all(stats.answer is None for group in groups for stats in group):
        expected = {key: value for key, value in expected.items() if not key.startswith("majority")}
    found = {key: value for key, value in aggregate.nemo_gym_metrics().items() if key.startswith(("pass@", "majority"))}
    assert found == pytest.approx(expected)
    non_binary = any(stats.scores["reward"] == 0.5 for group in groups for stats in group)
    assert any(key.startswith("pass^") for key in aggregate.nemo_gym_metrics()) != non_binary


@pytest.mark.parametrize(("differences", "p"), [([0.1], None), ([0.1, 0.3], 0.5), ([0.2] * 4, 0.125)])
def test_few_tasks_prove_little(differences: list[float], p: float | None) -> None:
    """No p is below what flipping signs could show."""
    assert difference_of({task: (0.0, each) for task, each in enumerate(differences)}, random.Random(0)).p == p


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " : ")])
def test_keys_are_those_of_the_row_itself(tmp_path: Path, separators: tuple[str, str]) -> None:
    """However it is spaced, and whatever lies within."""
    order = [(1, 0), (0, 0), (1, 1), (0, 1)]
    rows = [
        {
            "_ng_task_index": task,
            "_ng_rollout_index": rollout,
            "reward": 1.0,
            "meta": {"_ng_task_index": place, "_ng_rollout_index": 0},
        }
        for place, (task, rollout) in enumerate(order)
    ]
    for name, change in (("nested", {}), ("plain", {"meta": 'a "_ng_task_index": 7'})):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({**row, **change}, separators=separators) + "\n" for row in rows))
        assert [(group.task_index, group.indices) for group in groups_of(path)] == [(0, [0, 1]), (1, [0, 1])]
        assert scan(path).max_repeats == {"agent": 2}


def test_a_merge_knows_what_the_manifests_planned(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Whole tasks that are missing at the end; an output that is there is moved aside; sparse indices are no gaps."""
    files = [f"+input_jsonl_fpath={ROOT / 'examples' / 'arithmetic.jsonl'}", "+output_jsonl_fpath=r.jsonl"]
    assert command("+agent_name=example_math_agent", "+limit=10", "+num_repeats=2", *files).code == 0
    lines = (tmp_path / "r.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_text("".join(lines[:13]))
    merge = ("+input_glob=r.jsonl", "+output_jsonl_fpath=all.jsonl")
    done = small("ng_aggregate_rollouts", *merge, cwd=tmp_path)
    assert (done.returncode, "6 rollouts are missing from tasks that have no rows" in done.stderr) == (1, True), (
        done.stderr
    )
    assert "1 rollouts of 1 tasks are missing, by task: 6 (1)" in done.stderr
    assert "all.jsonl exists: renamed to" in small("ng_aggregate_rollouts", *merge, cwd=tmp_path).stderr
    assert (tmp_path / "all.jsonl.1").exists()
    assert (tmp_path / "all_aggregate_metrics.json.1").exists()
    assert small("ng_aggregate_rollouts", *merge, "+overwrite=true", cwd=tmp_path).returncode == 1
    (tmp_path / "all.jsonl").unlink()
    (tmp_path / "all_incomplete.jsonl").write_text("{}\n")
    assert "exists: renamed to" in small("ng_aggregate_rollouts", *merge, cwd=tmp_path).stderr
    assert (tmp_path / "all_incomplete.jsonl.2").read_text() == "{}\n"
    rollouts(tmp_path / "sparse.jsonl", {(10**9, 0): 1.0, (3, 0): 1.0})
    done = small("ng_aggregate_rollouts", "+input_glob=sparse.jsonl", "+output_jsonl_fpath=s.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "empty.jsonl").touch()
    done = small("ng_aggregate_rollouts", "+input_glob=empty.jsonl", "+output_jsonl_fpath=e.jsonl", cwd=tmp_path)
    assert (done.returncode, "without rollouts" in done.stderr) == (2, True)


def test_failures_count_against_the_scores_of_their_own_agent(
    command: Callable[..., Ran], serve: Callable[..., Served], tmp_path: Path
) -> None:
    """Another agent's accuracy is what it was."""
    server = serve(faults={"400": 0.4, "null_params": 0.6}, sticky=True)
    row = {"responses_create_params": {"input": "What is 2 + 3?"}}
    rows = [
        {**row, "n": number, "agent_ref": {"name": ("example_math_agent", "b")[number % 2]}} for number in range(40)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    files = ["+input_jsonl_fpath=t.jsonl", "+output_jsonl_fpath=r.jsonl", "+metrics_by=agent"]
    ran = command(f"+agents.b.url={server.url}", *files)
    summary = json.loads((tmp_path / "r_summary.json").read_text())
    failed = summary["failed"]
    assert failed > 3
    accurate = [row["accuracy"] for row in read_rows(tmp_path / "r.jsonl") if "accuracy" in row]
    assert len(accurate) == 20
    means = summary["means_with_failures_as_zero"]
    assert means["accuracy"] == sum(accurate) / 20 == summary["means_collected"]["accuracy"]
    assert means["reward"] == pytest.approx(summary["means_collected"]["reward"] * (40 - failed) / 40)
    own = json.loads((tmp_path / "r_aggregate_metrics.json").read_text())
    assert all(entry["statistics"]["latency_s"]["p50"] > 0 for entry in own)
    for agent in ("example_math_agent", "b"):
        values = [row["reward"] for row in read_rows(tmp_path / "r.jsonl") if row["agent_ref"]["name"] == agent]
        total = 0.0
        for value in values:
            total += value
        assert f'"name": "{agent}"\n    }},\n    "reward": {total / len(values)}' in ran.stdout


@pytest.mark.parametrize("which", ["tasks.jsonl", "r.jsonl", "r_manifest.json", "nowhere/status.json", "."])
def test_a_status_file_is_a_file_of_its_own(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path, which: str
) -> None:
    """Anything else would be overwritten and removed."""
    before = tasks(3).read_text()
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    ran = command("+agent_name=example_math_agent", *files, f"+status_file={which}")
    assert ran.code == 2
    assert "status_file" in ran.stderr
    assert (tmp_path / "tasks.jsonl").read_text() == before


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared rollouts are not here")
def test_rollouts_without_keys_are_profiled_by_what_they_ask(tmp_path: Path) -> None:
    """As NeMo Gym's first collector wrote them."""
    for file in sorted(SHARED_DATA.glob("*/example_rollouts.jsonl")):
        (tmp_path / "r.jsonl").write_bytes(file.read_bytes())
        arguments = ["+rollouts_jsonl_fpath=r.jsonl", "+allow_partial_rollouts=true"]
        done = small("ng_reward_profile", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        rows = read_rows(tmp_path / "r_reward_profiling.jsonl")
        assert sum(row["num_rollouts"] for row in rows) == len(file.read_text().splitlines())


def test_what_is_broken_leaves_nothing_behind(tmp_path: Path) -> None:
    """A torn line, a rollout that occurs twice, a score that is not there."""
    rollouts(tmp_path / "r.jsonl", {(0, 0): 1.0, (1, 0): 1.0})
    whole = (tmp_path / "r.jsonl").read_text()
    for content, arguments in ((whole[:-9], []), (whole + whole, []), (whole, ["+score=nope"]), (whole, ["+top=-1"])):
        (tmp_path / "r.jsonl").write_text(content)
        done = small("ng_reward_profile", "+rollouts_jsonl_fpath=r.jsonl", *arguments, cwd=tmp_path)
        assert done.returncode == 2, done.stdout
        assert "Traceback" not in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]
