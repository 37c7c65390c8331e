"""The files about health: a line for each rollout, and the quality summary, both in NeMo Gym 0.7's form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from ng_rollouts.health.checks import (
    ALL_UNOBSERVED,
    CHECKS,
    LINE_UNOBSERVED,
    NEMO_GYM_CHECKS,
    ROLLOUT_FINDINGS,
    Check,
    findings_in,
    mask_of,
    unobserved_in,
    unobserved_mask_of,
    verdict_of,
)
from ng_rollouts.health.closed_report import CheckedRow
from ng_rollouts.health.counts import OF_VERDICTS, HealthCounts
from ng_rollouts.health.report import CallTotals
from ng_rollouts.jsonl import dumps
from ng_rollouts.types import Json

_VERDICTS = ("healthy", "unhealthy", "unobserved")


def verdict_lines(rows: Iterable[CheckedRow]) -> Iterator[bytes]:
    """The lines of the verdicts, each with its newline."""
    for row in rows:
        end = _end_of_line(row.mask & OF_VERDICTS)
        if row.rollout_id is None and row.stage is None:
            # The usual line. There may be a million of them, so it is not made from an object.
            key = (row.task_index, row.rollout_index)
            yield b'{"_ng_task_index":%d,"_ng_rollout_index":%d,"rollout_id":"%d-%d",%b}\n' % (*key, *key, end)
            continue
        rollout_id = row.rollout_id or f"{row.task_index}-{row.rollout_index}"
        start = {"_ng_task_index": row.task_index, "_ng_rollout_index": row.rollout_index, "rollout_id": rollout_id}
        stage = b"" if row.stage is None else b',"stage_index":' + dumps(row.stage)
        yield dumps(start)[:-1] + b"," + end + stage + b"}\n"


def unreadable_lines(lines: Iterable[int], mask: int) -> Iterator[bytes]:
    """The lines of the verdicts about lines that are not rollouts, whose mask is the same."""
    for line in lines:
        name = _line_name(line)
        start = {"_ng_task_index": name, "_ng_rollout_index": 0, "rollout_id": f"{name}-0"}
        yield dumps(start)[:-1] + b"," + _end_of_line(mask & OF_VERDICTS) + b"}\n"


@cache
def _end_of_line(mask: int) -> bytes:
    """The end of a line, without its brace: the same for all rollouts with this mask."""
    findings = [{"check": check, "detail": {"reason": check.meaning}} for check in findings_in(mask & ROLLOUT_FINDINGS)]
    end = {"verdict": verdict_of(mask), "findings": findings, "unobserved": unobserved_in(mask)}
    return dumps(end)[1:-1]


def quality_summary(
    counts: HealthCounts, totals: CallTotals, ignored: Sequence[Check] = (), lines: Iterable[int] = ()
) -> Json:
    """The quality summary.

    `issues` counts rollouts, or tasks for the checks of tasks; `notes` are those that are not problems. Beyond 5000
    tasks, `tasks` has only those with a problem, and `run.tasks_left_out` the number of the others.

    Args:
        ignored: checks that were left out.
        lines: numbers of the lines that are not rollouts.
    """
    verdicts, by_check = counts.verdicts(), counts.by_check()
    tasks = {str(index): summary for index, summary in counts.listed()}
    left_out = counts.tasks - len(tasks)
    run = {
        "ignored_checks": sorted(check.value for check in ignored),
        "artifacts": {"records": len(counts), "captures": totals.captures, "coverage": _coverage(counts, ignored)},
        "verdicts": {name: verdicts[name] for name in _VERDICTS},
        "issues": {check.value: by_check.get(check, 0) for check in CHECKS if check.is_problem},
        "notes": {check.value: by_check.get(check, 0) for check in CHECKS if not check.is_problem},
        "stats": _stats(totals),
        **({"tasks_left_out": left_out} if left_out else {}),
    }
    return {"run": run, "tasks": {**tasks, **{_line_name(line): _unreadable_task(ignored) for line in lines}}}


def _unreadable_task(ignored: Sequence[Check]) -> Json:
    """NeMo Gym counts a line that is not a rollout as a task."""
    mask = (Check.RECORD_UNREADABLE.bit | LINE_UNOBSERVED) & ~(mask_of(ignored) | unobserved_mask_of(ignored))
    return {"repeats": 1, **{name: int(name == verdict_of(mask)) for name in _VERDICTS}, "flags": []}


def _line_name(line: int) -> str:
    """NeMo Gym's name of a line that is not a rollout."""
    return f"__unreadable_record__:input-0:line-{line}"


def _coverage(counts: HealthCounts, ignored: Sequence[Check]) -> Json:
    """For each of NeMo Gym's checks: how often it was made, lacked evidence or was left out."""
    unobserved: Counter[Check] = Counter()
    for mask, count in counts.by_mask.items():
        for check in unobserved_in(mask & ALL_UNOBSERVED):
            unobserved[check] += count
    return {
        check.value: _covered(check, counts, unobserved[check], is_ignored=check in ignored)
        for check in NEMO_GYM_CHECKS
    }


def _covered(check: Check, counts: HealthCounts, unobserved: int, *, is_ignored: bool) -> Json:
    total = counts.tasks + counts.lines if check.is_of_task else len(counts)
    if is_ignored:
        return {"evaluated": 0, "unobserved": 0, "ignored": total}
    evaluated = counts.task_evaluated[check] if check.is_of_task else total - unobserved
    return {"evaluated": evaluated, "unobserved": total - evaluated, "ignored": 0}


def _stats(totals: CallTotals) -> Json:
    return {
        "model_call_errors": {
            "total": totals.failed.total(),
            "by_status": dict(sorted(totals.failed.items())),
            "rollouts_affected": totals.rollouts_with_failures,
            "ended_on_error": totals.ended_on_failure,
        },
        "duplicated_calls": {"replayed": totals.replayed, "rollouts": totals.rollouts_with_replays},
        "tokens": {
            "prompt": totals.usage_prompt_tokens,
            "completion": totals.usage_completion_tokens,
            "capture_prompt": totals.prompt_tokens,
            "capture_completion": totals.completion_tokens,
        },
    }
