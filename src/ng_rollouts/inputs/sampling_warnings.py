"""What is known to go wrong with sampling parameters, told before a run is spent on it."""

from __future__ import annotations

from collections.abc import Iterator

from ng_rollouts.config.parameters import RESPONSES_PARAMETERS, CollectConfig
from ng_rollouts.errors import did_you_mean
from ng_rollouts.inputs.plan import Plan


def warnings(config: CollectConfig, plan: Plan) -> Iterator[str]:
    """One line for each setting that is allowed but unlikely to be meant."""
    params = config.responses_create_params
    if plan.deterministic_repeats:
        what = (
            "temperature 0" if params.get("temperature") == 0 else f"seed {params['seed']}" if "seed" in params else ""
        )
        where = (
            f"{what} with num_repeats > 1"
            if what
            else f"{plan.deterministic_repeats} rows fix a seed or a temperature of 0"
        )
        yield (
            f"{where}: the rollouts of a task will be alike"
            " (try temperature >= 0.2; num_repeats_add_seed=true gives each a seed of its own)"
        )
    if isinstance(config.num_repeats, dict):
        for agent in config.num_repeats:
            if agent != "_default" and agent not in plan.agents:
                yield f"num_repeats lists {agent!r}, which no row is for"
    for name in params:
        if name not in RESPONSES_PARAMETERS:
            hint = did_you_mean(name, RESPONSES_PARAMETERS, otherwise=";")
            yield f"responses_create_params.{name} is not a parameter of the Responses API{hint} it is sent as it is"
