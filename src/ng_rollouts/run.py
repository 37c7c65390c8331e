"""One run: plan, find agents, collect, finish, sum up."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile
from pathlib import Path

from ng_rollouts.agents import Agent
from ng_rollouts.agents.discovery import find_agents
from ng_rollouts.agents.server import ServerAgent
from ng_rollouts.book import Book
from ng_rollouts.capacity import in_flight_possible
from ng_rollouts.collect import Outlet, Stop, collect
from ng_rollouts.config import CollectConfig
from ng_rollouts.console import say, tell
from ng_rollouts.costs import Costs
from ng_rollouts.errors import (
    AttemptFailed,
    ConfigError,
    GateMissed,
    Interrupted,
    OutputError,
    StoppedEarly,
    StorageError,
)
from ng_rollouts.failures import FailuresFile
from ng_rollouts.figures import aggregate_metrics, check_gates, histogram_told, run_summary
from ng_rollouts.http import crawls_beyond
from ng_rollouts.journal import Finished, Journal, open_journal, reopen_journal
from ng_rollouts.load import watching_load
from ng_rollouts.manifest import read_manifest, write_manifest
from ng_rollouts.metrics import Scores
from ng_rollouts.outputs import OutputPaths, check_output, output_paths, write_json
from ng_rollouts.parallelism import AdaptiveLimit, FixedLimit, Limit
from ng_rollouts.plans import Plan
from ng_rollouts.progress import progress
from ng_rollouts.prompts import load_template
from ng_rollouts.recipes import Recipe
from ng_rollouts.records import Counts, Json, Result, Rollout
from ng_rollouts.resume import check_same_run, earlier_failures, manifest_of, read_back
from ng_rollouts.retries import Breaker, RetryPolicy
from ng_rollouts.rows import result_of
from ng_rollouts.sampling import warnings
from ng_rollouts.signals import heeding_signals
from ng_rollouts.status import status
from ng_rollouts.summary import servers_told, summary
from ng_rollouts.tally import Tally
from ng_rollouts.tasks import TaskFile, readable_twice

_SYNC_EVERY_S = 1.0


def run(config: CollectConfig, command: Sequence[str] = ()) -> int:
    """Collect what the config asks for; the exit code.

    Args:
        command: what was typed, to be shown as the command that goes on with an unfinished run.

    Raises:
        UsageError: something is wrong that can be known before anything is sent.
        StoppedEarly: going on was pointless; what was collected is in the output.
        Interrupted: a signal ended it; likewise.
    """
    paths = output_paths(config.output_jsonl_fpath)
    with readable_twice(config.input_jsonl_fpath) as source:
        check_output(paths, source)
        _check_status_file(config, paths, source)
        known = read_manifest(paths.manifest) if config.resume_from_cache else None
        tasks = TaskFile(path=source, recipe=_recipe(config), limit=config.limit, shown_as=config.input_jsonl_fpath)
        plan = tasks.plan(known.rows if known else None)
        manifest = manifest_of(config, tasks, plan)
        if known:
            check_same_run(paths, known, manifest, plan)
        for warning in warnings(config, plan):
            tell(f"warning: {warning}")
        with asyncio.Runner(loop_factory=_fast_loop()) as runner:
            return runner.run(_Run(config, command, tasks, plan, paths).collect())


@dataclass(frozen=True, slots=True)
class _Run:
    config: CollectConfig
    command: Sequence[str]
    tasks: TaskFile
    plan: Plan
    paths: OutputPaths

    @property
    def costs(self) -> Costs:
        """Prices and budget."""
        return Costs(self.config.price_per_million, self.config.max_total_tokens)

    @property
    def status_path(self) -> Path:
        """The file by which others watch the run."""
        return Path(self.config.status_file or self.paths.status).expanduser()

    async def collect(self) -> int:
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
            book = book or self._new_book(stack)
            stop = Stop(self.config.drain_s)
            with heeding_signals(stop, book.counts) as received:
                code = 4
                try:
                    self._start(book)
                    if book.owes_any:
                        await self._fan_out(agents, book, stop)
                    if received.first and book.owes_any:
                        raise Interrupted(received.first)
                    code = await self._finish(book)
                    code = 128 + received.first if received.first else code
                except (StoppedEarly, Interrupted, GateMissed) as error:
                    code = error.exit_code
                    if not isinstance(error, GateMissed):
                        self._leave_unfinished(book)
                    raise
                finally:
                    self._write_summary(book, code)
                return code

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
        book.counts.collected, book.counts.failed = book.journal.count, len(book.earlier.left)
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

    async def _fan_out(self, agents: dict[str, Agent], book: Book, stop: Stop) -> None:
        training_view = self.config.training_view

        async def call(rollout: Rollout, attempts: int) -> Result:
            attempts += book.earlier.attempts.get(rollout.key, 0)
            agent = agents[rollout.agent]
            request = rollout.request(attempts)
            reply = await (agent.run(request) if isinstance(agent, ServerAgent) else self._answer(agent, request))
            return result_of(
                rollout, reply, training_view=training_view, scored=agent.scores, answer_key=self.config.answer_key
            )

        book.pools = list({id(pool): pool for agent in agents.values() for pool in agent.pools}.values())
        book.unscored = any(not agent.scores for agent in agents.values())
        collected_before = book.counts.collected
        limit = _limit(self.config, _parallel(self.config, self.plan))
        began = time.monotonic()

        def notes() -> Iterator[str]:
            if book.counts.reward.count:
                yield f"reward={book.counts.reward.mean:.3f}±{book.counts.reward.half_width:.3f}"
            if book.counts.output_tokens:
                yield f"tokens={book.counts.output_tokens / (time.monotonic() - began):.0f}/s"
            if isinstance(limit, AdaptiveLimit):
                yield f"parallel={limit.now}"
            for pool in book.pools:
                yield from (f"resting={address}" for address in pool.resting())
            yield from self.costs.notes(book.counts, collected_before)

        async def fan_out(rollouts: Iterator[Rollout]) -> None:
            await collect(
                rollouts,
                call,
                Outlet(keep=book.keep, give_up=book.give_up),
                limit=limit,
                policy=_policy(self.config),
                counts=book.counts,
                stop=stop,
            )

        syncing = asyncio.create_task(_sync_often(book.journal))
        try:
            async with (
                progress(book.counts, notes),
                status(self.status_path, book.counts),
                watching_load() as book.load,
            ):
                owed = self._owed(book)
                if self.config.canary:
                    await self._send_canary(fan_out, owed, book)
                if not stop.asked.is_set():
                    await fan_out(takewhile(lambda _: not self.costs.budget_is_spent(book.counts), owed))
        finally:
            syncing.cancel()
            book.journal.sync()

    async def _answer(self, agent: Agent, request: Json) -> Json:
        """The reply of an agent in this process, which is given no more time than a request to a server is."""
        try:
            async with asyncio.timeout(self.config.rollout_timeout_s):
                return await agent.run(request)
        except TimeoutError as error:
            message = f"no answer within {self.config.rollout_timeout_s:g} s"
            raise AttemptFailed("timeout", message, retryable=True) from error

    async def _send_canary(
        self, fan_out: Callable[[Iterator[Rollout]], Awaitable[None]], owed: Iterator[Rollout], book: Book
    ) -> None:
        """Send the first rollouts alone.

        Raises:
            StoppedEarly: one of them failed.
        """
        failed_before = book.counts.failed
        await fan_out(islice(owed, self.config.canary))
        if book.counts.failed > failed_before:
            last = book.last_failure
            told = f": {last.failure_class}: {last.message}" if last else ""
            raise StoppedEarly(f"the canary failed, so the rest was not sent{told}")

    def _owed(self, book: Book) -> Iterator[Rollout]:
        left = book.earlier.left
        return (
            rollout
            for rollout in self.tasks.rollouts(self.plan)
            if not book.journal.has(rollout.position) and rollout.position not in left
        )

    def _leave_unfinished(self, book: Book) -> None:
        with suppress(StorageError):
            self._settle_failures(book)
        self._tell_summary(book, None)

    def _settle_failures(self, book: Book) -> None:
        """Take what is collected out of the failures file."""
        locate = self.plan.locator()
        book.failures.settle(lambda key: (position := locate(key)) is not None and book.journal.has(position))

    async def _finish(self, book: Book) -> int:
        journal = book.journal
        finished = await asyncio.to_thread(journal.finish, self._kept(journal))
        book.finished = finished
        book.tally.end()
        self._settle_failures(book)
        self._tell_summary(book, finished)
        averages = self._averages(book)
        if not self.config.disable_aggregation:
            self._write_aggregates(book)
        say(json.dumps(averages, indent=4))
        if self.config.metrics_by == "agent":
            for agent, means in self._averages_by_agent(book):
                say(json.dumps({"agent_ref": {"name": agent}, **means}, indent=4))
        check_gates(self.config, averages, finished.kept / self.plan.rollouts)
        unexplained = book.owes_any and not self.costs.budget_is_spent(book.counts)
        return 1 if unexplained or book.counts.failed > _failures_allowed(self.config, self.plan) else 0

    def _positions_there(self, journal: Journal) -> Iterator[int]:
        return (position for position in range(self.plan.rollouts) if journal.has(position))

    def _averages(self, book: Book) -> Json:
        """Means over the finished rows; over what was collected, if the run ended before there were such."""
        is_in = partial(self._kept, book.journal) if book.finished else partial(self._there, book.journal)
        averages = book.scores.averages(lambda: (position for position, is_kept in enumerate(is_in()) if is_kept))
        return {"reward": None, **averages} if book.unscored and "reward" not in averages else averages

    def _averages_by_agent(self, book: Book) -> Iterator[tuple[str, Json]]:
        for agent, tally in book.tally.agents.items():
            columns = tally.aggregate.columns
            yield agent, {name: columns[name].mean for name in book.scores.names if name in columns}

    def _write_aggregates(self, book: Book) -> None:
        with self._as_warning(self.paths.aggregate_metrics):
            write_json(self.paths.aggregate_metrics, aggregate_metrics(book.tally.agents))
        if self.config.quiet:
            return
        for agent, tally in book.tally.agents.items():
            if told := histogram_told(tally.aggregate):
                tell(f"{agent}: {told}" if len(book.tally.agents) > 1 else told)

    def _write_summary(self, book: Book, exit_code: int) -> None:
        with self._as_warning(self.paths.summary):
            write_json(
                self.paths.summary,
                run_summary(
                    config=self.config,
                    command=self.command,
                    counts=book.counts,
                    failed_by_class=book.failures.by_class,
                    finished=book.finished.kept if book.finished else None,
                    sums=book.scores.sums(partial(self._positions_there, book.journal)),
                    set_aside=book.finished.set_aside if book.finished else 0,
                    averages=self._averages(book),
                    began=book.began,
                    load=book.load,
                    most_in_flight=book.counts.most_in_flight,
                    exit_code=exit_code,
                ),
            )

    @contextmanager
    def _as_warning(self, path: Path) -> Iterator[None]:
        """Figures that cannot be written fail no run."""
        try:
            yield
        except OSError as error:
            tell(f"warning: {path} cannot be written: {error.strerror}")

    def _kept(self, journal: Journal) -> Iterator[bool]:
        """For every position, whether it is for the finished file."""
        if self.config.incomplete_groups == "keep":
            return self._there(journal)
        return self.plan.whole(journal.has)

    def _there(self, journal: Journal) -> Iterator[bool]:
        return (journal.has(position) for position in range(self.plan.rollouts))

    def _tell_summary(self, book: Book, finished: Finished | None) -> None:
        command = self.command if book.resumable or finished is None else ()
        for line in summary(book.counts, book.failures, self.paths, finished, command):
            tell(line)
        for line in (*servers_told(book.pools), *self.costs.told(book.counts)):
            tell(line)
        if book.load:
            tell(book.load.told())


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed, else asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415 - not everywhere
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


async def _sync_often(journal: Journal) -> None:
    """Sync about every second; an error that lasts shows in the last sync, which is not this one."""
    while True:
        await asyncio.sleep(_SYNC_EVERY_S)
        with suppress(StorageError):
            await asyncio.to_thread(journal.sync)


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


def _failures_allowed(config: CollectConfig, plan: Plan) -> float:
    allowed = config.max_failed_rollouts
    return allowed * plan.rollouts if isinstance(allowed, float) else float(allowed)


def _policy(config: CollectConfig) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=config.max_attempts, budget_s=config.retry_budget_s, patient=config.adaptive_parallelism
    )


def _limit(config: CollectConfig, parallel: int) -> Limit:
    return AdaptiveLimit(parallel) if config.adaptive_parallelism else FixedLimit(parallel)


def _parallel(config: CollectConfig, plan: Plan) -> int:
    """Rollouts in flight at once: what was asked for, as far as the machine goes along."""
    wanted = min(config.num_samples_in_parallel or plan.rollouts, plan.rollouts)
    possible, bound = in_flight_possible()
    if wanted > possible:
        tell(f"{possible} rollouts in flight, not {wanted}: more are not possible with the {bound} of this machine")
    parallel = min(wanted, possible)
    most = crawls_beyond(config.http_engine)
    if most and parallel > most:
        tell(
            f"warning: httpx's own pool slows down beyond {most} rollouts in flight, and {parallel} are asked for: "
            "pip install pyreqwest (and no http_engine=httpx), or pip install httpx-aiohttp"
        )
    return parallel
