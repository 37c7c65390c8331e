"""What is known to go wrong with sampling parameters, told before a run is spent on it."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from ng_rollouts.config import RESPONSES_PARAMETERS, CollectConfig


def warnings(config: CollectConfig) -> Iterator[str]:
    """One line for each setting that is allowed but unlikely to be meant."""
    params = config.responses_create_params
    repeated = _most_repeats(config) > 1
    if repeated and params.get("temperature") == 0:
        yield "temperature 0 with num_repeats > 1: the rollouts of a task will be alike (try temperature >= 0.2)"
    if repeated and params.get("seed") is not None and not config.num_repeats_add_seed:
        yield (
            f"seed {params['seed']} with num_repeats > 1: every rollout of a task gets the same seed"
            " (num_repeats_add_seed=true gives each its own)"
        )
    for name in params:
        if name not in RESPONSES_PARAMETERS:
            near = get_close_matches(name, RESPONSES_PARAMETERS, n=1)
            hint = f", did you mean {near[0]}?" if near else ";"
            yield f"responses_create_params.{name} is no parameter of the Responses API{hint} it is sent as it is"


def _most_repeats(config: CollectConfig) -> int:
    repeats = config.num_repeats
    return max(repeats.values()) if isinstance(repeats, dict) else int(repeats)
