"""Quality gates: minimum means and minimum coverage."""

from __future__ import annotations

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import GateMissed
from ng_rollouts.types import Json


def check_gates(config: CollectConfig, averages: Json, coverage: float) -> None:
    """Hold the figures against what was asked for.

    Raises:
        GateMissed: some are below it, all of which are named.
    """
    missed = [
        f"{name} is {_shown(averages.get(name))}, below min_mean.{name}={least:g}"
        for name, least in config.min_mean.items()
        if averages.get(name) is None or averages[name] < least
    ]
    if coverage < config.min_coverage:
        missed.append(f"coverage is {coverage:.4g}, below min_coverage={config.min_coverage:g}")
    if missed:
        raise GateMissed("; ".join(missed))


def _shown(value: float | None) -> str:
    return "not there" if value is None else f"{value:.6g}"
