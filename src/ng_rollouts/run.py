"""One run: plan, what is there already, agents; then out and to the end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ng_rollouts.agents import Agent
from ng_rollouts.agents.discovery import find_agents
from ng_rollouts.agents.server import ServerAgent
from ng_rollouts.book import Book
from ng_rollouts.closing import Closing
from ng_rollouts.collector import Stop
from ng_rollouts.config import CollectConfig
from ng_rollouts.console import say, tell
from ng_rollouts.counts import Counts
from ng_rollouts.errors import ConfigError, Interrupted, NgRolloutsError, OutputError, StoppedEarly
from ng_rollouts.executors import Executor, open_executor
from ng_rollouts.exporters import check_exporters, export
from ng_rollouts.failures import FailuresFile
from ng_rollouts.fan_out import fan_out
from ng_rollouts.journal import Journal, open_journal, reopen_journal
from ng_rollouts.jsonlines import dumps
from ng_rollouts.manifest import read_manifest, write_manifest
from ng_rollouts.metrics import Scores
from ng_rollouts.outputs import OutputPaths, check_output, output_paths
from ng_rollouts.plans import Plan
from ng_rollouts.prompts import load_template
from ng_rollouts.recipes import Recipe
from ng_rollouts.records import Rollout
from ng_rollouts.resume import check_same_run, earlier_failures, manifest_of, read_back
from ng_rollouts.retries import Breaker
from ng_rollouts.sampling import warnings
from ng_rollouts.shards import shard_of
from ng_rollouts.signals import Received, heeding_signals
from ng_rollouts.sources import readable_twice
from ng_rollouts.tally import Tally
from ng_rollouts.tasks import TaskFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A program that takes rows while they are collected, and ends the run when it has enough.

    Attributes:
        take: a row that was written, as JSON.
        lose: a task that a rollout failed of for good.
        room: returns once it can take more.
    """

    stop: Stop
    take: Callable[[bytes], None]
    lose: Callable[[int], None]
    room: Callable[[], Awaitable[None]]


def run(config: CollectConfig, command: Sequence[str] = ()) -> int:
    """Collect what the config asks for; the exit code.

    Args:
        command: what was typed, to be shown as the command that goes on with an unfinished run.

    Raises:
        UsageError: something is wrong that can be known before anything is sent.
        StoppedEarly: going on was pointless; what was collected is in the output.
        Interrupted: a signal ended it; likewise.
    """
    with prepared(config, command) as prepared_run, asyncio.Runner(loop_factory=_fast_loop()) as runner:
        return runner.run(prepared_run.collect())


@contextmanager
def prepared(config: CollectConfig, command: Sequence[str] = (), consumer: Consumer | None = None) -> Iterator[Run]:
    """A run that has been checked, ready to begin.

    Raises:
        UsageError: something is wrong that can be known before anything is sent.
    """
    shard = shard_of(config, os.environ)
    paths = output_paths(shard.named(config.output_jsonl_fpath) if shard else config.output_jsonl_fpath)
    check_exporters(config.export)
    with readable_twice(config.input_jsonl_fpath) as source:
        check_output(paths, source)
        _check_status_file(config, paths, source)
        known = read_manifest(paths.manifest) if config.resume_from_cache else None
        tasks = TaskFile(
            path=source,
            recipe=_recipe(config),
            limit=config.limit,
            shown_as=config.input_jsonl_fpath,
            shard=shard,
        )
        plan = tasks.plan(known.input_rows if known else None)
        manifest = manifest_of(config, tasks, plan)
        if known:
            check_same_run(paths, known, manifest, plan)
        if shard:
            tell(f"shard {shard.index} of {shard.count}: {plan.rows} of {plan.input_rows} rows, into {paths.output}")
        for warning in warnings(config, plan):
            tell(f"warning: {warning}")
        yield Run(config, command, tasks, plan, paths, consumer)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has been checked.

    Attributes:
        command: what was typed, if anything was.
        consumer: who takes the rows, beside the output.
    """

    config: CollectConfig
    command: Sequence[str]
    tasks: TaskFile
    plan: Plan
    paths: OutputPaths
    consumer: Consumer | None = None

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
            book = self._book_of_earlier(stack)
            agents: dict[str, Agent] = {}
            if self.config.dry_run:
                self._tell_plan(book)
            if book is None or book.owes_any:
                agents = await find_agents(self.plan.agents, self.config, stack, tell)
                self._check_tasks(agents)
            if self.config.dry_run:
                return self._rehearse(agents, book)
            executor = open_executor(self.config, agents, self.plan.agents, tell) if agents else nullcontext()
            async with executor as opened:
                return await self._collect_into(book or self._new_book(stack), agents, opened)

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
        code = NgRolloutsError.exit_code
        with nullcontext(Received()) if self.consumer else heeding_signals(stop, book.counts) as received:
            try:
                self._start(book)
                book.pools = list({id(pool): pool for agent in agents.values() for pool in agent.pools}.values())
                book.unscored = any(not agent.scores for agent in agents.values())
                if self.consumer:
                    await self._hand_over(self.consumer, book)
                if book.owes_any and executor:
                    room = self.consumer.room if self.consumer else None
                    try:
                        await fan_out(self.config, executor, self._owed(book), book, stop, self.status_path, room)
                    finally:
                        book.executor_told = list(executor.told())
                        for line in book.executor_told:
                            tell(line)
                if stop.asked.is_set() and book.owes_any:
                    raise Interrupted(received.first or signal.SIGINT)
                code = await closing.finish()
                code = 128 + received.first if received.first else code
            except NgRolloutsError as error:
                code = error.exit_code
                if isinstance(error, (StoppedEarly, Interrupted)):
                    closing.leave_unfinished()
                raise
            finally:
                closing.write_summary(code)
                await self._hand_on(book, stop)
            return code

    async def _hand_over(self, consumer: Consumer, book: Book) -> None:
        """Have the consumer take what was there before, and from then on what is collected."""
        for _, row in book.journal.rows():
            await consumer.room()
            if consumer.stop.asked.is_set():
                return
            consumer.take(dumps(row))
        book.seen, book.lost = consumer.take, consumer.lose

    async def _hand_on(self, book: Book, stop: Stop) -> None:
        wanted = [*self.config.export, *(["report"] if self.config.report else [])]
        if not book.finished or not wanted:
            return
        handing_on = export(wanted, self.paths.output, self.config.export_project, tell)
        if not await stop.unless_asked(handing_on):
            tell(f"note: left before all was handed on: {', '.join(wanted)}")

    def _check_tasks(self, agents: dict[str, Agent]) -> None:
        """Have agents in this process look at their tasks, and tell if they will not score them."""
        if any(not isinstance(agent, ServerAgent) for agent in agents.values()):
            self.tasks.check(lambda task: agents[task.agent].check(task.row))
        if any(not agent.scores for agent in agents.values()):
            tell("warning: no verifier scores the answers, so rollouts have no reward: +verifier=exact_match is one")

    def _tell_plan(self, book: Book | None) -> None:
        from ng_rollouts.rehearsal import plan_told  # noqa: PLC0415 - only rehearsals need it

        _announce(self.config, self.plan)
        say(plan_told(self.plan, book.counts if book else Counts(planned=self.plan.rollouts)))

    def _rehearse(self, agents: dict[str, Agent], book: Book | None) -> int:
        from ng_rollouts.rehearsal import agents_told, request_told  # noqa: PLC0415 - only rehearsals need it

        for line in agents_told(self.plan, agents):
            say(line)
        owed = self._owed(book) if book else self.tasks.rollouts(self.plan)
        for rollout in islice(owed, 1):
            for line in request_told(agents[rollout.agent], rollout):
                say(line)
        return 0

    def _book_of_earlier(self, stack: AsyncExitStack) -> Book | None:
        """What is there to go on with, if it is asked for; nothing is changed yet."""
        if not self.config.resume_from_cache or not any(path.exists() for path in self.paths.all):
            return None
        book = self._book(stack.enter_context(reopen_journal(self.paths, self.plan.rollouts)))
        read_back(book.journal, self.plan, book.take_over, read_manifest(self.paths.manifest), self.tasks)
        retry = self.config.retry_failed
        book.earlier = earlier_failures(book.failures, self.plan, book.journal, retry=retry)
        book.counts.collected = book.collected_before = book.journal.count
        book.counts.failed = len(book.earlier.left)
        book.terminal = book.earlier.terminal
        if book.counts.collected:
            for breaker in book.breakers.values():
                breaker.success()
        told = f"going on with {self.paths.output}: {book.counts.collected} of {self.plan.rollouts} rollouts are there"
        if book.earlier.attempts:
            told += f", {len(book.earlier.attempts)} that failed are tried again"
        if book.earlier.left:
            told += f", {len(book.earlier.left)} that failed are left"
        tell(told)
        if book.journal.unreadable:
            tell(f"warning: {book.journal.unreadable} lines of {self.paths.output} cannot be read and are left out")
        return book

    def _new_book(self, stack: AsyncExitStack) -> Book:
        journal = stack.enter_context(open_journal(self.paths, self.plan.rollouts, overwrite=self.config.overwrite))
        if journal.moved:
            tell(f"{self.paths.output} was there: moved to {journal.moved}, with what belongs to it")
        return self._book(journal)

    def _book(self, journal: Journal) -> Book:
        counts = Counts(planned=self.plan.rollouts)
        breakers = {agent: Breaker(agent, self.plan.rollouts) for agent in self.plan.agents}
        keep_incomplete = self.config.incomplete_groups == "keep"
        return Book(
            journal=journal,
            failures=FailuresFile(self.paths.failures),
            scores=Scores(self.plan.rollouts),
            tally=Tally(self.plan.group_size(), keep_incomplete=keep_incomplete),
            counts=counts,
            breakers=breakers,
            answer_key=self.config.answer_key,
        )

    def _start(self, book: Book) -> None:
        """Make the files ready for writing, and say what is about to happen."""
        book.journal.open_for_appending()
        book.failures.settle(lambda _: False)
        try:
            write_manifest(self.paths.manifest, manifest_of(self.config, self.tasks, self.plan))
        except OSError as error:
            raise OutputError(f"{self.paths.manifest} cannot be written: {error.strerror}") from error
        _announce(self.config, self.plan)

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


def _recipe(config: CollectConfig) -> Recipe:
    return Recipe(
        overrides=config.responses_create_params,
        agent_name=config.agent_name,
        serves_all=config.agent_url is not None or config.policy_base_url is not None,
        repeats=config.num_repeats,
        add_seed=config.num_repeats_add_seed,
        template=load_template(config.prompt_config) if config.prompt_config else None,
    )


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


def _check_status_file(config: CollectConfig, paths: OutputPaths, source: Path) -> None:
    """The status file is replaced all the time, and removed: it had better be nothing else.

    Raises:
        ConfigError: it is the input, the output or a file that belongs to it, or cannot be written.
    """
    if config.status_file is None:
        return
    wanted = Path(config.status_file).expanduser()
    if wanted.resolve() in {path.resolve() for path in (source, *paths.all, paths.materialized_inputs)}:
        raise ConfigError(f"status_file {config.status_file} is a file of the run itself: name another")
    if wanted.is_dir() or not wanted.parent.is_dir() or not os.access(wanted.parent, os.W_OK):
        raise ConfigError(f"status_file {config.status_file} cannot be written: name a file in a folder that is there")
