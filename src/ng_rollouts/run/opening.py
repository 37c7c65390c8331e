"""The book of a run: a new one, or what an earlier command left of it."""

from __future__ import annotations

from contextlib import AsyncExitStack

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import log
from ng_rollouts.metrics.group_aggregator import GroupAggregator
from ng_rollouts.metrics.score_table import ScoreTable
from ng_rollouts.outputs.failures import FailuresFile
from ng_rollouts.outputs.journal import Journal
from ng_rollouts.outputs.manifest import read_manifest
from ng_rollouts.outputs.open_journal import open_for_resume, open_new
from ng_rollouts.outputs.resume import prior_failures, read_back
from ng_rollouts.run.prepare import PreparedRun
from ng_rollouts.run.state import RunState
from ng_rollouts.scheduling.circuit_breaker import CircuitBreaker
from ng_rollouts.scheduling.counters import RunCounters


def restored_state(config: CollectConfig, prepare: PreparedRun, stack: AsyncExitStack) -> RunState | None:
    """What is there to go on with, if it is asked for; nothing is changed yet."""
    paths, plan = prepare.paths, prepare.plan
    if not config.resume_from_cache or not paths.there:
        return None
    state = _state(config, prepare, stack.enter_context(open_for_resume(paths, plan.rollouts)))
    state.resumed = True
    known = read_manifest(paths.manifest)
    read_back(state.journal, plan, state.restore, known, prepare.tasks, paths.materialized_inputs)
    retry = config.retry_failed
    state.earlier = prior_failures(state.failures, plan, state.journal, retry=retry)
    state.counters.collected = state.collected_before = state.journal.count
    state.counters.failed = len(state.earlier.left)
    state.terminal = state.earlier.terminal
    if state.counters.collected:
        for circuit_breaker in state.circuit_breakers.values():
            circuit_breaker.success()
    told = f"going on with {paths.output}: {state.counters.collected} of {plan.rollouts} rollouts are there"
    if state.earlier.attempts:
        told += f", {len(state.earlier.attempts)} that failed are tried again"
    if state.earlier.left:
        told += f", {len(state.earlier.left)} that failed are left"
    log(told)
    if state.journal.unreadable:
        log(f"warning: {state.journal.unreadable} lines of {paths.output} cannot be read and are left out")
    return state


def new_state(config: CollectConfig, prepare: PreparedRun, stack: AsyncExitStack) -> RunState:
    """An empty book; an output that was there is moved aside, unless it may go."""
    paths, plan = prepare.paths, prepare.plan
    journal = stack.enter_context(open_new(paths, plan.rollouts, overwrite=config.overwrite))
    if journal.moved:
        log(f"{journal.moved.with_suffix('')} was there: moved to {journal.moved}, with what belongs to it")
    return _state(config, prepare, journal)


def _state(config: CollectConfig, prepare: PreparedRun, journal: Journal) -> RunState:
    paths, plan = prepare.paths, prepare.plan
    counters = RunCounters(planned=plan.rollouts)
    circuit_breakers = {agent: CircuitBreaker(agent, plan.rollouts) for agent in plan.agents}
    keep_incomplete = config.incomplete_groups == "keep"
    return RunState(
        journal=journal,
        failures=FailuresFile(paths.failures),
        scores=ScoreTable(plan.rollouts),
        aggregator=GroupAggregator(plan.group_size(), keep_incomplete=keep_incomplete),
        counters=counters,
        circuit_breakers=circuit_breakers,
        answer_key=config.answer_key,
    )
