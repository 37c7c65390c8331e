"""One run from start to finish: restore or create the state, resolve agents, dispatch, finalize, publish."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from ng_rollouts.agents.base import Agent
from ng_rollouts.agents.factory import resolve_agents
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import counted, log, print_result
from ng_rollouts.errors import (
    Interrupted,
    NgRolloutsError,
    OutputError,
    OutputTaken,
    RolloutsFailed,
    StoppedEarly,
    StorageError,
    UploadFailed,
    UsageError,
    WallTimeOver,
)
from ng_rollouts.executors.base import Executor, open_executor
from ng_rollouts.http.client import cancelling_engine, closes_cancelled_requests
from ng_rollouts.inputs.task_parser import Task
from ng_rollouts.integrations.runner import check_integrations
from ng_rollouts.jsonl import dumps
from ng_rollouts.outputs.manifest import Manifest, differences, write_manifest
from ng_rollouts.outputs.materialized_inputs import write_materialized_inputs
from ng_rollouts.redaction import mask_settings
from ng_rollouts.report.live_page import live_page
from ng_rollouts.run.budget import TimeBudget, WallTime
from ng_rollouts.run.dispatch import Dispatcher
from ng_rollouts.run.finalize import Finalizer
from ng_rollouts.run.prepare import PreparedRun, prepare
from ng_rollouts.run.publish import Publisher
from ng_rollouts.run.signals import Received, handle_signals
from ng_rollouts.run.state import RowSubscriber, RunState, new_state, restored_state
from ng_rollouts.run.status_file import remove_stale_status
from ng_rollouts.run.summary import DispatchReport
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.storage.atomic import remove_leftovers
from ng_rollouts.threads import run_in_thread
from ng_rollouts.types import Json, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A Python program that receives rows while they are collected, and stops the run when it has enough.

    Attributes:
        began: set once there is an output that has to be finished; before that, the run can be cancelled.
        summary: receives the content of the summary file when the run ends.
    """

    stop: Stop
    rows: RowSubscriber
    began: asyncio.Event = field(default_factory=asyncio.Event)
    summary: Json = field(default_factory=dict)


def run(config: CollectConfig, command: Sequence[str] = ()) -> int:
    """Collect rollouts, and return the exit code.

    Args:
        command: the command that was typed, for the resume command.

    Raises:
        UsageError: something is wrong that can be known before the first request.
        RolloutsFailed: more rollouts failed than allowed; everything collected is in the output.
        StoppedEarly: continuing was pointless; everything collected is in the output.
        Interrupted: a signal ended the run; everything collected is in the output.
    """
    began = time.monotonic()
    check_integrations(config.export)
    with prepare(config) as prepared, asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(Run(config, prepared, command, began=began).collect())


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is ready to begin.

    Attributes:
        command: the command that was typed; empty for a Python program.
        consumer: the program that receives the rows, if there is one.
        resolve: makes the agents; None to find those of the configuration.
        began: when the command began (`time.monotonic`).
    """

    config: CollectConfig
    prepared: PreparedRun
    command: Sequence[str] = ()
    consumer: Consumer | None = None
    resolve: Callable[[AsyncExitStack], Awaitable[dict[str, Agent]]] | None = None
    began: float = field(default_factory=time.monotonic)

    async def collect(self) -> int:
        """Collect and finalize, and return the exit code.

        Raises:
            RolloutsFailed: more rollouts failed than allowed; everything collected is in the output.
            StoppedEarly: continuing was pointless; everything collected is in the output.
            Interrupted: a signal ended the run; everything collected is in the output.
        """
        try:
            return await self._collect(WallTime.of(self.config.max_wall_s, self.config.wall_margin_s, self.began))
        except WallTimeOver as over:
            if not self.config.stop_ok:
                raise
            log(str(over))
            return 0

    async def _collect(self, wall_time: WallTime) -> int:
        async with AsyncExitStack() as stack:
            # In a thread, so that signals are handled while a large output is read.
            state = await run_in_thread(lambda: restored_state(self.config, self.prepared, stack))
            if self.config.dry_run:
                self._print_plan(state)
            agents: dict[str, Agent] = {}
            # An output in which everything is collected needs no servers: it is only finalized again.
            if state is None or state.has_remaining:
                async with wall_time.preparing():
                    agents = await self._resolve_agents(stack)
            await self._check_upload(state)
            if self.config.dry_run:
                self._print_dry_run(agents, state)
                return 0
            executor: Executor | None = None
            if agents:
                async with wall_time.preparing():
                    opening = open_executor(self.config, agents, self.prepared.plan.agents)
                    executor = await stack.enter_async_context(opening)
            # A new output is created only now, when everything else works: an error before leaves no empty files.
            if self.consumer:
                self.consumer.began.set()
            state = state or new_state(self.config, self.prepared, stack)
            with live_page(self.prepared.paths.output) if self.config.serve else nullcontext():
                try:
                    return await self._collect_into(state, agents, executor, wall_time)
                finally:
                    await self.prepared.trackers.close(wall_time.left_s)

    @property
    def _status_path(self) -> Path:
        return Path(self.config.status_file or self.prepared.paths.status).expanduser()

    async def _collect_into(
        self, state: RunState, agents: dict[str, Agent], executor: Executor | None, wall_time: WallTime
    ) -> int:
        """Collect into a state, then finalize and publish, whether the run succeeds or not; the exit code."""
        stop = self.consumer.stop if self.consumer else Stop(self.config.drain_s)
        state.use_agents(agents)
        finalizer = self._finalizer(state, agents, stop, wall_time)
        with nullcontext(Received()) if self.consumer else handle_signals(stop, state.counters) as received:
            try:
                await self._begin(state)
                if executor:
                    await self._dispatch(state, executor, stop, finalizer.report)
                # A signal that arrives after the last rollout does not keep the output from being finished, nor does
                # the end of the time.
                if state.has_remaining:
                    self._check_not_stopped(finalizer, received)
                await finalizer.finish()
            # After a usage error, nothing was sent and there is nothing to publish. After other expected errors, the
            # rows collected so far are published. Every error is raised again, because it decides the exit code.
            except UsageError as error:
                finalizer.write_summary(error.exit_code)
                raise
            except OutputTaken:
                raise  # the side files of that name belong to another output now
            except NgRolloutsError as error:
                if isinstance(error, (StoppedEarly, Interrupted)):
                    finalizer.leave_unfinished()
                await self._publish_after(error, finalizer, received)
                raise
            except BaseException:
                finalizer.write_summary(NgRolloutsError.exit_code)
                raise
            code = received.exit_code(0)
            if failure := await self._publish(finalizer, code, received):
                raise failure
            return code

    def _check_not_stopped(self, finalizer: Finalizer, received: Received) -> None:
        """Check that a run with remaining rollouts was not stopped.

        Raises:
            Interrupted: a signal or the consumer has stopped it.
            WallTimeOver: the time of the command is over.
        """
        wall, counters = finalizer.report.wall_time, finalizer.state.counters
        if wall.is_over and not received.first:
            over = WallTimeOver(wall.describe_end(counters))
            over.exit_code = 0 if self.config.stop_ok else over.exit_code
            raise over
        if finalizer.stop.requested.is_set():
            raise Interrupted(received.first or signal.SIGINT)

    def _finalizer(self, state: RunState, agents: dict[str, Agent], stop: Stop, wall_time: WallTime) -> Finalizer:
        # Agents can share a load balancer, which is then reported once.
        balancers = {id(balancer): balancer for agent in agents.values() for balancer in agent.load_balancers}
        return Finalizer(
            config=self.config,
            command=self.command,
            prepared=self.prepared,
            state=state,
            agents=agents,
            stop=stop,
            report=DispatchReport(
                load_balancers=list(balancers.values()),
                # The first server of an agent answers. Others, such as a judge's, follow from it.
                policies=list(dict.fromkeys(each for agent in agents.values() for each in agent.load_balancers[:1])),
                time_budget=TimeBudget(self.config.dispatch_budget_s, self.config.drain_margin_s),
                wall_time=wall_time,
            ),
            summary=self.consumer.summary if self.consumer else {},
        )

    async def _begin(self, state: RunState) -> None:
        """Open the output for writing, write manifest and materialized inputs, claim the remote folder."""
        paths, tasks, plan = self.prepared.paths, self.prepared.tasks, self.prepared.plan
        # On a resume, this is the first change to a file: an error before it leaves the output as it was.
        state.journal.open_for_appending()
        remove_leftovers(*paths.all, paths.status)
        remove_stale_status(self._status_path)
        state.failures.settle(lambda _: False)
        try:
            write_manifest(paths.manifest, self.prepared.manifest)
            if self.config.materialized_inputs or paths.materialized_inputs.exists():
                write_materialized_inputs(paths.materialized_inputs, tasks.rollouts(plan))
        except OSError as error:
            raise OutputError(f"{error.filename or paths.manifest} cannot be written: {error.strerror}") from error
        if upload := self.prepared.upload:
            backup = await upload.claim(is_resumed=state.is_resumed, overwrite=self.config.overwrite)
            if backup:
                log(f"{upload.folder.url} has an output: renamed to {backup} there, with its side files")
        _print_announcement(self.config, self.prepared)

    async def _dispatch(self, state: RunState, executor: Executor, stop: Stop, report: DispatchReport) -> None:
        """Collect the remaining rollouts; a consumer first receives the rows of earlier commands."""
        if self.consumer:
            await self._replay(self.consumer, state)
        if not state.has_remaining:
            return
        dispatcher = Dispatcher(
            config=self.config,
            executor=executor,
            state=state,
            stop=stop,
            budget=self.prepared.budget,
            status_path=self._status_path,
            control_path=self.prepared.paths.control_socket,
            planned=lambda positions: self.prepared.tasks.rollouts(self.prepared.plan, positions),
            is_planned=self.prepared.plan.has_task,
            report=report,
            trackers=self.prepared.trackers,
            wait_for_capacity=self.consumer.rows.wait_for_capacity if self.consumer else None,
        )
        with report.wall_time.enforced(stop, state.counters):
            await dispatcher.dispatch(self._remaining(state))

    async def _replay(self, consumer: Consumer, state: RunState) -> None:
        """Pass the rows of earlier commands to the consumer, and subscribe it to new ones."""
        for _, row in state.journal.rows():
            await consumer.rows.wait_for_capacity()
            if consumer.stop.requested.is_set():
                return
            consumer.rows.put(dumps(row))
        # After the replay, so that the consumer receives each row once.
        state.subscribe(consumer.rows)

    async def _publish_after(self, error: NgRolloutsError, finalizer: Finalizer, received: Received) -> None:
        """Publish the files of a run that ended with an error, whose exit code counts."""
        # As for a run without failures, a signal that arrives after the last rollout decides the exit code.
        if isinstance(error, RolloutsFailed):
            error.exit_code = received.exit_code(error.exit_code)
        if failure := await self._publish(finalizer, error.exit_code, received):
            if not error.exit_code:  # with `stop_ok`: the next command would take this one for a success
                raise failure from error
            log(f"warning: {failure}")

    async def _publish(self, finalizer: Finalizer, code: int, received: Received) -> NgRolloutsError | None:
        """Write the summary, and publish the files. Returns the first failure, after all steps were tried."""
        finalizer.write_summary(code)
        trackers, wall_time = self.prepared.trackers, finalizer.report.wall_time
        publisher = Publisher(self.config, self.prepared.paths, finalizer.stop, trackers, wall_time)
        failure: NgRolloutsError | None = None
        try:
            if finalizer.state.finished:
                await publisher.integrate()
                await publisher.compress(finalizer.state.journal)
        except StorageError as error:
            failure = error
        try:
            # After an error before the folder was claimed, it may have files of another run.
            if (upload := self.prepared.upload) and upload.is_claimed:
                collected = finalizer.state.counters.collected
                await publisher.upload(upload, collected, may_be_stopped=not self.consumer)
        except UploadFailed as error:
            failure = failure or error
        # The summary is written first, so that the remote copy includes it, and again if publishing changed the result.
        if failure:
            failure.exit_code = received.exit_code(failure.exit_code)
            finalizer.write_summary(code or failure.exit_code)
        return failure

    async def _resolve_agents(self, stack: AsyncExitStack) -> dict[str, Agent]:
        """Resolve the agents of the plan. Their servers answer, and agents in this process have checked their tasks."""
        if self.resolve:
            agents = await self.resolve(stack)
        else:
            agents = await resolve_agents(self.prepared.plan.agents, self.config, stack)
        if any(not agent.is_remote for agent in agents.values()):
            self.prepared.tasks.check(lambda task: _check_task(task, agents))
        not_twice = [name for name, agent in agents.items() if not agent.may_run_twice]
        if self.config.hedge_after is not None:
            _note_hedging(not_twice, cancelling_engine(self.config.http_engine))
        is_scored = self.resolve or self.config.scoring == "defer"
        if not is_scored and any(not agent.scores for agent in agents.values()):
            log("warning: no verifier scores the answers, so rollouts have no reward: add one, +verifier=exact_match")
        return agents

    async def _check_upload(self, state: RunState | None) -> None:
        if upload := self.prepared.upload:
            await upload.check_reachable()
            if state:
                await upload.check(self._difference_from, state.collected_before)

    def _print_plan(self, state: RunState | None) -> None:
        from ng_rollouts.run.dry_run import format_plan  # noqa: PLC0415 - only dry runs need it

        _print_announcement(self.config, self.prepared)
        print_result(format_plan(self.prepared.plan, state.counters if state else None))

    def _print_dry_run(self, agents: dict[str, Agent], state: RunState | None) -> None:
        from ng_rollouts.run.dry_run import format_agents, format_request  # noqa: PLC0415 - only dry runs need it

        for line in format_agents(self.prepared.plan, agents):
            print_result(line)
        remaining = self._remaining(state) if state else self.prepared.tasks.rollouts(self.prepared.plan)
        if rollout := next(remaining, None):
            for line in format_request(agents[rollout.agent], rollout):
                print_result(line)

    def _difference_from(self, other: Manifest) -> str:
        """Why this run cannot resume the run of another manifest; empty if it can."""
        digest = self.prepared.tasks.plan(other.input_rows).first_digest
        return "; ".join(differences(other, self.prepared.manifest, digest))

    def _remaining(self, state: RunState) -> Iterator[Rollout]:
        """The planned rollouts without the collected ones, and without failures that are not retried."""
        not_retried, elapsed_s = state.prior.not_retried, state.prior.elapsed_s

        def remaining() -> Iterator[Rollout]:
            return (
                each
                for each in self.prepared.dispatched()
                if not state.journal.has(each.position) and each.position not in not_retried
            )

        if not (self.config.dispatch_longest_first and elapsed_s):
            return remaining()
        # Only failed rollouts have a known duration, and these are few.
        timed = sorted((each for each in remaining() if each.key in elapsed_s), key=lambda each: -elapsed_s[each.key])
        return chain(timed, (each for each in remaining() if each.key not in elapsed_s))


def _note_hedging(not_twice: list[str], engine: str) -> None:
    """Say what second attempts do not apply to, and which requests the engine does not end."""
    if not_twice:
        log(f"note: hedge_after does not apply to {', '.join(not_twice)}: two attempts at a time might interfere")
    if not closes_cancelled_requests(engine):
        log(
            "note: hedge_after: pyreqwest does not end the request of an attempt that is cancelled: the server still "
            "answers it. http_engine=httpx ends it (pip install httpx-aiohttp)"
        )


def _check_task(task: Task, agents: Mapping[str, Agent]) -> None:
    for run in task.route.runs:
        agents[run.agent].check(task.row)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop if it is installed; None for asyncio's own loop."""
    try:
        import uvloop  # noqa: PLC0415 - not available on every platform
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def _print_announcement(config: CollectConfig, prepared: PreparedRun) -> None:
    """Print the lines that NeMo Gym prints before it collects, in its words and order."""
    plan = prepared.plan
    if prepared.is_rescoring:
        print_result(f"Found {counted(plan.rollouts, 'rollout')} of {counted(plan.rows, 'task')}!")
        return
    if config.limit:
        print_result(f"Limiting the number of rows to {config.limit}!")
    print_result(f"Found {plan.rows} rows!")
    if plan.rollouts > plan.rows:
        print_result(f"Repeating rows (in a pattern of abc to aabbcc) from {plan.rows} to {plan.rollouts}!")
    if config.interleave_repeats and plan.rollouts > plan.rows:
        print_result("Interleaving repeats (the first rollouts of all tasks, then the second ones)")
    if config.num_samples_in_parallel:
        print_result(f"Querying with {config.num_samples_in_parallel} concurrent requests")
    if params := mask_settings(config.responses_create_params, "responses_create_params"):
        print_result(f"Overriding responses_create_params fields with {params}")
