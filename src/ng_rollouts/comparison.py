"""`ng_compare_rollouts`: outputs over the same tasks, held against each other task by task."""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ng_rollouts.chat import chat_input
from ng_rollouts.console import say
from ng_rollouts.errors import ConfigError, InputError
from ng_rollouts.estimates import t_quantile
from ng_rollouts.jsonlines import dumps
from ng_rollouts.outputs import write_json
from ng_rollouts.records import Json
from ng_rollouts.rollout_files import groups_of
from ng_rollouts.small_commands import main_of

_DRAWS = 2000
_FLIPS_TOLD = 10
_HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Outputs over the same tasks, each held against the first: paired differences, interval, p, wins and flips."""

    rollouts_jsonl_fpaths: str = field(metadata={"help": "Two files or more, with commas between. Required."})
    score: str = field(default="reward", metadata={"help": "The score to compare."})
    intersection: bool = field(
        default=False, metadata={"help": "Compare the tasks that all have, whatever else they have."}
    )
    output_json_fpath: str | None = field(default=None, metadata={"help": "Where the figures go as JSON, too."})
    seed: int = field(default=0, metadata={"help": "Of the bootstrap."})

    def __post_init__(self) -> None:
        if len(self.paths) < 2 or len(set(self.paths)) < len(self.paths):
            raise ConfigError("rollouts_jsonl_fpaths needs two different files or more: a.jsonl,b.jsonl")

    @property
    def paths(self) -> list[str]:
        """The files."""
        return [path.strip() for path in self.rollouts_jsonl_fpaths.strip("[]").split(",") if path.strip()]


@dataclass(frozen=True, slots=True)
class Task:
    """A task's mean score in one file.

    Attributes:
        asked: digest of what it asks.
    """

    mean: float
    rollouts: int
    asked: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The second file less the first, over their common tasks.

    Attributes:
        interval_95: of the mean difference, by t over tasks; None for a single task.
        p: two-sided, by a paired bootstrap of tasks; None for a single task.
        flipped_to_right, flipped_to_wrong: tasks whose mean crosses one half.
    """

    tasks: int
    mean_first: float
    mean_second: float
    difference: float
    interval_95: list[float] | None
    p: float | None
    wins: int
    losses: int
    ties: int
    flipped_to_right: list[int]
    flipped_to_wrong: list[int]


def main() -> NoReturn:
    """`ng_compare_rollouts`."""
    main_of("ng_compare_rollouts", ComparisonConfig, run)


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
            say(line)
    say(json.dumps(compared, indent=4))
    if config.output_json_fpath:
        write_json(Path(config.output_json_fpath).expanduser(), compared)
    return 0


def difference_of(pairs: dict[int, tuple[float, float]], rng: random.Random) -> Difference:
    """What the paired scores of tasks come to; `pairs` by task index, at least one."""
    differences = [second - first for first, second in pairs.values()]
    count, mean = len(differences), math.fsum(differences) / len(differences)
    half = None
    if count > 1:
        variance = math.fsum((each - mean) ** 2 for each in differences) / (count - 1)
        half = t_quantile(count - 1) * math.sqrt(variance / count)
    return Difference(
        tasks=count,
        mean_first=math.fsum(first for first, _ in pairs.values()) / count,
        mean_second=math.fsum(second for _, second in pairs.values()) / count,
        difference=mean,
        interval_95=None if half is None else [mean - half, mean + half],
        p=bootstrap_p(differences, rng),
        wins=sum(each > 0 for each in differences),
        losses=sum(each < 0 for each in differences),
        ties=sum(each == 0 for each in differences),
        flipped_to_right=[index for index, (first, second) in pairs.items() if first < _HALF <= second],
        flipped_to_wrong=[index for index, (first, second) in pairs.items() if second < _HALF <= first],
    )


def bootstrap_p(differences: Sequence[float], rng: random.Random) -> float | None:
    """How often means at least as far from zero come of differences whose mean is made zero.

    Never less than what flipping the signs of so few could show, 2 / 2**tasks: a bootstrap of two tasks would have
    any difference certain. None for one task.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 16.4.
    """
    count = len(differences)
    mean = math.fsum(differences) / count
    if count < 2:
        return None
    if not any(differences):
        return 1.0
    centred = [each - mean for each in differences]
    extreme = sum(abs(math.fsum(rng.choices(centred, k=count)) / count) >= abs(mean) - 1e-12 for _ in range(_DRAWS))
    return max((extreme + 1) / (_DRAWS + 1), 2.0 ** (1 - count))


def _tasks_of(path: Path, score: str) -> dict[int, Task]:
    tasks = {}
    for group in groups_of(path):
        scores = [facts.scores[score] for facts in group.facts if score in facts.scores]
        if scores:
            asked = hashlib.blake2b(dumps(_asked(group.first)), digest_size=8).hexdigest()
            tasks[group.task_index] = Task(math.fsum(scores) / len(scores), len(scores), asked)
    if not tasks:
        raise InputError(f"{path} has no rollouts with the score {score!r}")
    return tasks


def _asked(row: Json) -> Any:
    params = row.get("responses_create_params")
    return chat_input(params if isinstance(params, dict) else {})


def _common(
    first: str, of_first: dict[int, Task], second: str, of_second: dict[int, Task], *, intersection: bool
) -> list[int]:
    """The tasks to compare.

    Raises:
        InputError: the files are over different tasks.
    """
    common = sorted(
        index for index in of_first.keys() & of_second.keys() if of_first[index].asked == of_second[index].asked
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
