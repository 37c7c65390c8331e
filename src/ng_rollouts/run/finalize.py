"""The end of a run: files put in order, figures taken, everything told."""

from __future__ import annotations

import asyncio
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ng_rollouts._version import __version__
from ng_rollouts.agents.base import Agent
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import say, tell
from ng_rollouts.errors import StorageError
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.metrics.nemo_gym import aggregate_metrics, averages_by_agent, histogram_told
from ng_rollouts.metrics.score_table import Sums
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.redaction import shown_command
from ng_rollouts.run.budget import Costs
from ng_rollouts.run.gates import check_gates
from ng_rollouts.run.state import Book
from ng_rollouts.run.summary import servers_told, summary
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.storage.atomic import write_json
from ng_rollouts.types import Json


@dataclass(slots=True, kw_only=True)
class Closing:
    """What is done and told once nothing more is collected."""

    config: CollectConfig
    command: Sequence[str]
    plan: Plan
    paths: OutputPaths
    book: Book
    agents: Mapping[str, Agent]
    stop: Stop
    _averages: Json | None = field(default=None, init=False)

    @property
    def costs(self) -> Costs:
        """Prices and budget."""
        return Costs(self.config.price_per_million, self.config.max_total_tokens)

    async def finish(self) -> int:
        """Put the output in order, print the averages; the exit code.

        Raises:
            GateMissed: they are below what was asked for.
        """
        book = self.book
        book.finished = await asyncio.to_thread(book.journal.finish, self._kept())
        book.tally.end()
        self._settle_failures()
        self._tell_summary()
        if not self.config.disable_aggregation:
            self._write_aggregates(await self._agent_side_metrics())
        if self.config.answer_key and not any(tally.aggregate.answered for tally in book.tally.agents.values()):
            tell(f"warning: no rollout has the field answer_key={self.config.answer_key}, so there is no majority@k")
        say(json.dumps(self.averages(), indent=4))
        if self.config.metrics_by == "agent":
            for agent, means in averages_by_agent(self.paths.output).items():
                say(json.dumps({"agent_ref": {"name": agent}, **means}, indent=4))
        if self.plan.rollouts:
            check_gates(self.config, self.averages(), book.finished.kept / self.plan.rollouts)
        unexplained = book.owes_any and not self.costs.budget_is_spent(book.counts)
        return 1 if unexplained or book.counts.failed > self._failures_allowed() else 0

    def leave_unfinished(self) -> None:
        """Tell what there is of a run that ended early."""
        with suppress(StorageError):
            self._settle_failures()
        self._tell_summary()

    def write_summary(self, exit_code: int) -> None:
        """What CI reads of a run, finished or not."""
        with self._as_warning(self.paths.summary):
            write_json(self.paths.summary, self._summary(exit_code))

    def averages(self) -> Json:
        """Means over the finished rows; over what was collected, if the run ended before there were such."""
        if self._averages is None:
            kept = self._kept if self.book.finished else self._there
            means = self.book.scores.averages(lambda: (place for place, is_kept in enumerate(kept()) if is_kept))
            absent = {"reward": None} if self.book.unscored and "reward" not in means else {}
            self._averages = {**absent, **means}
        return self._averages

    def _summary(self, exit_code: int) -> Json:
        wall = time.time() - self.book.began
        return {
            **self._outcome(),
            **self._means(),
            **self._speed(wall),
            **self._spent(),
            **self._circumstances(),
            "command": shown_command(self.command),
            "exit_code": exit_code,
        }

    def _outcome(self) -> Json:
        book, counts, finished = self.book, self.book.counts, self.book.finished
        rows = finished.kept if finished else counts.collected
        return {
            "planned": counts.planned,
            "collected": counts.collected,
            "collected_before": book.collected_before,
            "failed": counts.failed,
            "failed_by_class": dict(book.failures.by_class),
            "set_aside": finished.set_aside if finished else 0,
            "not_done": counts.planned - counts.settled,
            "finished": finished.kept if finished else None,
            "coverage": rows / counts.planned if counts.planned else 1.0,
        }

    def _means(self) -> Json:
        there = self._sums_there()
        with_zeros = {name: total / (n + self.book.failed_of(name)) for name, (total, n) in there.items()}
        return {
            "means": self.averages(),
            "means_collected": {name: total / n for name, (total, n) in there.items()},
            "means_with_failures_as_zero": with_zeros,
        }

    def _speed(self, wall: float) -> Json:
        """Of this command alone."""
        counts, load = self.book.counts, self.book.load
        lag = {"mean": _rounded(load.mean_lag_s), "worst": _rounded(load.worst_lag_s)} if load else None
        return {
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.book.began)),
            "wall_s": round(wall, 3),
            "attempts": counts.answered,
            "attempts_per_s": round(counts.answered / wall, 3) if wall > 0 else None,
            "output_tokens_per_s": round(counts.output_tokens / wall, 3) if wall > 0 else None,
            "latency_s": counts.latencies.percentiles(),
            "latency_histogram": counts.latencies.histogram(),
            "most_in_flight": counts.most_in_flight,
            "client_busy": _rounded(load.busy if load else None),
            "event_loop_lag_s": lag,
            "executor": self.book.executor_told,
        }

    def _spent(self) -> Json:
        """Of all that is collected."""
        counts = self.book.counts
        before = {"input": counts.earlier_input_tokens, "output": counts.earlier_output_tokens}
        tokens = {"input": before["input"] + counts.input_tokens, "output": before["output"] + counts.output_tokens}
        cost = self.costs.price(tokens["input"], tokens["output"]) if self.costs.are_known else None
        return {"tokens": tokens, "tokens_before": before, "cost": cost}

    def _circumstances(self) -> Json:
        return {
            "seed": self.config.responses_create_params.get("seed"),
            "num_repeats_add_seed": self.config.num_repeats_add_seed,
            "versions": {
                "ng_rollouts": __version__,
                "python": platform.python_version(),
                "platform": platform.platform(),
            },
        }

    def _sums_there(self) -> Sums:
        """The sum of each score over all rows collected, set aside or not, and how many have it."""
        return self.book.scores.sums(lambda: (place for place, is_there in enumerate(self._there()) if is_there))

    async def _agent_side_metrics(self) -> dict[str, Json]:
        if self.config.agent_side_metrics != "auto":
            return {}
        from ng_rollouts.agents.agent_metrics import agent_side_metrics, listed  # noqa: PLC0415 - few agents have them

        if not listed(self.agents):
            return {}
        metrics = await self.stop.unless_asked(agent_side_metrics(self.agents, self.paths.output, tell))
        if metrics is None:
            tell("note: agents are not waited for any longer; the figures are this program's")
            return {}
        for agent, told in metrics.items():
            say(f"\nKey metrics for {agent}:\n" + json.dumps(told.get("key_metrics"), indent=4))
        return metrics

    def _write_aggregates(self, of_agents: Mapping[str, Json]) -> None:
        agents = self.book.tally.agents
        with self._as_warning(self.paths.aggregate_metrics):
            wall = time.time() - self.book.began
            of_command = {agent: counts.figures(wall) for agent, counts in self.book.counts.by_agent.items()}
            write_json(self.paths.aggregate_metrics, aggregate_metrics(agents, of_agents, of_command))
        if self.config.quiet:
            return
        for agent, tally in agents.items():
            if told := histogram_told(tally.aggregate):
                tell(f"{agent}: {told}" if len(agents) > 1 else told)

    def _settle_failures(self) -> None:
        """Take what is collected out of the failures file."""
        locate, has = self.plan.locator(), self.book.journal.has
        self.book.failures.settle(lambda key: (position := locate(key)) is not None and has(position))

    def _tell_summary(self) -> None:
        book = self.book
        command = self.command if book.resumable or book.finished is None else ()
        for line in summary(book.counts, book.failures, self.paths, book.finished, command):
            tell(line)
        for line in (*servers_told(book.pools), *self.costs.told(book.counts)):
            tell(line)
        if book.load:
            tell(book.load.told())

    @contextmanager
    def _as_warning(self, path: Path) -> Iterator[None]:
        """Figures that cannot be written fail no run."""
        try:
            yield
        except OSError as error:
            tell(f"warning: {path} cannot be written: {error.strerror}")

    def _kept(self) -> Iterator[bool]:
        """For every position, whether it is for the finished file."""
        if self.config.incomplete_groups == "keep":
            return self._there()
        return self.plan.whole(self.book.journal.has)

    def _there(self) -> Iterator[bool]:
        return map(self.book.journal.has, range(self.plan.rollouts))

    def _failures_allowed(self) -> float:
        allowed = self.config.max_failed_rollouts
        return allowed * self.plan.rollouts if isinstance(allowed, float) else float(allowed)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
