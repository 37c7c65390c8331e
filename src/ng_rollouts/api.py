"""The command as a library: rows, or whole groups, while they are collected, with all that the command promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar, Unpack

from ng_rollouts.config.kwargs import Parameters, config_of
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import quietly
from ng_rollouts.errors import NgRolloutsError, RolloutsFailed
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.integrations.runner import check_integrations
from ng_rollouts.jsonl import loads
from ng_rollouts.outputs.reader import row_groups
from ng_rollouts.redaction import redact
from ng_rollouts.run.prepare import prepare
from ng_rollouts.run.run import Consumer, Run
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.threads import run_in_thread
from ng_rollouts.types import Json

T = TypeVar("T")

_WAITING = 256
"""So many rows may wait for their consumer before no more attempts are begun."""


class _RowQueue:
    """Rows on their way to who takes them; the end is None."""

    def __init__(self) -> None:
        self._rows: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, row: bytes | None) -> None:
        self._rows.put_nowait(row)
        if self._rows.qsize() >= _WAITING:
            self._room.clear()

    async def room(self) -> None:
        await self._room.wait()

    def open(self) -> None:
        """Have nobody wait any longer."""
        self._room.set()

    async def take(self) -> bytes | None:
        row = await self._rows.get()
        if self._rows.qsize() < _WAITING:
            self._room.set()
        return row


async def collect(**parameters: Unpack[Parameters]) -> AsyncGenerator[Json, None]:
    """Rows as they complete, each already on disk; with `resume_from_cache`, those that were there come first.

    Args:
        parameters: those of the command, as keywords; nested ones as dicts, config groups by name.

    Yields:
        Rows as they are in the output. When it ends by itself, the output is the finished file; when it is left
        early, it is that of an interrupted run (leave by `contextlib.aclosing`, so that it has ended by then).

    Raises:
        UsageError: something is wrong that can be known before anything is sent.
        StoppedEarly: going on was pointless; what was collected is in the output.
        UploadFailed: what was collected is here, and not where `upload_to` says.
        RolloutsFailed: more failed than `max_failed_rollouts` allows, if that was given.
        GateMissed: the averages are below what was asked for.
    """
    async with _begun(parameters, lambda _: None) as (rows, _), aclosing(rows):
        async for row in rows:
            yield row


async def collect_groups(**parameters: Unpack[Parameters]) -> AsyncGenerator[list[Json], None]:
    """Whole groups as they complete, their rows in order: what group-relative methods want.

    Tasks some of whose rollouts failed for good give no group. See `collect`.
    """
    waiting: dict[int, list[Json]] = {}
    missing: set[int] = set()

    def lose(task_index: int) -> None:
        missing.add(task_index)
        waiting.pop(task_index, None)

    async with _begun(parameters, lose) as (rows, plan), aclosing(rows):
        size = plan.group_size()
        async for row in rows:
            task_index = row["_ng_task_index"]
            if task_index in missing:
                continue
            group = waiting.setdefault(task_index, [])
            group.append(row)
            if len(group) == size(task_index):
                del waiting[task_index]
                yield sorted(group, key=lambda each: each["_ng_rollout_index"])


@asynccontextmanager
async def _begun(
    parameters: Parameters, lose: Callable[[int], None]
) -> AsyncIterator[tuple[AsyncGenerator[Json, None], Plan]]:
    """A run that goes on while the block does: its rows, and its plan. It has ended when the block is left."""
    with _masked():
        config = config_of(parameters)
        queue = _RowQueue()
        consumer = Consumer(stop=Stop(config.drain_s), take=queue.put, lose=lose, room=queue.room)
        with ExitStack() as stack:
            with quietly():  # as what is begun within it stays
                check_integrations(config.export)
                ready = stack.enter_context(await _entered(prepare(config)))
                running = asyncio.create_task(Run(config, ready, consumer=consumer).collect())
            running.add_done_callback(lambda _: queue.put(None))
            try:
                yield _rows(queue, running, config if "max_failed_rollouts" in parameters else None), ready.plan
            finally:
                consumer.stop.asked.set()
                consumer.stop.at_once.set()
                queue.open()
                await _end(running, consumer)


async def _entered(context: AbstractContextManager[T]) -> AbstractContextManager[T]:
    """A context that has been entered, in a thread: inputs may be long, far away, or not there yet."""
    entered = await run_in_thread(context.__enter__)

    @contextmanager
    def leaving() -> Iterator[T]:
        try:
            yield entered
        finally:
            context.__exit__(None, None, None)

    return leaving()


async def _end(running: asyncio.Task[int], consumer: Consumer) -> None:
    """Have a run end, properly if it has begun; whoever cancels that has it end at once."""
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
            running.exception()  # what ended a run that was left early is of no concern to who left it


@contextmanager
def _masked() -> Iterator[None]:
    """Errors without the secrets that addresses may hold."""
    try:
        yield
    except NgRolloutsError as error:
        error.args = tuple(redact(each) if isinstance(each, str) else each for each in error.args)
        raise


async def _rows(
    queue: _RowQueue, running: asyncio.Task[int], strict: CollectConfig | None
) -> AsyncGenerator[Json, None]:
    while (row := await queue.take()) is not None:
        yield loads(row)
    if await running and strict:
        raise RolloutsFailed(f"more rollouts failed than max_failed_rollouts={strict.max_failed_rollouts} allows")


def read_rollouts(path: str | Path) -> Iterator[list[Json]]:
    """The groups of a file of rollouts, one at a time, whatever order it is in.

    Raises:
        InputError: it cannot be read, or a line is no rollout.
    """
    return row_groups(Path(path))
