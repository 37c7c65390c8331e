"""One run: plan, find agents, collect, finish, sum up."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from ng_rollouts.agents import Agent
from ng_rollouts.agents.discovery import find_agents
from ng_rollouts.collect import Outlet, collect
from ng_rollouts.config import CollectConfig
from ng_rollouts.failures import FailuresFile
from ng_rollouts.journal import Finished, Journal, OutputPaths, check_output, open_journal
from ng_rollouts.jsonlines import dumps
from ng_rollouts.metrics import Scores
from ng_rollouts.progress import progress
from ng_rollouts.prompts import load_template
from ng_rollouts.records import Counts, Failure, Json, Rollout
from ng_rollouts.retries import RetryPolicy
from ng_rollouts.rows import finished_row, numbers
from ng_rollouts.sampling import warnings
from ng_rollouts.tasks import Plan, Recipe, TaskFile, readable_twice

_FILES_NOT_CONNECTIONS = 64
"""Open files kept for the output, the loop and libraries."""

_SYNC_EVERY_S = 1.0


def run(config: CollectConfig) -> int:
    """Collect what the config asks for; the exit code.

    Raises:
        UsageError: something is wrong that can be known before anything is sent.
        StoppedEarly: going on was pointless; what was collected is in the output.
    """
    for warning in warnings(config):
        tell(f"warning: {warning}")
    paths = OutputPaths(Path(config.output_jsonl_fpath).expanduser())
    with readable_twice(config.input_jsonl_fpath) as source:
        check_output(paths, source)
        tasks = TaskFile(path=source, recipe=_recipe(config), limit=config.limit)
        plan = tasks.plan()
        for agent in _repeats_never_used(config, plan):
            tell(f"warning: num_repeats lists {agent!r}, which no row is for")
        return asyncio.run(_Run(config, tasks, plan, paths).collect())


def tell(message: str) -> None:
    """Say what is no result, on stderr."""
    print(message, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class _Run:
    config: CollectConfig
    tasks: TaskFile
    plan: Plan
    paths: OutputPaths

    async def collect(self) -> int:
        async with AsyncExitStack() as stack:
            agents = await find_agents(self.plan.agents, self.config, stack)
            journal = stack.enter_context(open_journal(self.paths, self.plan.rollouts, overwrite=self.config.overwrite))
            if journal.moved:
                tell(f"{self.paths.output} was there: moved to {journal.moved}, with what belongs to it")
            _announce(self.config, self.plan)
            recorder = _Recorder(journal, FailuresFile(self.paths.failures), Scores(self.plan.rollouts))
            await self._fan_out(agents, recorder)
            finished = journal.finish(self.plan.whole(journal.has))
            return self._sum_up(recorder, finished)

    async def _fan_out(self, agents: dict[str, Agent], recorder: _Recorder) -> None:
        training_view = self.config.training_view

        async def call(rollout: Rollout) -> Json:
            reply = await agents[rollout.agent].run(rollout.request())
            return finished_row(rollout, reply, training_view=training_view)

        counts = Counts(planned=self.plan.rollouts)
        syncing = asyncio.create_task(_sync_often(recorder.journal))
        try:
            async with progress(counts):
                await collect(
                    self.tasks.rollouts(self.plan),
                    call,
                    Outlet(keep=recorder.keep, give_up=recorder.give_up),
                    parallel=_parallel(self.config, self.plan),
                    policy=RetryPolicy(max_attempts=self.config.max_attempts),
                    counts=counts,
                )
        finally:
            syncing.cancel()
            recorder.journal.sync()

    def _sum_up(self, recorder: _Recorder, finished: Finished) -> int:
        journal, failures = recorder.journal, recorder.failures
        failed = failures.by_class.total()
        if failed:
            classes = ", ".join(f"{name}: {count}" for name, count in failures.by_class.most_common())
            tell(f"{failed} of {self.plan.rollouts} rollouts failed ({classes}): see {failures.path}")
        if finished.set_aside:
            tell(f"{finished.set_aside} rollouts of groups that are not complete are in {self.paths.incomplete}")
        averages = recorder.scores.averages(
            lambda: (position for position, whole in enumerate(self.plan.whole(journal.has)) if whole)
        )
        print(json.dumps(averages, indent=4), flush=True)
        return 1 if failed else 0


@dataclass(frozen=True, slots=True)
class _Recorder:
    """Writes outcomes down as they come."""

    journal: Journal
    failures: FailuresFile
    scores: Scores

    def keep(self, rollout: Rollout, row: Json) -> None:
        self.journal.append(rollout.position, dumps(row))
        self.scores.record(rollout.position, numbers(row))

    def give_up(self, failure: Failure) -> None:
        self.failures.append(failure)


async def _sync_often(journal: Journal) -> None:
    while True:
        await asyncio.sleep(_SYNC_EVERY_S)
        await asyncio.to_thread(journal.sync)


def _recipe(config: CollectConfig) -> Recipe:
    return Recipe(
        overrides=config.responses_create_params,
        agent_name=config.agent_name,
        serves_all=config.agent_url is not None,
        repeats=config.num_repeats,
        add_seed=config.num_repeats_add_seed,
        template=load_template(config.prompt_config) if config.prompt_config else None,
    )


def _repeats_never_used(config: CollectConfig, plan: Plan) -> list[str]:
    if not isinstance(config.num_repeats, dict):
        return []
    return [agent for agent in config.num_repeats if agent != "_default" and agent not in plan.agents]


def _announce(config: CollectConfig, plan: Plan) -> None:
    """The lines that NeMo Gym prints before it collects, in its words and order."""
    if config.limit:
        print(f"Limiting the number of rows to {config.limit}!")
    print(f"Found {plan.rows} rows!")
    if plan.rollouts > plan.rows:
        print(f"Repeating rows (in a pattern of abc to aabbcc) from {plan.rows} to {plan.rollouts}!")
    if config.num_samples_in_parallel:
        print(f"Querying with {config.num_samples_in_parallel} concurrent requests")
    if config.responses_create_params:
        print(f"Overriding responses_create_params fields with {config.responses_create_params}")
    sys.stdout.flush()


def _parallel(config: CollectConfig, plan: Plan) -> int:
    """Rollouts in flight at once: what was asked for, as far as open files allow."""
    wanted = min(config.num_samples_in_parallel or plan.rollouts, plan.rollouts)
    possible = max(1, _open_files_allowed() - _FILES_NOT_CONNECTIONS)
    if wanted > possible:
        tell(f"open files allow {possible} rollouts in flight, not {wanted} (see `ulimit -n`)")
    return min(wanted, possible)


def _open_files_allowed() -> int:
    """The limit on open files, raised as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
