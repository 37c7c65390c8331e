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
from ng_rollouts.agents.factory import resolve_agents
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import log, print_result
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
from ng_rollouts.integrations.runner import check_integrations
from ng_rollouts.jsonl import dumps
from ng_rollouts.outputs.manifest import Manifest, differences, write_manifest
from ng_rollouts.outputs.materialized_inputs import write_materialized_inputs
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.run.dispatch import dispatch
from ng_rollouts.run.finalize import Finalizer
from ng_rollouts.run.opening import new_state, restored_state
from ng_rollouts.run.prepare import PreparedRun, prepare
from ng_rollouts.run.publish import Publisher
from ng_rollouts.run.signals import Received, handle_signals
from ng_rollouts.run.state import RunState
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.threads import run_in_thread
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
    check_integrations(config.export)
    with prepare(config) as ready, asyncio.Runner(loop_factory=_fast_loop()) as runner:
        return runner.run(Run(config, ready, command).collect())


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is ready to begin.

    Attributes:
        command: what was typed, if anything was.
        consumer: who takes the rows, beside the output.
    """

    config: CollectConfig
    ready: PreparedRun
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
            state = await run_in_thread(lambda: restored_state(self.config, self.ready, stack))
            agents: dict[str, Agent] = {}
            if self.config.dry_run:
                self._tell_plan(state)
            if state is None or state.has_remaining:
                agents = await resolve_agents(self.plan.agents, self.config, stack, log)
                self._check_tasks(agents)
            if self.ready.upload:
                await self.ready.upload.reach()
                if state:
                    await self.ready.upload.check(self._difference_from, state.collected_before)
            if self.config.dry_run:
                return self._rehearse(agents, state)
            executor = open_executor(self.config, agents, self.plan.agents, log) if agents else nullcontext()
            async with executor as opened:
                if self.consumer:
                    self.consumer.began.set()
                return await self._collect_into(state or new_state(self.config, self.ready, stack), agents, opened)

    async def _collect_into(self, state: RunState, agents: dict[str, Agent], executor: Executor | None) -> int:
        stop = self.consumer.stop if self.consumer else Stop(self.config.drain_s)
        finalizer = Finalizer(
            config=self.config,
            command=self.command,
            plan=self.plan,
            paths=self.paths,
            state=state,
            agents=agents,
            stop=stop,
        )
        with nullcontext(Received()) if self.consumer else handle_signals(stop, state.counters) as received:
            try:
                await self._start(state)
                state.load_balancers = list(
                    {
                        id(load_balancer): load_balancer
                        for agent in agents.values()
                        for load_balancer in agent.load_balancers
                    }.values()
                )
                state.unscored = any(not agent.scores for agent in agents.values())
                if self.consumer:
                    await self._hand_over(self.consumer, state)
                if state.has_remaining and executor:
                    await self._send_out(state, executor, stop)
                if stop.asked.is_set() and state.has_remaining:
                    raise Interrupted(received.first or signal.SIGINT)
                code = await finalizer.finish()
            except UsageError as error:
                finalizer.write_summary(error.exit_code)
                raise
            except NgRolloutsError as error:
                if isinstance(error, (StoppedEarly, Interrupted)):
                    finalizer.leave_unfinished()
                if failure := await self._put_away(finalizer, error.exit_code, received):
                    log(f"warning: {failure}")
                raise
            except BaseException:
                finalizer.write_summary(NgRolloutsError.exit_code)
                raise
            code = 128 + received.first if received.first else code
            if failure := await self._put_away(finalizer, code, received):
                raise failure
            return code

    async def _send_out(self, state: RunState, executor: Executor, stop: Stop) -> None:
        room = self.consumer.room if self.consumer else None
        try:
            await dispatch(self.config, executor, self._remaining(state), state, stop, self.status_path, room)
        finally:
            state.executor_told = list(executor.told())
            for line in state.executor_told:
                log(line)

    async def _hand_over(self, consumer: Consumer, state: RunState) -> None:
        """Have the consumer take what was there before, and from then on what is collected."""
        for _, row in state.journal.rows():
            await consumer.room()
            if consumer.stop.asked.is_set():
                return
            consumer.take(dumps(row))
        state.seen, state.lost = consumer.take, consumer.lose

    async def _put_away(self, finalizer: Finalizer, code: int, received: Received) -> NgRolloutsError | None:
        """Bring what there is to wherever it is to go; why not all of it is there."""
        finalizer.write_summary(code)
        publisher = Publisher(self.config, self.paths, finalizer.stop, log)
        failure: NgRolloutsError | None = None
        if finalizer.state.finished:
            await publisher.run_integrations()
            try:
                for moved in await asyncio.to_thread(finalizer.state.journal.compress):
                    log(f"{moved.with_suffix('')} was another file of that name: moved to {moved}")
            except StorageError as error:
                failure = error
        try:
            if self.ready.upload:
                await publisher.upload(self.ready.upload, may_be_left=not self.consumer)
        except UploadFailed as error:
            failure = failure or error
        if failure:
            failure.exit_code = 128 + received.first if received.first else failure.exit_code
            finalizer.write_summary(code or failure.exit_code)
        return failure

    def _check_tasks(self, agents: dict[str, Agent]) -> None:
        """Have agents in this process look at their tasks, and tell if they will not score them."""
        if any(not agent.is_remote for agent in agents.values()):
            self.tasks.check(lambda task: agents[task.agent].check(task.row))
        if any(not agent.scores for agent in agents.values()):
            log("warning: no verifier scores the answers, so rollouts have no reward: +verifier=exact_match is one")

    def _tell_plan(self, state: RunState | None) -> None:
        from ng_rollouts.run.dry_run import format_plan  # noqa: PLC0415 - only rehearsals need it

        _announce(self.config, self.plan)
        print_result(format_plan(self.plan, state.counters if state else RunCounters(planned=self.plan.rollouts)))

    def _rehearse(self, agents: dict[str, Agent], state: RunState | None) -> int:
        from ng_rollouts.run.dry_run import format_agents, format_request  # noqa: PLC0415 - only rehearsals need it

        for line in format_agents(self.plan, agents):
            print_result(line)
        remaining = self._remaining(state) if state else self.tasks.rollouts(self.plan)
        for rollout in islice(remaining, 1):
            for line in format_request(agents[rollout.agent], rollout):
                print_result(line)
        return 0

    async def _start(self, state: RunState) -> None:
        """Make the files ready for writing, and say what is about to happen."""
        state.journal.open_for_appending()
        state.failures.settle(lambda _: False)
        try:
            write_manifest(self.paths.manifest, self.ready.manifest)
            if self.config.materialized_inputs or self.paths.materialized_inputs.exists():
                write_materialized_inputs(self.paths.materialized_inputs, self.tasks.rollouts(self.plan))
        except OSError as error:
            raise OutputError(f"{error.filename or self.paths.manifest} cannot be written: {error.strerror}") from error
        if self.ready.upload:
            moved = await self.ready.upload.claim(resumed=state.resumed, overwrite=self.config.overwrite)
            if moved:
                log(f"{self.ready.upload.folder.url} had an output: moved to {moved} there, with what belongs to it")
        _announce(self.config, self.plan)

    def _difference_from(self, other: Manifest) -> str:
        """What keeps this run from going on with another."""
        digest = self.tasks.plan(other.input_rows).first_digest
        return "; ".join(differences(other, self.ready.manifest, digest))

    def _remaining(self, state: RunState) -> Iterator[Rollout]:
        left = state.earlier.left
        return (
            rollout
            for rollout in self.tasks.rollouts(self.plan)
            if not state.journal.has(rollout.position) and rollout.position not in left
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
        print_result(f"Limiting the number of rows to {config.limit}!")
    print_result(f"Found {plan.rows} rows!")
    if plan.rollouts > plan.rows:
        print_result(f"Repeating rows (in a pattern of abc to aabbcc) from {plan.rows} to {plan.rollouts}!")
    if config.num_samples_in_parallel:
        print_result(f"Querying with {config.num_samples_in_parallel} concurrent requests")
    if config.responses_create_params:
        print_result(f"Overriding responses_create_params fields with {config.responses_create_params}")
