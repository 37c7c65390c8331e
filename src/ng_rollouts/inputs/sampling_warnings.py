"""Warnings about settings that are allowed but probably a mistake, logged before the first request."""

from __future__ import annotations

from collections.abc import Iterator

from ng_rollouts.config.parameters import RESPONSES_PARAMETERS, CollectConfig
from ng_rollouts.errors import did_you_mean
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.redaction import mask_settings


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
    if isinstance(config.num_repeats, dict):
        for agent in config.num_repeats:
            if agent != "_default" and agent not in plan.agents:
                yield f"num_repeats lists the agent {agent!r}, but no row uses it"
    if mask_settings(params, "responses_create_params") != params:
        yield "responses_create_params has a secret, which becomes a part of each row: do not share the output"
    for name in params:
        # Sent anyway: a server may support parameters that the API does not define.
        if name not in RESPONSES_PARAMETERS:
            hint = did_you_mean(name, RESPONSES_PARAMETERS, otherwise=";")
            yield f"responses_create_params.{name} is not a parameter of the Responses API{hint} it is sent unchanged"
