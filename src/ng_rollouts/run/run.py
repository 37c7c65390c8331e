"""One run: plan, what is there already, agents; then out and to the end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ng_rollouts.agents.base import Agent
from ng_rollouts.agents.factory import find_agents
from ng_rollouts.agents.remote_agent import ServerAgent
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import say, tell
from ng_rollouts.errors import (
    Interrupted,
    NgRolloutsError,
    OutputError,
    StoppedEarly,
    StorageError,
    UploadFailed,
    UsageError,
)
from ng_rollouts.executors.base import Executor, open_executor
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.task_file import TaskFile
from ng_rollouts.integrations.runner import check_exporters
from ng_rollouts.jsonl import dumps
from ng_rollouts.outputs.manifest import Manifest, differences, write_manifest
from ng_rollouts.outputs.materialized_inputs import write_planned_rows
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.run.dispatch import fan_out
from ng_rollouts.run.finalize import Closing
from ng_rollouts.run.opening import earlier_book, new_book
from ng_rollouts.run.prepare import Prepared, prepared
from ng_rollouts.run.publish import HandingOn
from ng_rollouts.run.signals import Received, heeding_signals
from ng_rollouts.run.state import Book
from ng_rollouts.scheduling.counters import Counts
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.threads import in_thread
from ng_rollouts.types import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A program that takes rows while they are collected, and ends the run when it has enough.

    Attributes:
        began: set once there is an output to be ended properly; until then the run can simply be cancelled.
        take: a row that was written, as JSON.
        lose: a task that a rollout failed of for good.
        room: returns once it can take more.
    """

    stop: Stop
    take: Callable[[bytes], None]
    lose: Callable[[int], None]
    room: Callable[[], Awaitable[None]]
    began: asyncio.Event = field(default_factory=asyncio.Event)


def run(config: CollectConfig, command: Sequence[str] = ()) -> int:
    """Collect what the config asks for; the exit code.

    Args:
        command: what was typed, to be shown as the command that goes on with an unfinished run.

    Raises:
        UsageError: something is wrong that can be known before anything is sent.
        StoppedEarly: going on was pointless; what was collected is in the output.
        Interrupted: a signal ended it; likewise.
    """
    check_exporters(config.export)
    with prepared(config) as ready, asyncio.Runner(loop_factory=_fast_loop()) as runner:
        return runner.run(Run(config, ready, command).collect())


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is ready to begin.

    Attributes:
        command: what was typed, if anything was.
        consumer: who takes the rows, beside the output.
    """

    config: CollectConfig
    ready: Prepared
    command: Sequence[str] = ()
    consumer: Consumer | None = None

    @property
    def tasks(self) -> TaskFile:
        return self.ready.tasks

    @property
    def plan(self) -> Plan:
        return self.ready.plan

    @property
    def paths(self) -> OutputPaths:
        return self.ready.paths

    @property
    def status_path(self) -> Path:
        """The file by which others watch the run."""
        return Path(self.config.status_file or self.paths.status).expanduser()

    async def collect(self) -> int:
        """Collect, and finish; the exit code.

        Raises:
            StoppedEarly: going on was pointless; what was collected is in the output.
            Interrupted: a signal ended it; likewise.
        """
        async with AsyncExitStack() as stack:
            book = await in_thread(lambda: earlier_book(self.config, self.ready, stack))
            agents: dict[str, Agent] = {}
            if self.config.dry_run:
                self._tell_plan(book)
            if book is None or book.owes_any:
                agents = await find_agents(self.plan.agents, self.config, stack, tell)
                self._check_tasks(agents)
            if self.ready.upload:
                await self.ready.upload.reach()
                if book:
                    await self.ready.upload.check(self._difference_from, book.collected_before)
            if self.config.dry_run:
                return self._rehearse(agents, book)
            executor = open_executor(self.config, agents, self.plan.agents, tell) if agents else nullcontext()
            async with executor as opened:
                if self.consumer:
                    self.consumer.began.set()
                return await self._collect_into(book or new_book(self.config, self.ready, stack), agents, opened)

    async def _collect_into(self, book: Book, agents: dict[str, Agent], executor: Executor | None) -> int:
        stop = self.consumer.stop if self.consumer else Stop(self.config.drain_s)
        closing = Closing(
            config=self.config,
            command=self.command,
            plan=self.plan,
            paths=self.paths,
            book=book,
            agents=agents,
            stop=stop,
        )
        with nullcontext(Received()) if self.consumer else heeding_signals(stop, book.counts) as received:
            try:
                await self._start(book)
                book.pools = list({id(pool): pool for agent in agents.values() for pool in agent.pools}.values())
                book.unscored = any(not agent.scores for agent in agents.values())
                if self.consumer:
                    await self._hand_over(self.consumer, book)
                if book.owes_any and executor:
                    await self._send_out(book, executor, stop)
                if stop.asked.is_set() and book.owes_any:
                    raise Interrupted(received.first or signal.SIGINT)
                code = await closing.finish()
            except UsageError as error:
                closing.write_summary(error.exit_code)
                raise
            except NgRolloutsError as error:
                if isinstance(error, (StoppedEarly, Interrupted)):
                    closing.leave_unfinished()
                if failure := await self._put_away(closing, error.exit_code, received):
                    tell(f"warning: {failure}")
                raise
            except BaseException:
                closing.write_summary(NgRolloutsError.exit_code)
                raise
            code = 128 + received.first if received.first else code
            if failure := await self._put_away(closing, code, received):
                raise failure
            return code

    async def _send_out(self, book: Book, executor: Executor, stop: Stop) -> None:
        room = self.consumer.room if self.consumer else None
        try:
            await fan_out(self.config, executor, self._owed(book), book, stop, self.status_path, room)
        finally:
            book.executor_told = list(executor.told())
            for line in book.executor_told:
                tell(line)

    async def _hand_over(self, consumer: Consumer, book: Book) -> None:
        """Have the consumer take what was there before, and from then on what is collected."""
        for _, row in book.journal.rows():
            await consumer.room()
            if consumer.stop.asked.is_set():
                return
            consumer.take(dumps(row))
        book.seen, book.lost = consumer.take, consumer.lose

    async def _put_away(self, closing: Closing, code: int, received: Received) -> NgRolloutsError | None:
        """Bring what there is to wherever it is to go; why not all of it is there."""
        closing.write_summary(code)
        handing_on = HandingOn(self.config, self.paths, closing.stop, tell)
        failure: NgRolloutsError | None = None
        if closing.book.finished:
            await handing_on.to_exporters()
            try:
                for moved in await asyncio.to_thread(closing.book.journal.pack):
                    tell(f"{moved.with_suffix('')} was another file of that name: moved to {moved}")
            except StorageError as error:
                failure = error
        try:
            if self.ready.upload:
                await handing_on.upload(self.ready.upload, may_be_left=not self.consumer)
        except UploadFailed as error:
            failure = failure or error
        if failure:
            failure.exit_code = 128 + received.first if received.first else failure.exit_code
            closing.write_summary(code or failure.exit_code)
        return failure

    def _check_tasks(self, agents: dict[str, Agent]) -> None:
        """Have agents in this process look at their tasks, and tell if they will not score them."""
        if any(not isinstance(agent, ServerAgent) for agent in agents.values()):
            self.tasks.check(lambda task: agents[task.agent].check(task.row))
        if any(not agent.scores for agent in agents.values()):
            tell("warning: no verifier scores the answers, so rollouts have no reward: +verifier=exact_match is one")

    def _tell_plan(self, book: Book | None) -> None:
        from ng_rollouts.run.dry_run import plan_told  # noqa: PLC0415 - only rehearsals need it

        _announce(self.config, self.plan)
        say(plan_told(self.plan, book.counts if book else Counts(planned=self.plan.rollouts)))

    def _rehearse(self, agents: dict[str, Agent], book: Book | None) -> int:
        from ng_rollouts.run.dry_run import agents_told, request_told  # noqa: PLC0415 - only rehearsals need it

        for line in agents_told(self.plan, agents):
            say(line)
        owed = self._owed(book) if book else self.tasks.rollouts(self.plan)
        for rollout in islice(owed, 1):
            for line in request_told(agents[rollout.agent], rollout):
                say(line)
        return 0

    async def _start(self, book: Book) -> None:
        """Make the files ready for writing, and say what is about to happen."""
        book.journal.open_for_appending()
        book.failures.settle(lambda _: False)
        try:
            write_manifest(self.paths.manifest, self.ready.manifest)
            if self.config.materialized_inputs or self.paths.materialized_inputs.exists():
                write_planned_rows(self.paths.materialized_inputs, self.tasks.rollouts(self.plan))
        except OSError as error:
            raise OutputError(f"{error.filename or self.paths.manifest} cannot be written: {error.strerror}") from error
        if self.ready.upload:
            moved = await self.ready.upload.claim(goes_on=book.goes_on, overwrite=self.config.overwrite)
            if moved:
                tell(f"{self.ready.upload.folder.url} had an output: moved to {moved} there, with what belongs to it")
        _announce(self.config, self.plan)

    def _difference_from(self, other: Manifest) -> str:
        """What keeps this run from going on with another."""
        digest = self.tasks.plan(other.input_rows).first_digest
        return "; ".join(differences(other, self.ready.manifest, digest))

    def _owed(self, book: Book) -> Iterator[Rollout]:
        left = book.earlier.left
        return (
            rollout
            for rollout in self.tasks.rollouts(self.plan)
            if not book.journal.has(rollout.position) and rollout.position not in left
        )


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed, else asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415 - not everywhere
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def _announce(config: CollectConfig, plan: Plan) -> None:
    """The lines that NeMo Gym prints before it collects, in its words and order."""
    if config.limit:
        say(f"Limiting the number of rows to {config.limit}!")
    say(f"Found {plan.rows} rows!")
    if plan.rollouts > plan.rows:
        say(f"Repeating rows (in a pattern of abc to aabbcc) from {plan.rows} to {plan.rollouts}!")
    if config.num_samples_in_parallel:
        say(f"Querying with {config.num_samples_in_parallel} concurrent requests")
    if config.responses_create_params:
        say(f"Overriding responses_create_params fields with {config.responses_create_params}")
