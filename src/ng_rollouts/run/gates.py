"""Quality gates: minimum means, minimum coverage, and limits of health checks."""

from __future__ import annotations

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import ConfigError, GateMissed
from ng_rollouts.health.run_health import RunHealth
from ng_rollouts.health.selection import check_disjoint, checks_of, limits_of, missed_limits
from ng_rollouts.types import Json


def check_health_settings(config: CollectConfig) -> None:
    """Check the parameters about health, before anything is read.

    Raises:
        ConfigError: a check does not exist, or is limited although it is not made.
    """
    limits = limits_of("fail_on", config.fail_on)
    ignored = checks_of("health_check_ignored_checks", config.health_check_ignored_checks)
    check_disjoint("health_check_ignored_checks", ignored, "fail_on", limits)
    if limits and config.disable_health_check:
        raise ConfigError("fail_on needs the checks that disable_health_check=true turns off: give one of them")


def check_gates(config: CollectConfig, averages: Json, coverage: float, health: RunHealth | None) -> None:
    """Check averages, coverage and health against `min_mean`, `min_coverage` and `fail_on`.

    Args:
        coverage: finished rows whose result is a measurement, as a share of the planned rollouts.
        health: the health of all collected rollouts; None if they were not checked.

    Raises:
        GateMissed: one or more are below their minimum or above their limit; the message names all of them.
    """
    # A mean that is missing is below any minimum: a misspelled score must not pass.
    missed = [
        _missed(name, minimum, averages)
        for name, minimum in config.min_mean.items()
        if averages.get(name) is None or averages[name] < minimum
    ]
    if coverage < config.min_coverage:
        missed.append(f"coverage is {coverage:.4g}, below min_coverage={config.min_coverage:g}")
    if health:
        missed += missed_limits("fail_on", limits_of("fail_on", config.fail_on), health.counts)
    if missed:
        raise GateMissed("; ".join(missed))


def _missed(name: str, minimum: float, averages: Json) -> str:
    if averages.get(name) is None:
        available = ", ".join(score for score, mean in averages.items() if mean is not None) or "none"
        return f"min_mean.{name}: no measured rollout has the score {name!r}: available scores: {available}"
    return f"{name} is {averages[name]:.6g}, below min_mean.{name}={minimum:g}"
