"""Quality gates: minimum means and minimum coverage."""

from __future__ import annotations

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import GateMissed
from ng_rollouts.types import Json


def check_gates(config: CollectConfig, averages: Json, coverage: float) -> None:
    """Check averages and coverage against `min_mean` and `min_coverage`.

    Args:
        coverage: finished rows whose result is a measurement, as a share of the planned rollouts.

    Raises:
        GateMissed: one or more are below their minimum; the message names all of them.
    """
    # A mean that is missing is below any minimum: a misspelled score must not pass.
    missed = [
        _missed(name, minimum, averages)
        for name, minimum in config.min_mean.items()
        if averages.get(name) is None or averages[name] < minimum
    ]
    if coverage < config.min_coverage:
        missed.append(f"coverage is {coverage:.4g}, below min_coverage={config.min_coverage:g}")
    if missed:
        raise GateMissed("; ".join(missed))


def _missed(name: str, minimum: float, averages: Json) -> str:
    if averages.get(name) is None:
        available = ", ".join(score for score, mean in averages.items() if mean is not None) or "none"
        return f"min_mean.{name}: no rollout has the score {name!r}: available scores: {available}"
    return f"{name} is {averages[name]:.6g}, below min_mean.{name}={minimum:g}"
