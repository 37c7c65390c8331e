"""The rollouts of a run in the order in which they are sent, by estimates from the input or from earlier rollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import counted, log
from ng_rollouts.errors import ConfigError, InputError
from ng_rollouts.inputs.dispatch_order import LongestFirst, TaskMeans, field_estimate
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.task_file import TaskFile
from ng_rollouts.jsonl import loads
from ng_rollouts.metrics.result_rows import stats_of
from ng_rollouts.storage.compression import open_decompressed
from ng_rollouts.types import Json, Rollout

Rollouts = Callable[[], Iterator[Rollout]]
"""Reads the rollouts of a run from the beginning."""


def dispatch_order(config: CollectConfig, tasks: TaskFile, plan: Plan) -> Rollouts:
    """A function that yields all planned rollouts in the order of `dispatch` and `interleave_repeats`.

    Raises:
        InputError: the file of estimates cannot be read.
        ConfigError: it has no rollouts, or no task has the field.
    """
    if config.dispatch == "longest_first":
        order = _longest_first(config, tasks, plan)
        repeats = range(plan.most_repeats) if config.interleave_repeats else (None,)
        return lambda: (each for only in repeats for each in tasks.ordered_rollouts(plan, order, only))
    return lambda: tasks.interleaved_rollouts(plan) if config.interleave_repeats else tasks.rollouts(plan)


def _longest_first(config: CollectConfig, tasks: TaskFile, plan: Plan) -> LongestFirst:
    estimate = _from_field(config.dispatch_field) if config.dispatch_field else _from_rollouts(config, plan)
    order = tasks.longest_first(plan, estimate)
    if order.unknown:
        source = f"dispatch_field={config.dispatch_field}" if config.dispatch_field else "dispatch_from"
        # A shard may have none of the tasks with a number.
        if config.dispatch_field and order.unknown == plan.rows and tasks.shard is None:
            raise ConfigError(f"no task has a number in {source}: name another field of the rows")
        tasks_have = counted(plan.rows, "task", "has", "have")
        log(f"note: {order.unknown} of {tasks_have} no estimate in {source}: such tasks are sent first")
    return order


def _from_field(name: str) -> Callable[[int, bytes], float | None]:
    of_row = field_estimate(name)
    return lambda _, line: of_row(loads(line))


def _from_rollouts(config: CollectConfig, plan: Plan) -> Callable[[int, bytes], float | None]:
    """The mean output tokens of each task in a file of rollouts."""
    means, locate = TaskMeans(), plan.row_locator()
    for task_index, tokens in _output_tokens(Path(str(config.dispatch_from)).expanduser()):
        if tokens is not None and (row := locate(task_index)) is not None:
            means.add(row, tokens)

    def mean(row: int, _: bytes) -> float | None:
        first = locate(plan.row(row)[0])  # rows of one task share its estimate
        return None if first is None else means.mean(first)

    return mean


def _output_tokens(path: Path) -> Iterator[tuple[int, int | None]]:
    """The task index and the output tokens of each rollout, if they are known. Other lines are skipped.

    Raises:
        InputError: the file cannot be read.
        ConfigError: it has other lines alone.
    """
    has_rollouts = has_others = False
    try:
        with open_decompressed(path) as file:
            for line in file:
                try:
                    rollout = _rollout(loads(line))
                except (ValueError, KeyError, TypeError, AttributeError):
                    rollout = None
                if rollout:
                    has_rollouts = True
                    yield rollout
                elif line.endswith(b"\n"):  # without an end, it may be half of a rollout
                    has_others = True
    except OSError as error:
        raise InputError(f"dispatch_from {path} cannot be read: {error.strerror}") from error
    if has_others and not has_rollouts:
        raise ConfigError(f"dispatch_from {path} has no rollouts: name the output of an earlier run")


def _rollout(row: Json) -> tuple[int, int | None] | None:
    """Task index and output tokens of a row; None for one without a response, such as a task."""
    return (int(row["_ng_task_index"]), stats_of(row).tokens.get("output_tokens")) if "response" in row else None
