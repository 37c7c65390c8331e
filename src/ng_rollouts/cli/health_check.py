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
from ng_rollouts.console import print_json, print_result, prints_only_json
from ng_rollouts.errors import ConfigError, GateMissed, InputError, did_you_mean
from ng_rollouts.health.checks import Check
from ng_rollouts.health.closed_report import ClosedReport, close_report
from ng_rollouts.health.report import MAX_INDEX, HealthReport
from ng_rollouts.health.rollout import health_of
from ng_rollouts.health.summary import quality_summary, verdict_lines
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
    fail_on: str = param("", "Checks that end the command with exit code 5, separated by commas.")
    max_share: float = param(0.0, "Share of rollouts with a check of fail_on that is accepted.", minimum=0, maximum=1)
    quiet: bool = param(False, "Print JSON alone to stdout, and errors alone to stderr.")

    def __post_init__(self) -> None:
        check_fields(self)
        if both := set(self.ignored) & set(self.failing):
            raise ConfigError(f"{min(both)} is in both ignored_checks and fail_on: remove it from one")

    @property
    def ignored(self) -> list[Check]:
        """The checks to leave out."""
        return _checks("ignored_checks", self.ignored_checks)

    @property
    def failing(self) -> list[Check]:
        """The checks of the gate."""
        return _checks("fail_on", self.fail_on)


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
    for derived in paths.health_files:
        check_replaceable(derived, "the report")
        check_not_an_output(derived, "the report")
    report = report_of(source, config.ignored)
    if not len(report):
        raise InputError(f"{source} has no rollouts")
    closed = close_report(report)
    summary = quality_summary(report, closed)
    _write(paths, closed, summary)
    for line in (*summary_lines(closed), f"Quality summary: {paths.quality_summary}"):
        print_result(line)
    if prints_only_json():
        print_json(summary)
    _check_gate(config, closed)
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


def summary_lines(closed: ClosedReport) -> Iterator[str]:
    """The counts of verdicts and the table of problems, as lines for the terminal."""
    verdicts = closed.verdicts()
    counts = ", ".join(f"{verdicts[name]} {name}" for name in ("healthy", "unhealthy", "unobserved"))
    yield f"Rollout health: {len(closed)} checked, {counts}"
    if verdicts["unobserved"]:
        yield "  unobserved: nothing was found, but the checks of model calls need ng_trajectory in the rows"
    if problems := closed.problems():
        width = max(len(each.check) for each in problems)
        example_width = max(7, *(len(each.example) for each in problems))
        yield f"  {'check':<{width}} {'count':>7} {'share':>7}  {'example':<{example_width}}  meaning"
        for each in problems:
            numbers = f"{each.count:>7} {100 * each.share:>6.1f}%"
            yield f"  {each.check:<{width}} {numbers}  {each.example:<{example_width}}  {each.meaning.replace('`', '')}"
    for check in (Check.ALWAYS_SOLVED, Check.NEVER_SOLVED):
        if count := closed.counts[check]:
            yield f"{check}: {count} of {closed.tasks} tasks, such as {closed.examples[check]}"


def _write(paths: OutputPaths, closed: ClosedReport, summary: Json) -> None:
    """Replace both files."""
    verdicts = paths.rollout_verdicts
    with writable(verdicts), locked(verdicts), replacing(verdicts) as temporary:
        with temporary.open("wb") as file:
            file.writelines(verdict_lines(closed))
        # Inside the block: an error leaves both files of an earlier command as they are.
        write_json(paths.quality_summary, summary)


def _check_gate(config: HealthCheckConfig, closed: ClosedReport) -> None:
    share = closed.share_with(config.failing)
    if share > config.max_share:
        found = ", ".join(f"{each} ({closed.examples[each]})" for each in config.failing if closed.counts[each])
        raise GateMissed(
            f"{100 * share:.2f} % of the rollouts have a problem of fail_on, more than max_share={config.max_share:g}: "
            f"{found}"
        )


def _checks(parameter: str, text: str) -> list[Check]:
    """The checks in a list. Brackets are optional: Hydra users write lists in them.

    Raises:
        ConfigError: a name is unknown.
    """
    names = [name.strip(" '\"") for name in text.strip("[]").split(",")]
    known = {check.value: check for check in Check}
    for name in filter(None, names):
        if name not in known:
            hint = did_you_mean(name, known, otherwise=" (docs/health.md lists the checks)")
            raise ConfigError(f"{parameter}: {name!r} is not a check{hint}")
    return [known[name] for name in dict.fromkeys(names) if name]


if __name__ == "__main__":
    sys.exit(main())
