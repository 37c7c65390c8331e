"""Reports: rules about tasks, verdicts, the quality summary, and independence of the order."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.health.checks import CHECKS, Check, findings_in, mask_of, unobserved_in, unobserved_mask_of
from ng_rollouts.health.closed_report import ClosedReport, close_report
from ng_rollouts.health.counts import MAX_TASKS
from ng_rollouts.health.report import MAX_INDEX, HealthReport
from ng_rollouts.health.rollout import health_of
from ng_rollouts.health.summary import quality_summary, unreadable_lines, verdict_lines
from ng_rollouts.types import Json, RolloutHealth, RolloutKey, key_of
from tests.health.rows import NEMO_GYM_CASES, closed, flags, message, reasoning, row_of

LONG = "The answer is the sum of all prime numbers below one hundred. " * 4


def repeats(*texts_and_rewards: tuple[str, float], **fields: Any) -> list[dict[str, Any]]:
    """The rollouts of task 0 with these answers and rewards."""
    rows = [row_of(message(text), reward=reward, **fields) for text, reward in texts_and_rewards]
    return [{**row, "_ng_rollout_index": index} for index, row in enumerate(rows)]


def lines_of(report: ClosedReport) -> list[dict[str, Any]]:
    """The verdict lines of a report, parsed."""
    lines = [*verdict_lines(report.rows()), *unreadable_lines(report.lines, report.line_mask)]
    return [json.loads(line) for line in lines]


def summary_of(report: HealthReport) -> Json:
    """The quality summary of a report."""
    result = close_report(report)
    return quality_summary(result.counts, report.totals, report.ignored, result.lines)


def nemo_gym_report() -> HealthReport:
    """A report of the rows that NeMo Gym was asked about, and of a torn line."""
    report = HealthReport()
    for row, _, _ in NEMO_GYM_CASES:
        key = key_of(row)
        assert key
        report.add(key, health_of(row))
    report.add_unreadable(19)
    return report


def test_summary_is_that_of_nemo_gym() -> None:
    """Verdicts, counts, coverage, sums and flags are those that NeMo Gym 0.7.0 reports for these rows."""
    report = nemo_gym_report()
    summary = summary_of(report)
    run = summary["run"]
    assert run["verdicts"] == {"healthy": 2, "unhealthy": 16, "unobserved": 1}
    assert (run["artifacts"]["records"], run["artifacts"]["captures"]) == (19, 16)
    coverage = {name: (each["evaluated"], each["unobserved"]) for name, each in run["artifacts"]["coverage"].items()}
    assert coverage == {
        **dict.fromkeys(map(str, CHECKS[:12]), (16, 3)),
        "check_execution_error": (18, 1),
        "record_unreadable": (19, 0),
        "rollout_duplicate_identity": (18, 1),
        "rollout_token_count_mismatch": (11, 8),
        "task_consistently_unhealthy": (1, 16),
        "task_no_successful_model_calls": (12, 5),
    }
    assert {name: count for name, count in run["issues"].items() if count} == {
        **dict.fromkeys(map(str, CHECKS[3:14]), 1),
        "record_unreadable": 2,
        "rollout_duplicate_identity": 2,
        "rollout_ended_on_failed_model_call": 4,
        "agent_turn_hollow": 3,
        "model_call_failed": 3,
    }
    assert run["stats"] == {
        "model_call_errors": {
            "total": 5,
            "by_status": {"429": 1, "500": 4},
            "rollouts_affected": 5,
            "ended_on_error": 4,
        },
        "duplicated_calls": {"replayed": 0, "rollouts": 0},
        "tokens": {"prompt": 75, "completion": 125, "capture_prompt": 90, "capture_completion": 36},
    }
    flagged = {index: task["flags"] for index, task in summary["tasks"].items() if task["flags"]}
    assert flagged == {"13": ["task_consistently_unhealthy", "task_no_successful_model_calls"]}
    assert len(summary["tasks"]) == 17


def test_verdict_lines_are_those_of_nemo_gym() -> None:
    """A line has the key, the name, the verdict, the findings and the unobserved checks. Unreadable lines come last."""
    *lines, torn = lines_of(close_report(nemo_gym_report()))
    for line, (row, found, unobserved) in zip(lines, NEMO_GYM_CASES, strict=True):
        assert (line["_ng_task_index"], line["_ng_rollout_index"]) == key_of(row)
        assert [each["check"] for each in line["findings"]] == found
        assert line["unobserved"] == unobserved
        assert line["verdict"] == ("unhealthy" if found else "unobserved" if unobserved else "healthy")
    assert lines[-1]["rollout_id"] == "15-0"
    assert torn["_ng_task_index"] == "__unreadable_record__:input-0:line-19"
    assert len(torn["unobserved"]) == 11


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (repeats(("a", 0.0), ("b", 1.0)), []),
        (repeats(("a", 1.0), ("b", 1.0)), ["always_solved"]),
        (repeats(("a", 0.0), ("b", 0.0)), ["never_solved"]),
        (repeats(("a", 0.0)), []),
        (repeats(("", 0.0), ("", 0.0)), ["task_consistently_unhealthy", "never_solved_same_failure", "never_solved"]),
        (repeats(("", 0.0), ("b", 0.0)), ["never_solved"]),
        (repeats((LONG, 0.0), (LONG, 0.0), (LONG, 0.0)), ["identical_siblings", "never_solved"]),
        (repeats((LONG, 0.0), (LONG, 0.0)), ["never_solved"]),
        (repeats(("B", 0.0), ("B", 0.0), ("B", 0.0)), ["never_solved"]),
        (repeats((LONG, 0.0), (LONG, 0.0), (LONG, 0.0), ("x", 1.0)), []),
        (repeats(("B", 0.0), ("B", 1.0)), ["verifier_disagrees"]),
        (repeats(("B", 0.95), ("B", 0.9)), []),
        (repeats(("B", 0.0), ("B ", 1.0)), ["verifier_disagrees"]),
        (repeats(("B", 0.0), ("b", 1.0)), []),
        (repeats(("B", 0.0), ("B", 1.0), mask_sample=True), []),
    ],
)
def test_rule_about_a_task(rows: list[dict[str, Any]], expected: list[str]) -> None:
    """Rewards and answers of siblings. Short equal answers, small differences and masked rollouts are no evidence."""
    assert flags(rows) == expected


def test_greedy_siblings_may_be_identical() -> None:
    """With temperature 0, equal answers are expected."""
    rows = repeats((LONG, 1.0), (LONG, 1.0), (LONG, 1.0))
    for row in rows:
        row["responses_create_params"]["temperature"] = 0
    assert flags(rows) == ["always_solved"]


def test_good_siblings_without_trajectories_keep_a_task_from_being_consistently_unhealthy() -> None:
    """Their verdict is `unobserved`, but their responses were checked and are good."""
    assert flags(repeats(("", 0.0), ("", 0.0), ("b", 1.0))) == []


def test_rollouts_with_tools_do_not_make_a_verifier_disagree() -> None:
    """The reward may depend on the effects of the tools: only responses of one message are compared."""
    rows = repeats(("done", 0.0), ("done", 1.0))
    for row in rows:
        row["response"]["output"].insert(0, {"type": "web_search_call"})
    assert flags(rows) == []


@pytest.mark.parametrize(("low", "expected"), [(0.4, []), (0.0, ["verifier_disagrees"])])
def test_verifier_may_grade_the_reasoning(low: float, expected: list[str]) -> None:
    """With reasoning, equal answers may have different rewards, but not the full one and none."""
    rows = repeats(("B", low), ("B", 1.0))
    for row in rows:
        row["response"]["output"].insert(0, reasoning())
    assert flags(rows) == expected
    thinking = repeats(("<think>a</think>B", low), ("<think>b</think>B", 1.0))
    assert flags(thinking) == expected


def test_flags_of_a_task_do_not_change_verdicts() -> None:
    """A flag is about the task, and its share is that of the tasks."""
    counts = closed(repeats(("B", 0.0), ("B", 1.0))).counts
    assert counts.verdicts() == {"unobserved": 2}
    assert counts.share(Check.VERIFIER_DISAGREES) == 1.0
    assert counts.share(Check.EMPTY) == 0.0


def test_ignored_checks_are_left_out() -> None:
    """An ignored check is neither a finding nor unobserved, and the coverage counts it."""
    report = HealthReport([Check.EMPTY, Check.DUPLICATE_IDENTITY, Check.HOLLOW_TURN])
    for _ in range(2):
        report.add(RolloutKey(0, 0), health_of(row_of()))
    result = close_report(report)
    assert result.counts.problems() == []
    assert all("agent_turn_hollow" not in line["unobserved"] for line in lines_of(result))
    coverage = summary_of(report)["run"]["artifacts"]["coverage"]
    assert coverage["agent_turn_hollow"] == {"evaluated": 0, "unobserved": 0, "ignored": 2}


def test_rows_of_several_stages_are_not_duplicates() -> None:
    """Rows of the same rollout with other stages are kept apart, and their lines have the stage and the name."""
    rows = [row_of(message("a"), stage_index=stage, _ng_rollout_id="x") for stage in (0, 1)]
    result = closed(rows)
    assert not result.counts.count(Check.DUPLICATE_IDENTITY)
    assert [(line["rollout_id"], line["stage_index"]) for line in lines_of(result)] == [("x", 0), ("x", 1)]


def test_examples_are_the_first_by_key_and_problems_are_sorted() -> None:
    """The most frequent problem comes first, and its example is the rollout with the smallest key."""
    rows = [{**row_of(), "_ng_task_index": task} for task in (9, 3)] + [row_of(message("x"), cut="max_steps")]
    first, second = closed(rows).counts.problems()
    assert (first.check, first.count, first.example) == (Check.EMPTY, 2, "task 3, rollout 0")
    assert (second.check, second.example, second.share) == (Check.STEP_LIMIT, "task 0, rollout 0", 1 / 3)


def test_many_tasks_are_listed_only_with_problems() -> None:
    """Beyond 5000 tasks, the summary has those with a problem, and the number of the others."""
    report = HealthReport()
    healthy, empty = health_of(row_of(message("a"))), health_of(row_of())
    for task in range(MAX_TASKS + 1):
        report.add(RolloutKey(task, 0), empty if task == 7 else healthy)
    summary = summary_of(report)
    assert list(summary["tasks"]) == ["7"]
    assert summary["run"]["tasks_left_out"] == MAX_TASKS


def test_index_that_is_too_large_is_rejected() -> None:
    """An index beyond 64 bits leaves the report as it was."""
    report = HealthReport()
    with pytest.raises(ValueError, match="too large"):
        report.add(RolloutKey(0, MAX_INDEX + 1), health_of(row_of()))
    assert len(report) == 0
    assert close_report(report).counts.problems() == []


@st.composite
def healths(draw: st.DrawFn) -> list[tuple[RolloutKey, RolloutHealth]]:
    """Rollouts of a few tasks, with duplicates."""
    keys = draw(st.lists(st.builds(RolloutKey, st.integers(0, 3), st.integers(0, 3)), max_size=12))
    texts = st.sampled_from(["", "B", "C", LONG])
    rows = (row_of(message(draw(texts)), reward=draw(st.sampled_from([0.0, 0.5, 1.0]))) for _ in keys)
    others = (draw(st.sampled_from(NEMO_GYM_CASES))[0] for _ in keys)
    return [
        (key, health_of(draw(st.sampled_from(pair))))
        for key, pair in zip(keys, zip(rows, others, strict=True), strict=True)
    ]


def result_of(rollouts: Iterable[tuple[RolloutKey, RolloutHealth]]) -> tuple[list[bytes], Any, list[Any]]:
    report = HealthReport()
    for key, health in rollouts:
        report.add(key, health)
    result = close_report(report)
    return list(verdict_lines(result.rows())), summary_of(report), result.counts.problems()


@given(healths(), st.randoms())
def test_report_does_not_depend_on_the_order(rollouts: list[tuple[RolloutKey, RolloutHealth]], rng: Any) -> None:
    """Rollouts added in any order give the same lines, summary and problems."""
    shuffled = list(rollouts)
    rng.shuffle(shuffled)
    assert result_of(shuffled) == result_of(rollouts)


@given(st.sets(st.sampled_from(CHECKS)), st.sets(st.sampled_from(CHECKS[:12])))
def test_masks_round_trip(found: set[Check], unobserved: set[Check]) -> None:
    """A mask gives back the findings and the unobserved checks that it was made of."""
    mask = mask_of(found) | unobserved_mask_of(unobserved)
    assert set(findings_in(mask)) == found
    assert set(unobserved_in(mask)) == unobserved
