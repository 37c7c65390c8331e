"""The report of a run at its end: the last lines on stderr, and the summary file that CI reads."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from textwrap import shorten

from ng_rollouts._version import __version__
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import counted
from ng_rollouts.health.counts import Problem
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.metrics.aggregate import Coverage
from ng_rollouts.metrics.nemo_gym import score_line
from ng_rollouts.metrics.score_table import Sums
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.redaction import display_command, redact
from ng_rollouts.run.budget import Budget, TimeBudget, WallTime
from ng_rollouts.run.client_load import ClientLoad
from ng_rollouts.run.state import RunState
from ng_rollouts.types import Json

_NOT_RESUMED = ("resume_from_cache=", "overwrite=", "retry_failed=", "canary=")
"""Parameters that the resume command leaves out: they contradict a resume, or were for the first command only."""

_MAX_MESSAGE_CHARACTERS = 200
_MAX_EXAMPLE_CHARACTERS = 100
"""How much of a failure's message is in the message of the run, and in the summary. The failures file has all of it."""

_MAX_CLASSES = 3
_MAX_PROBLEMS = 3
"""How many failure classes and health problems the last lines have."""


@dataclass(slots=True, kw_only=True)
class DispatchReport:
    """Measurements of the dispatch: of this process, the executor and the servers.

    Attributes:
        load: how busy this process was; None if nothing was dispatched.
        executor_lines: the executor's report.
        load_balancers: the servers that were used.
        policies: those of them that answer rollouts.
        steered_by: the signal that decided an adaptive limit at the end; None with a fixed limit.
        time_budget: the time in which rollouts may start.
        wall_time: the time in which the command has to end.
        control: the commands that changed the run while it ran.
    """

    load: ClientLoad | None = None
    executor_lines: list[str] = field(default_factory=list)
    load_balancers: Sequence[LoadBalancer] = ()
    policies: Sequence[LoadBalancer] = ()
    steered_by: str | None = None
    time_budget: TimeBudget = field(default_factory=lambda: TimeBudget(None, None))
    wall_time: WallTime = field(default_factory=WallTime)
    control: list[Json] = field(default_factory=list)


def summary_lines(
    config: CollectConfig, state: RunState, paths: OutputPaths, budget: Budget, report: DispatchReport
) -> Iterator[str]:
    """The outcome of a run for people: counts and files, failures, servers, scores with intervals, tokens, load."""
    yield from _outcome_lines(state, paths)
    yield from _failure_lines(state)
    yield from _server_lines(report.load_balancers)
    if report.steered_by:
        yield f"up to {counted(state.counters.most_in_flight, 'rollout')} in flight, steered by {report.steered_by}"
    yield from _score_lines(state)
    if config.scoring == "defer":
        yield "not scored (scoring=defer): ng_rescore_rollouts scores the answers"
    yield from budget.summary_lines(state.counters)
    if hedged := state.counters.hedged:
        rollouts, won = counted(hedged, "rollout"), state.counters.hedged_won
        yield f"hedged: {rollouts} had a second attempt, of which {won} answered first"
    if report.time_budget.is_over and state.has_remaining:
        yield (
            f"the time dispatch_budget_s={report.time_budget.seconds:g} is over: no more rollouts were started; resume "
            f"to collect the remaining {state.counters.planned - state.counters.settled}"
        )
    if report.load and report.load.is_bottleneck:
        yield report.load.describe()


def failed_message(state: RunState, allowed: float, max_failed: float) -> str:
    """The message of a run in which more rollouts failed than allowed.

    Args:
        allowed: `max_failed_rollouts` as it was given, a count or a fraction.
        max_failed: the count that it allows.
    """
    message = f"{counted(state.counters.failed, 'rollout')} failed, max_failed_rollouts={allowed} allows {max_failed:g}"
    # Without a first failure, all of them are of earlier commands.
    if first := state.first_failure:
        # Before lines are joined, because a credential may be divided by a line break.
        reason = shorten(redact(first.message), _MAX_MESSAGE_CHARACTERS, placeholder=" …")
        message += f"; first: {first.failure_class}: {reason}"
    if state.failures.path.exists():
        message += f"; {state.failures.path} lists all"
        message += ", +resume_from_cache=true retries them" if state.is_resumable else ""
    return message


def resume_command(command: Sequence[str]) -> str:
    """The command that resumes a run, with secrets masked."""
    kept = [word for word in command if not word.lstrip("+").startswith(_NOT_RESUMED)]
    return display_command([*kept, "+resume_from_cache=true"])


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryFile:
    """The contents of the summary file.

    Attributes:
        averages: mean of each score over the finished rows.
        sums: sum and count of each score over all collected rows, in the output or set aside.
    """

    config: CollectConfig
    command: Sequence[str]
    state: RunState
    budget: Budget
    report: DispatchReport
    averages: Mapping[str, float | None]
    sums: Sums

    def content(self, exit_code: int) -> Json:
        """The JSON object, for a run that ends with this exit code."""
        return {
            **self._outcome(),
            **self._means(),
            **self._speed(self.state.wall_s),
            **self._tokens(),
            **self._circumstances(),
            "command": display_command(self.command),
            "exit_code": exit_code,
        }

    def _outcome(self) -> Json:
        state, counters, finished = self.state, self.state.counters, self.state.finished
        return {
            "planned": counters.planned,
            "collected": counters.collected,
            "collected_before": state.collected_before,
            "failed": counters.failed,
            "failed_by_class": dict(state.failures.by_class),
            "unscored": counters.unscored,
            "set_aside": finished.set_aside if finished else 0,
            "not_done": counters.planned - counters.settled,
            "finished": finished.kept if finished else None,
            "measured": state.measured,
            "coverage": state.measured / counters.planned if counters.planned else 1.0,
            "valid": counters.measured,
            "masked": dict(counters.masked.most_common()),
            "counted_as_zero": dict(state.counted_as_zero.most_common()),
            "share_truncated": counters.truncated / counters.measured if counters.measured else None,
            "share_empty": counters.empty / counters.measured if counters.measured else None,
            "problems": self._problems(),
        }

    def _problems(self) -> Json | None:
        """Rollouts by health check, or tasks for a check of tasks; None if they were not checked."""
        health = self.state.health
        return {each.check.value: each.count for each in health.counts.problems()} if health else None

    def _means(self) -> Json:
        # A failure counts as 0 for the scores that its agent would have given.
        with_zeros = {name: total / (n + self.state.failed_with_score(name)) for name, (total, n) in self.sums.items()}
        return {
            "means": self.averages,
            "intervals_95": self._intervals(),
            "means_collected": {name: total / n for name, (total, n) in self.sums.items()},
            "means_with_failures_as_zero": with_zeros,
        }

    def _intervals(self) -> Json:
        """The 95 % interval of each mean, clustered by task; empty with several agents, and for an unfinished run."""
        agents = self.state.aggregator.agents
        if not self.state.finished or len(agents) != 1:
            return {}
        scores = next(iter(agents.values())).stats.scores
        return {
            name: [score.mean - score.half_width, score.mean + score.half_width]
            for name, score in scores.items()
            if score.half_width is not None
        }

    def _speed(self, wall_s: float) -> Json:
        """Throughput and latency of this command alone, without the rollouts of earlier commands."""
        counters, load = self.state.counters, self.report.load
        lag = {"mean": round(load.mean_lag_s, 6), "worst": round(load.worst_lag_s, 6)} if load else None
        return {
            # UTC, in ISO 8601.
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.state.began)),
            "wall_s": round(wall_s, 3),
            "attempts": counters.attempts_done,
            "attempts_per_s": round(counters.attempts_done / wall_s, 3) if wall_s > 0 else None,
            "output_tokens_per_s": round(counters.output_tokens / wall_s, 3) if wall_s > 0 else None,
            "latency_s": counters.latencies.percentiles(),
            "latency_histogram": list(map(list, counters.latencies.histogram())),
            "hedged": counters.hedged,
            "hedged_won": counters.hedged_won,
            "most_in_flight": counters.most_in_flight,
            "steered_by": self.report.steered_by,
            "client_busy": round(load.busy, 6) if load else None,
            "event_loop_lag_s": lag,
            "executor": self.report.executor_lines,
        }

    def _tokens(self) -> Json:
        """Tokens and cost of all collected rollouts, and of the judges and failed attempts of this command."""
        counters, budget = self.state.counters, self.budget
        before = {"input": counters.earlier_input_tokens, "output": counters.earlier_output_tokens}
        tokens = {"input": before["input"] + counters.input_tokens, "output": before["output"] + counters.output_tokens}
        costs = {
            "cost": budget.cost(tokens["input"], tokens["output"]) + budget.extra_cost(counters),
            "cost_of_judges": budget.judge_cost(counters),
            "cost_of_failed_attempts": budget.failed_cost(counters),
        }
        return {
            "tokens": tokens,
            "tokens_before": before,
            "tokens_of_judges": asdict(counters.judge_tokens),
            "tokens_of_failed_attempts": asdict(counters.failed_tokens),
            **(costs if budget.has_prices else dict.fromkeys(costs)),
        }

    def _circumstances(self) -> Json:
        return {
            "seed": self.config.responses_create_params.get("seed"),
            "num_repeats_add_seed": self.config.num_repeats_add_seed,
            "scoring": self.config.scoring,
            "control": self.report.control,
            "versions": {
                "ng_rollouts": __version__,
                "python": platform.python_version(),
                # not platform.platform(), which starts a process
                "platform": f"{platform.system()}-{platform.release()}-{platform.machine()}",
            },
        }


def _outcome_lines(state: RunState, paths: OutputPaths) -> Iterator[str]:
    counters, finished = state.counters, state.finished
    line = f"collected {counters.collected} of {counted(counters.planned, 'planned rollout')}"
    if counters.failed:
        classes = ", ".join(f"{name}: {count}" for name, count in state.failures.by_class.most_common())
        line += f", failed {counters.failed} ({classes})"
    if finished and finished.set_aside:
        line += f", set aside {finished.set_aside} of the {counters.collected} collected"
    if remaining := counters.planned - counters.settled:
        line += f", not done {remaining}"
    yield f"{line}, in {_duration(state.wall_s)}"
    if counters.masked:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in counters.masked.most_common())
        yield f"masked: {counters.masked.total()} of {counters.collected} are not measurements ({reasons})"
    if finished and (zeros := state.counted_as_zero):
        yield f"counted with reward 0: {', '.join(f'{count} {reason}' for reason, count in zeros.most_common())}"
    if finished:
        yield f"output: {paths.output} ({counted(finished.kept, 'row')})"
        if finished.set_aside:
            yield f"rollouts of incomplete groups: {paths.incomplete}"
    else:
        rows = counted(counters.collected, "row")
        yield f"output: {paths.output} ({rows}, in completion order: the run is not finished)"
    # They lower the averages, and are often a matter of settings rather than of the model.
    if state.health and (problems := state.health.counts.problems()[:_MAX_PROBLEMS]):
        yield f"problems: {', '.join(map(_problem_text, problems))}"


def _problem_text(problem: Problem) -> str:
    count = f"{problem.count:,}" + (" of the tasks" if problem.check.is_of_task else "")
    return f"{problem.check} {count} ({problem.example})"


def _failure_lines(state: RunState) -> Iterator[str]:
    """The most frequent classes of failures, each with a message."""
    failures = state.failures
    if not state.counters.failed:
        return
    if failures.path.exists():
        yield f"failures: {failures.path}"
    if state.counters.unscored:
        yield _unscored_line(state)
    # Failures of earlier commands that are not retried are only counted.
    frequent = (name for name, _ in failures.by_class.most_common() if name in failures.examples)
    for failure_class in islice(frequent, _MAX_CLASSES):
        message = shorten(redact(failures.examples[failure_class]), _MAX_EXAMPLE_CHARACTERS, placeholder=" …")
        yield f"  {failure_class}, for example: {message}"


def _unscored_line(state: RunState) -> str:
    """How many failures have an answer, where it is, and what a resume does with it."""
    scored, asked = state.scored_by_resume, state.asked_by_resume
    steps = []
    if scored:
        steps.append(f"scores {f'{scored} of them' if asked else 'them'} again without asking the model")
    if asked:
        rest = f"the other {asked}" if scored else "them"
        steps.append(f"asks for {rest} again, because only the agent's own server or session could score the answer")
    counts = f"{state.counters.failed} failed, {state.counters.unscored} of them unscored"
    line = f"{counts}: their answers are in {state.failures.path}"
    return f"{line}; +resume_from_cache=true {', and '.join(steps)}" if steps and state.is_resumable else line


def _score_lines(state: RunState) -> Iterator[str]:
    """Mean and interval of the first scores, over complete groups; the mean reward of a run that is not finished."""
    agents, counters, reward = state.aggregator.agents, state.counters, state.counters.reward
    if not state.finished:
        if reward.count:
            without = " without the masked ones" if reward.count == counters.measured < counters.collected else ""
            zeros = ", masked ones with 0" if reward.count > counters.measured else ""
            yield f"reward {reward.mean:.3f} over the {counted(reward.count, 'collected rollout')}{without}{zeros}"
        return
    coverage = _coverage(state)
    if len(agents) == 1:
        yield from (score_line(metrics.stats, coverage) for metrics in agents.values())
        return
    for agent, metrics in agents.items():
        stats = metrics.stats
        # The plan has the rows of each agent, not its rollouts: only what is in the groups is known by agent.
        yield f"{agent}: {score_line(stats, stats.coverage)}"
    if agents and coverage.text:
        yield f"all agents: {coverage.text}"


def _coverage(state: RunState) -> Coverage:
    """How many of the planned rollouts the means are over, and why others are not."""
    counters, measured = state.counters, state.measured
    masked = sum(metrics.stats.masked.total() for metrics in state.aggregator.agents.values())
    zeros, not_done = state.counted_as_zero, counters.planned - counters.settled
    # A failure that its agent did not want in the failures file counts as missing.
    unwritten = max(0, zeros["missing"] - not_done)
    failed, not_done = counters.failed - zeros["failed"] - unwritten, not_done - zeros["missing"] + unwritten
    # Rollouts that are set aside may be in a group that is complete with zeros.
    set_aside = counters.planned - measured - masked - failed - not_done
    reasons = {"masked": masked, "failed": failed, "set aside": set_aside, "not done": not_done}
    return Coverage(measured, counters.planned, reasons)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _server_lines(load_balancers: Sequence[LoadBalancer]) -> Iterator[str]:
    """A line for each endpoint of a load balancer that has several."""
    for endpoint in (each for balancer in load_balancers if len(balancer.endpoints) > 1 for each in balancer.endpoints):
        line = f"{endpoint.display_url}: {endpoint.answered} answered"
        if endpoint.failed:
            line += f", {endpoint.failed} failed"
        if endpoint.answered:
            line += f", {endpoint.mean_seconds:.2f} s on average"
        yield line
