"""Warnings about settings that are allowed but probably a mistake, logged before the first request."""

from __future__ import annotations

from collections.abc import Iterator

from ng_rollouts.config.parameters import RESPONSES_PARAMETERS, CollectConfig
from ng_rollouts.errors import did_you_mean
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.redaction import mask_settings


def _about_agents(config: CollectConfig, plan: Plan) -> Iterator[str]:
    if plan.rerouted:
        setting = f"agent_name={config.agent_name}" if config.agent_name else "agent_map"
        yield (
            f"{setting} replaces the agent that {_rows(plan.rerouted)} in agent_ref, as in NeMo Gym since 0.6 "
            "(leave it out to keep the agents of the rows)"
        )
    for parameter, keys in (("agent_map", config.agent_map), ("fan_out", config.fan_out)):
        for key in keys:
            if key not in ("_default", *plan.names):
                yield f"{parameter} lists {key!r}, but no row has it as agent or task_source"
    for agent in config.num_repeats if isinstance(config.num_repeats, dict) else ():
        if agent not in ("_default", *config.agent_map, *config.fan_out) and agent not in plan.agents:
            yield f"num_repeats lists the agent {agent!r}, but no row uses it"


def _rows(count: int) -> str:
    return "1 row names" if count == 1 else f"{count} rows name"


def warnings(config: CollectConfig, plan: Plan) -> Iterator[str]:
    """One line for each setting that is probably a mistake."""
    params = config.responses_create_params
    if plan.rows_with_equal_repeats:
        setting = (
            "temperature 0" if params.get("temperature") == 0 else f"seed {params['seed']}" if "seed" in params else ""
        )
        cause = (
            f"{setting} with num_repeats > 1"
            if setting
            else f"{plan.rows_with_equal_repeats} rows have temperature 0 or a fixed seed"
        )
        yield (
            f"{cause}: the rollouts of a task will be nearly identical"
            " (use temperature >= 0.2; num_repeats_add_seed=true gives each rollout its own seed)"
        )
    yield from _about_agents(config, plan)
    if mask_settings(params, "responses_create_params") != params:
        yield "responses_create_params has a secret, which becomes a part of each row: do not share the output"
    for name in params:
        # Sent anyway: a server may support parameters that the API does not define.
        if name not in RESPONSES_PARAMETERS:
            hint = did_you_mean(name, RESPONSES_PARAMETERS, otherwise=";")
            yield f"responses_create_params.{name} is not a parameter of the Responses API{hint} it is sent unchanged"
