"""A dry run: what a run would do, told without doing it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ng_rollouts.agents.base import Agent
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.models.request import masked
from ng_rollouts.redaction import mask_known
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.types import Rollout


def format_plan(plan: Plan, counters: RunCounters) -> str:
    """The plan in one line: rows, rollouts, and what a resume would still owe."""
    repeats = "" if plan.rollouts == plan.rows else f", repeated to {plan.rollouts} rollouts"
    there = f", {counters.collected} of them collected and {counters.failed} failed" if counters.settled else ""
    return f"plan: {plan.rows} rows{repeats}{there}, {counters.planned - counters.settled} to do"


def format_agents(plan: Plan, agents: dict[str, Agent]) -> Iterator[str]:
    """A line for each agent, whose servers have all been found to answer."""
    for name, agent in agents.items():
        servers = ", ".join(
            f"{address.shown} {'does not answer' if address.is_cooling_down else 'answers'}"
            for load_balancer in agent.load_balancers
            for address in load_balancer.endpoints
        )
        model = f" for the model {agent.model}" if agent.model else ""
        yield f"agent {name!r}, {plan.agents[name]} rows: {servers or 'within this process'}{model}"


def format_request(agent: Agent, rollout: Rollout) -> Iterator[str]:
    """The first request as it would be sent, secrets masked."""
    row = rollout.request().body
    request = agent.first_request(row)
    if request is None:
        yield "the first row as the agent would be handed it:"
        yield mask_known(json.dumps(row, indent=2, ensure_ascii=False))
        return
    url = agent.load_balancers[0].endpoints[0].shown.removesuffix(request.path)
    yield f"the first request: POST {url}{request.path}"
    yield from (f"{name}: {value}" for name, value in masked(request.headers).items())
    yield mask_known(json.dumps(request.body, indent=2, ensure_ascii=False))
