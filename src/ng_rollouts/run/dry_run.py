"""A dry run: shows the plan, the agents and the first request without sending a rollout."""

from __future__ import annotations

from collections.abc import Iterator

from ng_rollouts.agents.base import Agent
from ng_rollouts.console import counted, json_lines
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.models.request import masked
from ng_rollouts.redaction import mask_settings
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.types import Rollout


def format_plan(plan: Plan, counters: RunCounters | None) -> str:
    """The plan in one line: rows, rollouts, and how many remain.

    Args:
        counters: those of the output to resume, if there is one.
    """
    repeats = "" if plan.rollouts == plan.rows else f", repeated to {counted(plan.rollouts, 'rollout')}"
    if counters is None or not counters.settled:
        return f"plan: {counted(plan.rows, 'row')}{repeats}, {plan.rollouts} to do"
    settled = f"{counters.collected} of them collected and {counters.failed} failed"
    return f"plan: {counted(plan.rows, 'row')}{repeats}, {settled}, {plan.rollouts - counters.settled} to do"


def format_agents(plan: Plan, agents: dict[str, Agent]) -> Iterator[str]:
    """A line for each agent, with its servers and its model."""
    for name, agent in agents.items():
        servers = ", ".join(
            f"{endpoint.display_url} {'does not answer' if endpoint.is_avoided else 'answers'}"
            for balancer in agent.load_balancers
            for endpoint in balancer.endpoints
        )
        model = f" for the model {agent.model}" if agent.model else ""
        yield f"agent {name!r}, {counted(plan.agents[name], 'row')}: {servers or 'in this process'}{model}"


def format_request(agent: Agent, rollout: Rollout) -> Iterator[str]:
    """The first request as it would be sent, with secrets masked."""
    row = rollout.request().body
    request = agent.first_request(row)
    if request is None:
        yield "the first row that the agent receives:"
        yield from json_lines(mask_settings(row), indent=2, in_ascii=False)
        return
    # The address of some agents ends in the path of the request already.
    url = agent.load_balancers[0].endpoints[0].display_url.removesuffix(request.path)
    yield f"the first request: POST {url}{request.path}"
    yield from (f"{name}: {value}" for name, value in masked(request.headers).items())
    yield from json_lines(mask_settings(request.body), indent=2, in_ascii=False)
