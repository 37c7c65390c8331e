"""`ng_compare_rollouts`: outputs over the same tasks, held against each other task by task."""

from __future__ import annotations

import json
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
from ng_rollouts.console import print_result
from ng_rollouts.errors import ConfigError, InputError
from ng_rollouts.jsonl import digest_of
from ng_rollouts.metrics.paired_comparison import Difference, difference_of
from ng_rollouts.outputs.reader import groups_of
from ng_rollouts.storage.atomic import write_json
from ng_rollouts.types import Json

_FLIPS_TOLD = 10


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Compare files over the same tasks with the first one: paired differences, interval, p value, wins and flips."""

    rollouts_jsonl_fpaths: str = param(REQUIRED, "Two or more files, separated by commas.")
    score: str = param("reward", "Score to compare.")
    intersection: bool = param(False, "Compare the tasks that all files have, and ignore the others.")
    output_json_fpath: str | None = param(None, "File to write the results to, as JSON.")
    seed: int = param(0, "Seed of the bootstrap.")

    def __post_init__(self) -> None:
        if len(self.paths) < 2 or len(set(self.paths)) < len(self.paths):
            raise ConfigError("rollouts_jsonl_fpaths needs two different files or more: a.jsonl,b.jsonl")

    @property
    def paths(self) -> list[str]:
        """The files."""
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


def main() -> NoReturn:
    """`ng_compare_rollouts`."""
    run_command("ng_compare_rollouts", ComparisonConfig, run)


def run(config: ComparisonConfig) -> int:
    """Compare each file with the first; the exit code."""
    files = {path: _tasks_of(Path(path).expanduser(), config.score) for path in config.paths}
    first, *others = files
    compared: list[Json] = []
    for other in others:
        common = _common(first, files[first], other, files[other], intersection=config.intersection)
        pairs = {index: (files[first][index].mean, files[other][index].mean) for index in common}
        difference = difference_of(pairs, random.Random(config.seed))  # noqa: S311 - a bootstrap
        compared.append({"first": first, "second": other, "score": config.score, **asdict(difference)})
        for line in _told(first, other, config.score, difference):
            print_result(line)
    print_result(json.dumps(compared, indent=4))
    if config.output_json_fpath:
        write_json(Path(config.output_json_fpath).expanduser(), compared)
    return 0


def _tasks_of(path: Path, score: str) -> dict[int, TaskMean]:
    tasks = {}
    for group in groups_of(path):
        scores = [stats.scores[score] for stats in group.stats if score in stats.scores]
        if scores:
            question = digest_of(question_of(group.first))
            tasks[group.task_index] = TaskMean(math.fsum(scores) / len(scores), len(scores), question)
    if not tasks:
        raise InputError(f"{path} has no rollouts with the score {score!r}")
    return tasks


def _common(
    first: str, of_first: dict[int, TaskMean], second: str, of_second: dict[int, TaskMean], *, intersection: bool
) -> list[int]:
    """The tasks to compare.

    Raises:
        InputError: the files are over different tasks.
    """
    common = sorted(
        index for index in of_first.keys() & of_second.keys() if of_first[index].question == of_second[index].question
    )
    only_first, only_second = len(of_first) - len(common), len(of_second) - len(common)
    if not common:
        raise InputError(f"{first} and {second} have no task in common")
    if (only_first or only_second) and not intersection:
        told = f"{only_first} of {first} are not in {second}, {only_second} the other way round"
        raise InputError(f"the tasks differ: {told}: add +intersection=true to compare the {len(common)} in common")
    return common


def _told(first: str, second: str, score: str, found: Difference) -> Iterator[str]:
    interval = found.interval_95
    shown = "" if interval is None else f"  95 % [{interval[0]:+.4f}, {interval[1]:+.4f}]"
    yield f"{score} over {found.tasks} tasks"
    yield f"  {found.mean_first:.4f}  {first}"
    yield f"  {found.mean_second:.4f}  {second}"
    counted = f"wins {found.wins}, losses {found.losses}, ties {found.ties}"
    p = "" if found.p is None else f"  p = {found.p:.4f}"
    yield f"  {found.difference:+.4f}{shown}{p}  {counted}"
    for what, tasks in (("to right", found.flipped_to_right), ("to wrong", found.flipped_to_wrong)):
        if tasks:
            more = f" and {len(tasks) - _FLIPS_TOLD} more" if len(tasks) > _FLIPS_TOLD else ""
            yield f"  flipped {what}: tasks {', '.join(map(str, tasks[:_FLIPS_TOLD]))}{more}"


if __name__ == "__main__":
    sys.exit(main())
