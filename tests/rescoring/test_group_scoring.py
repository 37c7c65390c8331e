"""Collecting with a judge of groups: the answers first, then the scores of whole groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.rescoring.group_scoring import _second_step
from tests.conftest import RESUME, Ran, keys_of, read_rows, sums
from tests.servers import Served

SCORES = '{"scores": [{"id": "A", "explanation": "x", "score": 0.2}, {"id": "B", "explanation": "y", "score": 0.9}]}'

ServeModel = Callable[..., Served]
CollectSums = Callable[..., Ran]


def judged_by(judge: Served) -> list[str]:
    """The arguments for a judge of groups."""
    return ["+verifier=group_judge", f"+verifier.base_url={judge.url}/v1", "+verifier.attempts=1", "+num_repeats=6"]


def asked(server: Served) -> int:
    """The number of requests for an answer."""
    return int(server.stats()["asked"].get("/v1/responses", 0))


def text_of_answer(row: Any) -> str:
    """The answer in a row."""
    return str(row["output"][-1]["content"])


def test_groups_are_scored_when_all_answers_are_there(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """Answers wait in a file of their own; each row of the output has the score of its answer within its group."""
    model, judge = serve_model(wrong=0.5), serve_model(models=["judge"], text=SCORES)
    ran = collect_sums(model.url, *judged_by(judge), rows=8)
    assert ran.code == 0, ran.stderr
    rows = read_rows(tmp_path / "rollouts.jsonl")
    assert keys_of(tmp_path / "rollouts.jsonl") == [(task, rollout) for task in range(8) for rollout in range(6)]
    rewards = defaultdict(set)
    for row in rows:
        rewards[row["_ng_task_index"], text_of_answer(row)].add(row["reward"])
    assert all(len(each) == 1 for each in rewards.values())
    answers = {task: [text for each, text in rewards if each == task] for task in range(8)}
    for task, texts in answers.items():
        found = sorted(next(iter(rewards[task, text])) for text in texts)
        assert found == ([0.2, 0.9] if len(texts) == 2 else [0.5])
    # One list for each group that has two different answers.
    assert asked(judge) == sum(len(texts) == 2 for texts in answers.values())
    assert {row["_ng_scoring"] for row in read_rows(tmp_path / "rollouts_unscored.jsonl")} == {"deferred"}
    assert "_ng_scoring" not in rows[0]


def test_group_whose_judge_fails_has_no_score(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """A list that cannot be read is a failure of the whole group, never a reward; a resume asks the judge only."""
    model, judge = serve_model(wrong=0.5), serve_model(models=["judge"], text="Both are fine.")
    ran = collect_sums(model.url, *judged_by(judge), rows=3)
    assert ran.code == 1, ran.stderr
    failures = read_rows(tmp_path / "rollouts_failures.jsonl")
    assert {row["failure_class"] for row in failures} == {"judge_unreadable"}
    assert all(row["reward"] == 0.5 for row in read_rows(tmp_path / "rollouts.jsonl"))  # equal answers need no judge
    assert len(failures) % 6 == 0

    before, good = asked(model), serve_model(models=["judge"], text=SCORES)
    ran = collect_sums(model.url, *judged_by(good), RESUME, rows=3)
    assert ran.code == 0, ran.stderr
    assert asked(model) == before
    assert asked(good) == len(failures) / 6
    assert keys_of(tmp_path / "rollouts.jsonl") == [(task, rollout) for task in range(3) for rollout in range(6)]


def test_resume_with_more_tasks_keeps_scored_groups(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """Both steps grow: groups that have their scores are not judged again."""
    model, judge = serve_model(wrong=0.5), serve_model(models=["judge"], text=SCORES)
    assert collect_sums(model.url, *judged_by(judge), "+limit=3", rows=sums(6)).code == 0
    first = read_rows(tmp_path / "rollouts.jsonl")
    before = asked(judge)
    ran = collect_sums(model.url, *judged_by(judge), RESUME, rows=sums(6))
    assert ran.code == 0, ran.stderr
    rows = read_rows(tmp_path / "rollouts.jsonl")
    assert rows[:18] == first
    assert len(rows) == 36
    new = {(row["_ng_task_index"], text_of_answer(row)) for row in rows[18:]}
    assert asked(judge) - before == len(new) - 3


def test_command_whose_time_is_over_while_it_collects_scores_nothing(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """Its exit code is that of a run whose time is over; the groups are scored when all answers are there."""
    judge = serve_model(models=["judge"], text=SCORES)
    run = [*judged_by(judge), "+max_wall_s=1", "+wall_margin_s=0.2"]
    slow = serve_model(latency=300)
    assert collect_sums(slow.url, *run).code == 3
    ran = collect_sums(slow.url, *run, "+stop_ok=true", RESUME)
    assert ran.code == 0
    assert "30 rollouts remain" in ran.stderr
    assert not (tmp_path / "rollouts.jsonl").exists()


@pytest.mark.parametrize(("margin_s", "left_s"), [(None, 4.0), (3.0, 4.0), (5.0, 0.001)])
def test_time_of_the_scores_is_what_the_answers_have_left(margin_s: float | None, left_s: float) -> None:
    """If less than the margin is left, the scores have no time, and the configuration is still valid."""
    config = CollectConfig(input_jsonl_fpath="i", output_jsonl_fpath="o", max_wall_s=10.0, wall_margin_s=margin_s)
    assert _second_step(config, Path("answers.jsonl"), 6.0).max_wall_s == left_s
