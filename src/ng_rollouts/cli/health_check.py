"""`ng_health_check`: find the rollouts and tasks of a file that measure nothing.

The files and their keys are those of NeMo Gym; this program adds checks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ng_rollouts.cli.simple_command import run_command
from ng_rollouts.config.fields import REQUIRED, check_fields, param
from ng_rollouts.console import counted, print_json, print_result, prints_only_json
from ng_rollouts.errors import GateMissed, InputError
from ng_rollouts.health.checks import Check
from ng_rollouts.health.closed_report import ClosedReport, close_report
from ng_rollouts.health.counts import HealthCounts
from ng_rollouts.health.report import MAX_INDEX, HealthReport
from ng_rollouts.health.rollout import health_of
from ng_rollouts.health.selection import Limits, check_disjoint, checks_of, limits_of, missed_limits
from ng_rollouts.health.summary import quality_summary, unreadable_lines, verdict_lines
from ng_rollouts.outputs.path_checks import check_not_an_output, check_replaceable, check_side_files, writable
from ng_rollouts.outputs.paths import OutputPaths, output_paths
from ng_rollouts.outputs.reader import check_readable, open_rollouts, parse_row, task_value, value_digest
from ng_rollouts.storage.atomic import replacing, write_json
from ng_rollouts.storage.lock import locked
from ng_rollouts.types import Json, RolloutKey, key_of


@dataclass(frozen=True, kw_only=True)
class HealthCheckConfig:
    """Find rollouts and tasks that measure nothing (<stem>_rollout_verdicts.jsonl, <stem>_quality_summary.json)."""

    rollouts_jsonl_fpath: str = param(REQUIRED, "File of rollouts, of this program or of NeMo Gym.")
    ignored_checks: str = param("", "Checks to leave out, separated by commas.")
    fail_on: str = param(
        "", "Checks that end the command with exit code 5: a list, or a dict of check to the largest accepted share."
    )
    max_share: float = param(0.0, "Largest accepted share for the checks of a list.", minimum=0, maximum=1)
    nemo_gym_names: bool = param(
        False, "Name the files as NeMo Gym does: rollout_verdicts.jsonl and quality_summary.json, without the stem."
    )
    quiet: bool = param(False, "Print JSON alone to stdout, and errors alone to stderr.")

    def __post_init__(self) -> None:
        check_fields(self)
        check_disjoint("ignored_checks", self.ignored, "fail_on", self.limits)

    @property
    def ignored(self) -> list[Check]:
        """The checks to leave out."""
        return checks_of("ignored_checks", self.ignored_checks)

    @property
    def limits(self) -> Limits:
        """The checks of the gate, with the share that is accepted of each."""
        return limits_of("fail_on", self.fail_on, default=self.max_share)


def main() -> NoReturn:
    """Run `ng_health_check`."""
    run_command(
        "ng_health_check", HealthCheckConfig, run, example="+rollouts_jsonl_fpath=rollouts.jsonl +fail_on=[empty]"
    )


def run(config: HealthCheckConfig) -> int:
    """Check the rollouts, write both files, print the problems, and return the exit code.

    Raises:
        InputError: the file cannot be read, or has no lines.
        GateMissed: too many rollouts have a check of `fail_on`.
    """
    source = Path(config.rollouts_jsonl_fpath).expanduser()
    check_readable("rollouts_jsonl_fpath", source)
    paths = output_paths(str(source))
    check_side_files(paths)
    verdicts, quality = files = _files(paths, config)
    for derived in files:
        check_replaceable(derived, "the report")
        check_not_an_output(derived, "the report")
    report = report_of(source, config.ignored)
    # A file of another kind has lines as well, and a report beside it would only be in the way.
    if not report.has_rollouts:
        raise InputError(f"{source} has no rollouts")
    closed = close_report(report)
    summary = quality_summary(closed.counts, report.totals, report.ignored, closed.lines)
    _write(verdicts, quality, closed, summary)
    for line in (*summary_lines(closed.counts), f"Quality summary: {quality}"):
        print_result(line)
    if prints_only_json():
        print_json(summary)
    if missed := list(missed_limits("fail_on", config.limits, closed.counts)):
        raise GateMissed("; ".join(missed))
    return 0


def report_of(source: Path, ignored: list[Check]) -> HealthReport:
    """The report of a file. A line that is not a rollout is a finding. A file without keys is grouped by prompt.

    Raises:
        InputError: the file cannot be read.
    """
    report = HealthReport(ignored)
    grouping: Grouping | None = None
    with open_rollouts(source) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = parse_row(source, number, line)
            except InputError:
                report.add_unreadable(number)
                continue
            if grouping is None:
                grouping = Grouping(has_keys=key_of(row) is not None)
            if key := grouping.key_of(row, number):
                report.add(key, health_of(row))
            else:
                report.add_unreadable(number)
    return report


class Grouping:
    """The keys of the rows of a file: their own, or else by prompt and in the order of the file, as readers do it."""

    def __init__(self, *, has_keys: bool) -> None:
        self._has_keys = has_keys
        # digests, because prompts are large; the values are task index and rollouts so far
        self._tasks: dict[bytes, list[int]] = {}

    def key_of(self, row: Json, number: int) -> RolloutKey | None:
        """The key of a row; None if it should have one and has none that is valid."""
        if self._has_keys:
            key = key_of(row)
            return key if key and max(key) <= MAX_INDEX else None
        task = self._tasks.setdefault(value_digest(task_value(row), number), [len(self._tasks), 0])
        task[1] += 1
        return RolloutKey(task[0], task[1] - 1)


def summary_lines(counts: HealthCounts) -> Iterator[str]:
    """The counts of verdicts and the table of problems, as lines for the terminal."""
    verdicts = counts.verdicts()
    by_verdict = ", ".join(f"{verdicts[name]} {name}" for name in ("healthy", "unhealthy", "unobserved"))
    yield f"Rollout health: {len(counts)} checked, {by_verdict}"
    if verdicts["unobserved"]:
        yield "  unobserved: nothing was found, but the checks of model calls need ng_trajectory in the rows"
    if problems := counts.problems():
        width = max(len(each.check) for each in problems)
        example_width = max(7, *(len(each.example) for each in problems))
        yield f"  {'check':<{width}} {'count':>7} {'share':>7}  {'example':<{example_width}}  meaning"
        for each in problems:
            numbers = f"{each.count:>7} {100 * each.share:>6.1f}%"
            yield f"  {each.check:<{width}} {numbers}  {each.example:<{example_width}}  {each.meaning.replace('`', '')}"
    for check in (Check.ALWAYS_SOLVED, Check.NEVER_SOLVED):
        if count := counts.count(check):
            yield f"{check}: {count} of {counted(counts.tasks, 'task')}, such as {counts.example(check)}"


def _files(paths: OutputPaths, config: HealthCheckConfig) -> tuple[Path, Path]:
    """The files for verdicts and summary."""
    if not config.nemo_gym_names:
        return paths.rollout_verdicts, paths.quality_summary
    folder = paths.output.parent
    return folder / "rollout_verdicts.jsonl", folder / "quality_summary.json"


def _write(verdicts: Path, quality: Path, closed: ClosedReport, summary: Json) -> None:
    """Replace both files."""
    with writable(verdicts), locked(verdicts), replacing(verdicts) as temporary:
        with temporary.open("wb") as file:
            file.writelines(verdict_lines(closed.rows()))
            file.writelines(unreadable_lines(closed.lines, closed.line_mask))
        # Inside the block: an error leaves both files of an earlier command as they are.
        write_json(quality, summary)


if __name__ == "__main__":
    sys.exit(main())
