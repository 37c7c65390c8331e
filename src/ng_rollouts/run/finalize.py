"""The end of a run, step by step: order the output, settle failures, compute metrics, print results, check gates."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import merge
from itertools import compress
from pathlib import Path

from ng_rollouts.agents.base import Agent
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import counted, log, print_json
from ng_rollouts.errors import OutputTaken, RolloutsFailed, StorageError
from ng_rollouts.health.run_health import RunHealth
from ng_rollouts.health.summary import quality_summary, verdict_lines
from ng_rollouts.jsonl import loads
from ng_rollouts.metrics.nemo_gym import aggregate_metrics, format_histogram
from ng_rollouts.outputs.counted_as_zero import Counted, counted_rollouts
from ng_rollouts.outputs.manifest import write_manifest
from ng_rollouts.redaction import display_command
from ng_rollouts.run.gates import check_gates
from ng_rollouts.run.prepare import PreparedRun
from ng_rollouts.run.state import RunState
from ng_rollouts.run.summary import DispatchReport, SummaryFile, failed_message, resume_command, summary_lines
from ng_rollouts.scheduling.stop import Stop, StopRequested
from ng_rollouts.storage.atomic import replacing, write_json
from ng_rollouts.types import Json, RolloutKey, agent_ref, key_of


@dataclass(slots=True, kw_only=True)
class Finalizer:
    """Ends a run, finished or not.

    Attributes:
        command: the command that was typed, for the resume command.
        report: measurements of the dispatch.
        summary: receives the content of the summary file.
    """

    config: CollectConfig
    command: Sequence[str]
    prepared: PreparedRun
    state: RunState
    agents: Mapping[str, Agent]
    stop: Stop
    report: DispatchReport
    summary: Json
    _averages: Json | None = field(default=None, init=False)
    _counted_rows: list[Json] = field(default_factory=list, init=False)

    async def finish(self) -> None:
        """Finish a run whose rollouts are all settled.

        The order matters: the output is in order before anything is derived from it, and the failures file is settled
        before the summary counts it. The averages are the last lines on stdout.

        Raises:
            StorageError: the output could not be put in order; the journal is complete.
            GateMissed: a mean or the coverage is below its minimum.
            RolloutsFailed: more rollouts failed than `max_failed_rollouts` allows, or some have no outcome.
        """
        await self._order_output()
        self._settle_failures()
        self._log_summary()
        await self._write_aggregates()
        await self._write_health()
        self._print_averages()
        self._log_next_command()
        self._check_gates()
        self._check_failures()

    def leave_unfinished(self) -> None:
        """Report on a run that ended early. Its output stays a journal, which a resume continues.

        The averages are those of the collected rollouts.
        """
        try:
            self.state.journal.restore_name()
            self._settle_failures()
        except OutputTaken:
            raise
        except StorageError as error:
            log(f"warning: {error}")
        self._log_summary()
        print_json(self.averages())
        self._log_next_command()

    def write_summary(self, exit_code: int) -> None:
        """Write the summary file, whether the run is finished or not."""
        summary = SummaryFile(
            config=self.config,
            command=self.command,
            state=self.state,
            budget=self.prepared.budget,
            report=self.report,
            averages=self.averages(),
            sums=self.state.scores.sums(self.state.journal.collected()),
        )
        self.summary.update(summary.content(exit_code))
        with _as_warning(self.prepared.paths.summary):
            write_json(self.prepared.paths.summary, self.summary)

    def averages(self) -> Json:
        """Means over the finished rows; over the collected rows, if the run ended before it was finished."""
        if self._averages is None:
            rows = self._scored() if self.state.finished else self.state.journal.collected()
            means = self.state.scores.averages(rows)
            # Without a verifier, rollouts have no reward: null, so that programs still find the key.
            is_unscored = self.config.scoring == "defer" or any(not agent.scores for agent in self.agents.values())
            self._averages = {**({"reward": None} if is_unscored and "reward" not in means else {}), **means}
        return self._averages

    async def _order_output(self) -> None:
        await asyncio.to_thread(lambda: self.state.finish(self._kept(), self._counted()))
        manifest = self.prepared.paths.manifest
        if not manifest.exists():  # removed during the run, for example with the folder
            with _as_warning(manifest):
                write_manifest(manifest, self.prepared.manifest)

    def _settle_failures(self) -> None:
        if self.state.failures.path.exists():
            self.state.settle_failures(self.prepared.plan.locator())

    def _log_summary(self) -> None:
        for line in summary_lines(self.config, self.state, self.prepared.paths, self.prepared.budget, self.report):
            log(line)

    def _log_next_command(self) -> None:
        if not self.command:  # a Python program
            return
        # An unfinished output is resumed even if all rollouts are collected, to put it in order.
        if self.state.is_resumable or self.state.finished is None:
            log(f"to resume: {resume_command(self.command)}")
        elif self.state.finished.kept and not self.config.report:
            view = display_command(["ng_view_rollouts", f"+input_jsonl_fpath={self.prepared.paths.finished}"])
            log(f"to read the rollouts: {view}")

    async def _write_aggregates(self) -> None:
        if self.config.disable_aggregation:
            return
        agent_side = await self._agent_side_metrics()
        agents, path = self.state.aggregator.agents, self.prepared.paths.aggregate_metrics
        wall_s = self.state.wall_s
        speed = {agent: counters.statistics(wall_s) for agent, counters in self.state.counters.by_agent.items()}
        with _as_warning(path):
            write_json(path, aggregate_metrics(agents, self._with_environments(agent_side), speed))
        for agent, metrics in agents.items():
            if histogram := format_histogram(metrics.stats):
                log(f"{agent}: {histogram}" if len(agents) > 1 else histogram)

    def _with_environments(self, agent_side: Mapping[str, Json]) -> dict[str, Json]:
        """The fields of each agent's entry, with the environment server that answered for it."""
        servers = {name: agent.environment_server for name, agent in self.agents.items() if agent.environment_server}
        names = dict.fromkeys([*agent_side, *servers])
        return {
            name: ({"_ng_environment_server": servers[name]} if name in servers else {}) | agent_side.get(name, {})
            for name in names
        }

    async def _write_health(self) -> None:
        """Write the files about health: of the rollouts in the output, and of those set aside."""
        if not (health := self.state.health):
            return
        paths = self.prepared.paths
        keys = enumerate(self.prepared.plan.rollout_keys())
        collected = compress(keys, self.state.journal.collected())
        with _as_warning(paths.rollout_verdicts):
            await asyncio.to_thread(_write_verdicts, paths.rollout_verdicts, health, collected)
        with _as_warning(paths.quality_summary):
            write_json(paths.quality_summary, quality_summary(health.counts, health.totals, health.ignored))

    async def _agent_side_metrics(self) -> dict[str, Json]:
        if self.config.agent_side_metrics != "auto":
            return {}
        from ng_rollouts.agents.agent_metrics import agent_side_metrics, metrics_urls  # noqa: PLC0415 - few need it

        urls, folder = metrics_urls(self.agents), self.prepared.paths.output.parent
        if not urls:
            return {}
        try:
            metrics = await self.stop.unless_requested(agent_side_metrics(urls, folder, self._metrics_rows()))
        except StopRequested:
            log("note: stopped waiting for the agents' own metrics; metrics are computed here")
            return {}
        for agent, reply in metrics.items():
            print_json(reply.get("key_metrics"), title=f"Key metrics for {agent}:")
        return metrics

    def _print_averages(self) -> None:
        answer_key, agents = self.config.answer_key, self.state.aggregator.agents
        if answer_key and not any(metrics.stats.answers for metrics in agents.values()):
            log(f"warning: no rollout has the field answer_key={answer_key}, so majority@k cannot be computed")
        print_json(self.averages())
        if self.config.metrics_by == "agent":
            for agent, means in self.state.scores.averages_by_agent(self._scored()).items():
                print_json({"agent_ref": {"name": agent}, **means})

    def _check_gates(self) -> None:
        planned = self.prepared.plan.rollouts
        if planned and self.state.finished:
            check_gates(self.config, self.averages(), self.state.measured / planned, self.state.health)

    def _check_failures(self) -> None:
        state, allowed = self.state, self.config.max_failed_rollouts
        # A float is a fraction of the planned rollouts, an integer a count.
        max_failed = allowed * self.prepared.plan.rollouts if isinstance(allowed, float) else allowed
        if state.counters.failed > (0 if self.config.require_complete else max_failed):
            raise RolloutsFailed(failed_message(state, allowed, max_failed))
        # A spent budget of tokens or time is a regular end, although rollouts remain.
        is_spent = self.prepared.budget.is_spent(state.counters) or self.report.time_budget.is_over
        if state.has_remaining and (self.config.require_complete or not is_spent):
            remaining = state.counters.planned - state.counters.settled
            missing = counted(remaining, "rollout", "is", "are")
            raise RolloutsFailed(f"{missing} not collected: +resume_from_cache=true collects the rest")

    def _kept(self) -> bytes:
        """For every position, 1 if its row stays in the finished file, otherwise 0."""
        return self._with_rule(self.state.journal.collected())

    def _scored(self) -> bytes:
        """For every position, 1 if its rollout is in the means, also if zeros complete its group, otherwise 0."""
        return self._with_rule(self.state.scored())

    def _with_rule(self, done: bytes) -> bytes:
        """Of the positions that are done, those of complete groups; with `incomplete_groups=keep`, all."""
        return done if self.config.incomplete_groups == "keep" else self.prepared.plan.complete(done)

    def _counted(self) -> Iterator[tuple[int, Counted]]:
        """The rollouts that count as 0, with their positions."""
        rules, journal, locate = self.state.zero_rules, self.state.journal, self.prepared.plan.locator()
        if not rules.adds_rollouts:
            return
        rollouts = counted_rollouts(
            rules,
            [self.prepared.paths],
            wanted=lambda key: (position := locate(key)) is not None and not journal.has(position),
            planned=(
                (rollout.key, agent_ref(rollout.row, rollout.agent))
                for rollout in self.prepared.tasks.rollouts(self.prepared.plan)
            ),
        )
        for rollout in rollouts:
            if (position := locate(rollout.key)) is not None:
                self._counted_rows.append(rollout.row)
                yield position, rollout

    def _metrics_rows(self) -> Iterator[Json]:
        """The rows that metrics are computed from, in order: those of the output, and those that zeros add."""
        paths, rules, locate = self.prepared.paths, self.state.zero_rules, self.prepared.plan.locator()
        if not self.state.counted:
            yield from map(rules.apply_to_row, _rows(paths.output))
            return
        scored = self._scored()

        def position(row: Json) -> int:
            key = key_of(row)
            found = None if key is None else locate(key)
            return -1 if found is None else found

        counted = sorted(self._counted_rows, key=position)
        for row in merge(_rows(paths.output), _rows(paths.incomplete), counted, key=position):
            if (place := position(row)) >= 0 and scored[place]:
                yield rules.apply_to_row(row)


def _rows(path: Path) -> Iterator[Json]:
    """The rows of a file that this run wrote; none if it does not exist."""
    if path.exists():
        with path.open("rb") as file:
            yield from map(loads, file)


def _write_verdicts(path: Path, health: RunHealth, collected: Iterable[tuple[int, RolloutKey]]) -> None:
    """Replace the file of verdicts, or remove it if it would have no lines: an older one is of other rollouts."""
    if not health.has_lines:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(verdict_lines(health.rows(collected)))


@contextmanager
def _as_warning(path: Path) -> Iterator[None]:
    """Turn an `OSError` into a warning: a file of metrics that cannot be written does not fail a run."""
    try:
        yield
    except OSError as error:
        log(f"warning: {path} cannot be written: {error.strerror}")
