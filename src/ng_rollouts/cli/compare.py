"""`ng_compare_rollouts`: paired comparison of outputs over the same tasks."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from ng_rollouts.chat import question_of
from ng_rollouts.cli.simple_command import run_command
from ng_rollouts.config.fields import REQUIRED, param
from ng_rollouts.console import counted, log, print_json, print_result
from ng_rollouts.errors import ConfigError, InputError, OutputError
from ng_rollouts.jsonl import digest_of, loads
from ng_rollouts.metrics.aggregate import Coverage
from ng_rollouts.metrics.paired_comparison import Difference, difference_of
from ng_rollouts.outputs.expected_counts import expected_counts
from ng_rollouts.outputs.path_checks import check_other_runs, check_replaceable, writable
from ng_rollouts.outputs.paths import OutputPaths, has_content
from ng_rollouts.outputs.reader import check_readable, groups_of, scan
from ng_rollouts.storage.atomic import back_up, write_json
from ng_rollouts.storage.lock import locked
from ng_rollouts.types import Json

_MAX_FLIPS = 10
"""Flipped tasks that are listed on the terminal; the JSON has all of them."""


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Compare files over the same tasks with the first one: paired differences, interval, p value, wins and flips."""

    rollouts_jsonl_fpaths: str = param(REQUIRED, "Two or more files, separated by commas.")
    score: str = param("reward", "Score to compare.")
    intersection: bool = param(False, "Compare the tasks that all files have, and ignore the others.")
    output_json_fpath: str | None = param(None, "File to write the results to, as JSON.")
    seed: int = param(0, "Seed of the bootstrap.")
    quiet: bool = param(False, "Print JSON alone to stdout, and errors alone to stderr.")

    def __post_init__(self) -> None:
        if len(self.paths) < 2 or len(set(self.paths)) < len(self.paths):
            raise ConfigError("rollouts_jsonl_fpaths must name two or more different files, such as a.jsonl,b.jsonl")

    @property
    def paths(self) -> list[str]:
        """The paths of the files. Brackets are optional: Hydra users write lists in them."""
        return [path.strip() for path in self.rollouts_jsonl_fpaths.strip("[]").split(",") if path.strip()]


@dataclass(frozen=True, slots=True)
class TaskMean:
    """A task's mean score in one file.

    Attributes:
        question: digest of the task's question.
    """

    mean: float
    rollouts: int
    question: str


@dataclass(frozen=True, slots=True)
class FileScores:
    """The score in one file.

    Attributes:
        tasks: the tasks with the score, by task index.
        measured, masked: number of rollouts that the means are over, and of those that are not measurements.
        planned: number of planned rollouts; None if it is not known.
    """

    tasks: dict[int, TaskMean]
    measured: int
    masked: int
    planned: int | None

    @property
    def coverage(self) -> Coverage:
        """How many of the planned rollouts the mean is over."""
        planned = max(self.planned or 0, self.measured + self.masked)
        reasons = {"masked": self.masked, "missing": planned - self.measured - self.masked}
        return Coverage(self.measured, planned, reasons)


def main() -> NoReturn:
    """Run `ng_compare_rollouts`."""
    run_command("ng_compare_rollouts", ComparisonConfig, run, example="+rollouts_jsonl_fpaths=before.jsonl,after.jsonl")


def run(config: ComparisonConfig) -> int:
    """Compare each file with the first one, and return the exit code.

    Raises:
        InputError: a file has no rollouts with the score, or the files are over different tasks.
    """
    for path in config.paths:
        check_readable("rollouts_jsonl_fpaths", Path(path).expanduser())
    target = _target_of(config)
    files = {path: _scores_of(Path(path).expanduser(), config.score) for path in config.paths}
    first, *others = files
    compared: list[Json] = []
    for other in others:
        first_tasks, other_tasks = files[first].tasks, files[other].tasks
        common = _common(first, first_tasks, other, other_tasks, intersection=config.intersection)
        pairs = {index: (first_tasks[index].mean, other_tasks[index].mean) for index in common}
        # The same seed for each pair: a file gives the same result, with or without further files.
        difference = difference_of(pairs, random.Random(config.seed))  # noqa: S311 - a bootstrap
        coverages = {"coverage_first": asdict(files[first].coverage), "coverage_second": asdict(files[other].coverage)}
        compared.append({"first": first, "second": other, "score": config.score, **asdict(difference), **coverages})
        labels = [path + _over(files[path].coverage) for path in (first, other)]
        for line in _summary_lines(labels[0], labels[1], config.score, difference):
            print_result(line)
    print_json(compared)
    if target:
        with writable(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with locked(target):
                if has_content(target) and not _is_comparison(target):
                    log(f"{target} exists: renamed to {back_up(target)}")
                write_json(target, compared)
    return 0


def _over(coverage: Coverage) -> str:
    return f"  over {coverage.text}" if coverage.text else ""


def _target_of(config: ComparisonConfig) -> Path | None:
    """The file for the results, if one is asked for.

    Raises:
        OutputError: it is not a .json file, cannot be replaced, or is a side file of a run.
    """
    if config.output_json_fpath is None:
        return None
    target = Path(config.output_json_fpath).expanduser()
    check_replaceable(target, "output_json_fpath")
    # A swapped parameter must not replace rollouts by the result.
    if target.suffix.lower() != ".json":
        raise OutputError(f"output_json_fpath {target} is not a .json file: choose a name that ends in .json")
    check_other_runs(OutputPaths(target), "output_json_fpath")
    return target


def _is_comparison(path: Path) -> bool:
    """True for the result of an earlier comparison, which may be replaced."""
    try:
        content = loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, list) and all(isinstance(each, dict) and "mean_second" in each for each in content)


def _scores_of(path: Path, score: str) -> FileScores:
    """The score in a file.

    Raises:
        InputError: no rollout has the score.
    """
    tasks: dict[int, TaskMean] = {}
    masked = 0
    scanned = scan(path)
    for group in groups_of(path, scanned=scanned):
        masked += sum(stats.masked is not None for stats in group.stats)
        scores = [stats.scores[score] for stats in group.stats if score in stats.scores]
        # fsum is exact: the same scores give the same mean in any order, so equal tasks are ties.
        if scores:
            question = digest_of(question_of(group.first))
            tasks[group.task_index] = TaskMean(math.fsum(scores) / len(scores), len(scores), question)
    if not tasks:
        without = f" ({counted(masked, 'rollout', 'is', 'are')} masked, without a score)" if masked else ""
        raise InputError(f"{path} has no rollouts with the score {score!r}{without}")
    planned = expected_counts(path, None, scanned).total
    return FileScores(tasks, sum(task.rollouts for task in tasks.values()), masked, planned)


def _common(
    first: str, first_tasks: dict[int, TaskMean], second: str, second_tasks: dict[int, TaskMean], *, intersection: bool
) -> list[int]:
    """The indices of the tasks to compare, sorted.

    Raises:
        InputError: the files are over different tasks.
    """
    # An equal index with another question is another task: the inputs differ, or their order does.
    common = sorted(
        index
        for index in first_tasks.keys() & second_tasks.keys()
        if first_tasks[index].question == second_tasks[index].question
    )
    only_first, only_second = len(first_tasks) - len(common), len(second_tasks) - len(common)
    if not common:
        raise InputError(f"{first} and {second} have no task in common")
    if (only_first or only_second) and not intersection:
        raise InputError(
            f"the tasks differ: {counted(only_first, 'task', 'has', 'have')} scores only in {first}, "
            f"{only_second} only in {second} (a task whose rollouts are all masked has none): "
            f"add +intersection=true to compare the {counted(len(common), 'common task')}"
        )
    return common


def _summary_lines(first: str, second: str, score: str, difference: Difference) -> Iterator[str]:
    """The comparison of two files, as lines for the terminal."""
    interval = difference.interval_95
    interval_text = "" if interval is None else f"  95 % [{interval[0]:+.4f}, {interval[1]:+.4f}]"
    yield f"{score} over {counted(difference.tasks, 'task')}"
    yield f"  {difference.mean_first:.4f}  {first}"
    yield f"  {difference.mean_second:.4f}  {second}"
    counts = f"wins {difference.wins}, losses {difference.losses}, ties {difference.ties}"
    p = "" if difference.p is None else f"  p = {difference.p:.4f}"
    yield f"  {difference.difference:+.4f}{interval_text}{p}  {counts}"
    for direction, tasks in (("to right", difference.flipped_to_right), ("to wrong", difference.flipped_to_wrong)):
        if tasks:
            more = f" and {len(tasks) - _MAX_FLIPS} more" if len(tasks) > _MAX_FLIPS else ""
            yield f"  flipped {direction}: tasks {', '.join(map(str, tasks[:_MAX_FLIPS]))}{more}"


if __name__ == "__main__":
    sys.exit(main())
