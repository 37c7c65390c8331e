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
from ng_rollouts.console import log, print_result
from ng_rollouts.errors import StorageError
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.metrics.nemo_gym import aggregate_metrics, averages_by_agent, format_histogram
from ng_rollouts.metrics.score_table import Sums
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.redaction import display_command
from ng_rollouts.run.budget import Budget
from ng_rollouts.run.gates import check_gates
from ng_rollouts.run.state import RunState
from ng_rollouts.run.summary import server_lines, summary
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.storage.atomic import write_json
from ng_rollouts.types import Json


@dataclass(slots=True, kw_only=True)
class Finalizer:
    """What is done and told once nothing more is collected."""

    config: CollectConfig
    command: Sequence[str]
    plan: Plan
    paths: OutputPaths
    state: RunState
    agents: Mapping[str, Agent]
    stop: Stop
    _averages: Json | None = field(default=None, init=False)

    @property
    def budget(self) -> Budget:
        """Prices and budget."""
        return Budget(self.config.price_per_million, self.config.max_total_tokens)

    async def finish(self) -> int:
        """Put the output in order, print the averages; the exit code.

        Raises:
            GateMissed: they are below what was asked for.
        """
        state = self.state
        state.finished = await asyncio.to_thread(state.journal.finish, self._kept())
        state.aggregator.end()
        self._settle_failures()
        self._tell_summary()
        if not self.config.disable_aggregation:
            self._write_aggregates(await self._agent_side_metrics())
        if self.config.answer_key and not any(
            aggregator.aggregate.answers for aggregator in state.aggregator.agents.values()
        ):
            log(f"warning: no rollout has the field answer_key={self.config.answer_key}, so there is no majority@k")
        print_result(json.dumps(self.averages(), indent=4))
        if self.config.metrics_by == "agent":
            for agent, means in averages_by_agent(self.paths.output).items():
                print_result(json.dumps({"agent_ref": {"name": agent}, **means}, indent=4))
        if self.plan.rollouts:
            check_gates(self.config, self.averages(), state.finished.kept / self.plan.rollouts)
        unexplained = state.has_remaining and not self.budget.is_spent(state.counters)
        return 1 if unexplained or state.counters.failed > self._failures_allowed() else 0

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
            kept = self._kept if self.state.finished else self._there
            means = self.state.scores.averages(lambda: (place for place, is_kept in enumerate(kept()) if is_kept))
            absent = {"reward": None} if self.state.unscored and "reward" not in means else {}
            self._averages = {**absent, **means}
        return self._averages

    def _summary(self, exit_code: int) -> Json:
        wall = time.time() - self.state.began
        return {
            **self._outcome(),
            **self._means(),
            **self._speed(wall),
            **self._spent(),
            **self._circumstances(),
            "command": display_command(self.command),
            "exit_code": exit_code,
        }

    def _outcome(self) -> Json:
        state, counters, finished = self.state, self.state.counters, self.state.finished
        rows = finished.kept if finished else counters.collected
        return {
            "planned": counters.planned,
            "collected": counters.collected,
            "collected_before": state.collected_before,
            "failed": counters.failed,
            "failed_by_class": dict(state.failures.by_class),
            "set_aside": finished.set_aside if finished else 0,
            "not_done": counters.planned - counters.settled,
            "finished": finished.kept if finished else None,
            "coverage": rows / counters.planned if counters.planned else 1.0,
        }

    def _means(self) -> Json:
        there = self._sums_there()
        with_zeros = {name: total / (n + self.state.failed_of(name)) for name, (total, n) in there.items()}
        return {
            "means": self.averages(),
            "means_collected": {name: total / n for name, (total, n) in there.items()},
            "means_with_failures_as_zero": with_zeros,
        }

    def _speed(self, wall: float) -> Json:
        """Of this command alone."""
        counters, load = self.state.counters, self.state.load
        lag = {"mean": _rounded(load.mean_lag_s), "worst": _rounded(load.worst_lag_s)} if load else None
        return {
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.state.began)),
            "wall_s": round(wall, 3),
            "attempts": counters.attempts_done,
            "attempts_per_s": round(counters.attempts_done / wall, 3) if wall > 0 else None,
            "output_tokens_per_s": round(counters.output_tokens / wall, 3) if wall > 0 else None,
            "latency_s": counters.latencies.percentiles(),
            "latency_histogram": counters.latencies.histogram(),
            "most_in_flight": counters.most_in_flight,
            "client_busy": _rounded(load.busy if load else None),
            "event_loop_lag_s": lag,
            "executor": self.state.executor_told,
        }

    def _spent(self) -> Json:
        """Of all that is collected."""
        counters = self.state.counters
        before = {"input": counters.earlier_input_tokens, "output": counters.earlier_output_tokens}
        tokens = {"input": before["input"] + counters.input_tokens, "output": before["output"] + counters.output_tokens}
        cost = self.budget.price(tokens["input"], tokens["output"]) if self.budget.has_prices else None
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
        return self.state.scores.sums(lambda: (place for place, is_there in enumerate(self._there()) if is_there))

    async def _agent_side_metrics(self) -> dict[str, Json]:
        if self.config.agent_side_metrics != "auto":
            return {}
        from ng_rollouts.agents.agent_metrics import agent_side_metrics, metrics_urls  # noqa: PLC0415 - few agents have them

        urls = metrics_urls(self.agents)
        if not urls:
            return {}
        metrics = await self.stop.unless_asked(agent_side_metrics(urls, self.paths.output, log))
        if metrics is None:
            log("note: agents are not waited for any longer; the figures are this program's")
            return {}
        for agent, told in metrics.items():
            print_result(f"\nKey metrics for {agent}:\n" + json.dumps(told.get("key_metrics"), indent=4))
        return metrics

    def _write_aggregates(self, of_agents: Mapping[str, Json]) -> None:
        agents = self.state.aggregator.agents
        with self._as_warning(self.paths.aggregate_metrics):
            wall = time.time() - self.state.began
            of_command = {agent: counters.figures(wall) for agent, counters in self.state.counters.by_agent.items()}
            write_json(self.paths.aggregate_metrics, aggregate_metrics(agents, of_agents, of_command))
        if self.config.quiet:
            return
        for agent, aggregator in agents.items():
            if told := format_histogram(aggregator.aggregate):
                log(f"{agent}: {told}" if len(agents) > 1 else told)

    def _settle_failures(self) -> None:
        """Take what is collected out of the failures file."""
        locate, has = self.plan.locator(), self.state.journal.has
        self.state.failures.settle(lambda key: (position := locate(key)) is not None and has(position))

    def _tell_summary(self) -> None:
        state = self.state
        command = self.command if state.resumable or state.finished is None else ()
        for line in summary(state.counters, state.failures, self.paths, state.finished, command):
            log(line)
        for line in (*server_lines(state.load_balancers), *self.budget.told(state.counters)):
            log(line)
        if state.load:
            log(state.load.told())

    @contextmanager
    def _as_warning(self, path: Path) -> Iterator[None]:
        """Figures that cannot be written fail no run."""
        try:
            yield
        except OSError as error:
            log(f"warning: {path} cannot be written: {error.strerror}")

    def _kept(self) -> Iterator[bool]:
        """For every position, whether it is for the finished file."""
        if self.config.incomplete_groups == "keep":
            return self._there()
        return self.plan.whole(self.state.journal.has)

    def _there(self) -> Iterator[bool]:
        return map(self.state.journal.has, range(self.plan.rollouts))

    def _failures_allowed(self) -> float:
        allowed = self.config.max_failed_rollouts
        return allowed * self.plan.rollouts if isinstance(allowed, float) else float(allowed)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
