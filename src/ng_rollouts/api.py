"""The Python API: collect rows or groups while they complete, and read files of rollouts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Generic, Self, TypeVar, Unpack

from ng_rollouts.config.kwargs import Parameters, config_of
from ng_rollouts.config.secrets import remember_proxies, remember_values
from ng_rollouts.console import quietly
from ng_rollouts.errors import ConfigError, NgRolloutsError, RolloutsFailed
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.integrations.runner import check_integrations
from ng_rollouts.jsonl import loads
from ng_rollouts.outputs.reader import row_groups
from ng_rollouts.redaction import redact
from ng_rollouts.run.prepare import prepare
from ng_rollouts.run.run import Consumer, Run
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.threads import run_in_thread
from ng_rollouts.types import Json, is_masked

T = TypeVar("T")

_MAX_QUEUED = 256
"""Rows that may wait for the caller before no more attempts start."""


class _RowQueue:
    """A queue of rows for the caller (a `RowSubscriber`); None marks the end.

    `put` never blocks, because a row that is in the journal must reach the caller. Attempts wait for capacity instead.

    Args:
        drop_task: called for each task of which a rollout failed.
    """

    def __init__(self, drop_task: Callable[[int], None]) -> None:
        self.drop_task = drop_task
        self._rows: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._has_capacity = asyncio.Event()
        self._has_capacity.set()

    def put(self, line: bytes | None) -> None:
        """Add a row, as JSON, or the end."""
        self._rows.put_nowait(line)
        if self._rows.qsize() >= _MAX_QUEUED:
            self._has_capacity.clear()

    async def wait_for_capacity(self) -> None:
        """Wait until the caller has taken enough rows."""
        await self._has_capacity.wait()

    def release(self) -> None:
        """Let everything that waits for capacity continue: no more rows will be taken."""
        self._has_capacity.set()

    async def get(self) -> bytes | None:
        """Remove and return the next row."""
        row = await self._rows.get()
        if self._rows.qsize() < _MAX_QUEUED:
            self._has_capacity.set()
        return row


class RolloutGroup(list[Json]):
    """The rows of a task's rollouts, in order."""

    @property
    def valid(self) -> list[bool]:
        """For each row, whether its result is a measurement; one with a true `mask_sample` is none.

        Take baselines of a group over its valid rows only.
        """
        return [not is_masked(row) for row in self]


class Collection(Generic[T]):
    """Rows or groups of a run while they are collected: iterate over it with `async for`.

    With `async with`, a loop that is left early ends the run: its output can then be resumed.

    Attributes:
        summary: the content of the summary file, such as `failed` and `failed_by_class`; empty until the run has ended.
    """

    def __init__(self, items: Callable[[Json], AsyncGenerator[T, None]]) -> None:
        self.summary: Json = {}
        self._items = items(self.summary)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await anext(self._items)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the run, if it has not ended."""
        await self._items.aclose()


def collect(**parameters: Unpack[Parameters]) -> Collection[Json]:
    """Collect rollouts, and yield each row as it completes.

    With `resume_from_cache`, the rows of earlier runs are yielded first.

    Args:
        parameters: the parameters of the command as keywords: nested ones as dicts, config groups by name.

    Returns:
        An iterator over rows as they are in the output; each is on disk already. After the last one, the output is the
        finished file, and `summary` has the outcome. To stop early, use it in `async with`.

    Raises:
        UsageError: something is wrong that can be known before the first request.
        StoppedEarly: continuing was pointless; everything collected is in the output.
        UploadFailed: not every file could be copied to `upload_to`.
        RolloutsFailed: more rollouts failed than `max_failed_rollouts` allows, if that was given.
        GateMissed: a mean or the coverage is below its minimum.
    """
    return Collection(lambda summary: _rows_of_run(parameters, summary))


def collect_groups(*, min_valid_per_group: int = 0, **parameters: Unpack[Parameters]) -> Collection[RolloutGroup]:
    """Collect rollouts, and yield each complete group with its rows in order, as group-relative methods need them.

    A task of which a rollout failed yields no group. Parameters and exceptions are those of `collect`.

    Args:
        min_valid_per_group: groups with fewer valid rows (`RolloutGroup.valid`) are not yielded. `summary` has their
            number as `groups_not_yielded`.
    """
    _check_min_valid(min_valid_per_group)
    return Collection(lambda summary: _groups_of_run(parameters, summary, min_valid_per_group))


async def _rows_of_run(parameters: Parameters, summary: Json) -> AsyncGenerator[Json, None]:
    async with _running(parameters, lambda _: None, summary) as (rows, _), aclosing(rows):
        async for row in rows:
            yield row


async def _groups_of_run(parameters: Parameters, summary: Json, min_valid: int) -> AsyncGenerator[RolloutGroup, None]:
    incomplete: dict[int, RolloutGroup] = {}
    dropped: set[int] = set()
    not_yielded = 0

    def drop_task(task_index: int) -> None:
        dropped.add(task_index)
        incomplete.pop(task_index, None)

    async with _running(parameters, drop_task, summary) as (rows, plan), aclosing(rows):
        size = plan.group_size()
        async for row in rows:
            task_index = row["_ng_task_index"]
            if task_index in dropped:
                continue
            group = incomplete.setdefault(task_index, RolloutGroup())
            group.append(row)
            if len(group) == size(task_index):
                del incomplete[task_index]
                group.sort(key=lambda each: each["_ng_rollout_index"])
                if sum(group.valid) >= min_valid:
                    yield group
                else:
                    not_yielded += 1
    if min_valid:
        summary["groups_not_yielded"] = not_yielded


def read_rollouts(path: str | Path) -> Iterator[Json]:
    """Read the rows of a file of rollouts, group by group. The file may be in any order.

    Raises:
        InputError: the file cannot be read, or a line is not a rollout.
    """
    for group in read_groups(path):
        yield from group


def read_groups(path: str | Path, *, min_valid_per_group: int = 0) -> Iterator[RolloutGroup]:
    """Read the groups of a file of rollouts. The file may be in any order.

    Args:
        min_valid_per_group: groups with fewer valid rows (`RolloutGroup.valid`) are left out.

    Raises:
        InputError: the file cannot be read, or a line is not a rollout.
    """
    _check_min_valid(min_valid_per_group)
    groups = map(RolloutGroup, row_groups(Path(path)))
    return (group for group in groups if sum(group.valid) >= min_valid_per_group)


def _check_min_valid(value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"min_valid_per_group must be an integer of 0 or more, got {value!r}")


@asynccontextmanager
async def _running(
    parameters: Parameters, drop_task: Callable[[int], None], summary: Json
) -> AsyncIterator[tuple[AsyncGenerator[Json, None], Plan]]:
    """Run in the background, and yield the rows and the plan. The run has ended when the block is left."""
    with _redacted_errors():
        remember_proxies()
        remember_values(parameters)
        config = config_of(parameters)
        queue = _RowQueue(drop_task)
        consumer = Consumer(stop=Stop(config.drain_s), rows=queue, summary=summary)
        with ExitStack() as stack:
            with quietly():  # the task copies the context, so it stays quiet
                check_integrations(config.export)
                prepared = stack.enter_context(await _enter_in_thread(prepare(config)))
                running = asyncio.create_task(Run(config, prepared, consumer=consumer).collect())
            running.add_done_callback(lambda _: queue.put(None))
            try:
                yield _rows(queue, running, strict="max_failed_rollouts" in parameters), prepared.plan
            finally:
                # Without `release`, attempts would wait forever for capacity: no more rows are taken.
                consumer.stop.requested.set()
                consumer.stop.at_once.set()
                queue.release()
                await _end(running, consumer)


async def _enter_in_thread(context: AbstractContextManager[T]) -> AbstractContextManager[T]:
    """Enter a context in a thread, because inputs may be long, remote or not written yet."""
    entered = await run_in_thread(context.__enter__)

    @contextmanager
    def leaving() -> Iterator[T]:
        try:
            yield entered
        finally:
            context.__exit__(None, None, None)

    return leaving()


async def _end(running: asyncio.Task[int], consumer: Consumer) -> None:
    """Wait for a run to end. It is cancelled if it has not begun, or if this task is cancelled."""
    # Before there is an output, nothing has to be finished, and the wait for servers does not see a stop request.
    if not consumer.began.is_set():
        running.cancel()
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        running.cancel()
        await asyncio.wait([running])
        raise
    finally:
        if running.done() and not running.cancelled():
            # The caller has left early. An exception that is not retrieved would be reported by asyncio.
            running.exception()


@contextmanager
def _redacted_errors() -> Iterator[None]:
    """Mask secrets of addresses in the messages of exceptions."""
    try:
        yield
    except NgRolloutsError as error:
        error.args = tuple(redact(each) if isinstance(each, str) else each for each in error.args)
        raise


async def _rows(queue: _RowQueue, running: asyncio.Task[int], *, strict: bool) -> AsyncGenerator[Json, None]:
    """The rows of a run.

    Args:
        strict: whether more failures than allowed raise an exception.
    """
    while (row := await queue.get()) is not None:
        yield loads(row)
    try:
        await running
    except RolloutsFailed:
        if strict:
            raise
