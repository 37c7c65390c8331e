"""The book of a run: a new one, or what an earlier command left of it."""

from __future__ import annotations

from contextlib import AsyncExitStack

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import tell
from ng_rollouts.metrics.group_aggregator import Tally
from ng_rollouts.metrics.score_table import Scores
from ng_rollouts.outputs.failures import FailuresFile
from ng_rollouts.outputs.journal import Journal
from ng_rollouts.outputs.manifest import read_manifest
from ng_rollouts.outputs.open_journal import open_journal, reopen_journal
from ng_rollouts.outputs.resume import earlier_failures, read_back
from ng_rollouts.run.prepare import Prepared
from ng_rollouts.run.state import Book
from ng_rollouts.scheduling.circuit_breaker import Breaker
from ng_rollouts.scheduling.counters import Counts


def earlier_book(config: CollectConfig, prepared: Prepared, stack: AsyncExitStack) -> Book | None:
    """What is there to go on with, if it is asked for; nothing is changed yet."""
    paths, plan = prepared.paths, prepared.plan
    if not config.resume_from_cache or not paths.there:
        return None
    book = _book(config, prepared, stack.enter_context(reopen_journal(paths, plan.rollouts)))
    book.goes_on = True
    known = read_manifest(paths.manifest)
    read_back(book.journal, plan, book.take_over, known, prepared.tasks, paths.materialized_inputs)
    retry = config.retry_failed
    book.earlier = earlier_failures(book.failures, plan, book.journal, retry=retry)
    book.counts.collected = book.collected_before = book.journal.count
    book.counts.failed = len(book.earlier.left)
    book.terminal = book.earlier.terminal
    if book.counts.collected:
        for breaker in book.breakers.values():
            breaker.success()
    told = f"going on with {paths.output}: {book.counts.collected} of {plan.rollouts} rollouts are there"
    if book.earlier.attempts:
        told += f", {len(book.earlier.attempts)} that failed are tried again"
    if book.earlier.left:
        told += f", {len(book.earlier.left)} that failed are left"
    tell(told)
    if book.journal.unreadable:
        tell(f"warning: {book.journal.unreadable} lines of {paths.output} cannot be read and are left out")
    return book


def new_book(config: CollectConfig, prepared: Prepared, stack: AsyncExitStack) -> Book:
    """An empty book; an output that was there is moved aside, unless it may go."""
    paths, plan = prepared.paths, prepared.plan
    journal = stack.enter_context(open_journal(paths, plan.rollouts, overwrite=config.overwrite))
    if journal.moved:
        tell(f"{journal.moved.with_suffix('')} was there: moved to {journal.moved}, with what belongs to it")
    return _book(config, prepared, journal)


def _book(config: CollectConfig, prepared: Prepared, journal: Journal) -> Book:
    paths, plan = prepared.paths, prepared.plan
    counts = Counts(planned=plan.rollouts)
    breakers = {agent: Breaker(agent, plan.rollouts) for agent in plan.agents}
    keep_incomplete = config.incomplete_groups == "keep"
    return Book(
        journal=journal,
        failures=FailuresFile(paths.failures),
        scores=Scores(plan.rollouts),
        tally=Tally(plan.group_size(), keep_incomplete=keep_incomplete),
        counts=counts,
        breakers=breakers,
        answer_key=config.answer_key,
    )
