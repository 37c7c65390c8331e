"""Checks that a user selects: those to leave out, and those whose share has a limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from typing import Any

from ng_rollouts.errors import ConfigError, did_you_mean
from ng_rollouts.health.checks import Check
from ng_rollouts.health.counts import HealthCounts

Limits = Mapping[Check, float]
"""The largest accepted share of rollouts with each finding, or of tasks with each flag."""


def checks_of(parameter: str, value: Any) -> list[Check]:
    """The checks in a list, or in a text with commas. Brackets in the text are optional.

    Raises:
        ConfigError: a name is unknown.
    """
    return list(dict.fromkeys(_check_of(parameter, name) for name, _ in _entries(parameter, value)))


def limits_of(parameter: str, value: Any, default: float = 0.0) -> Limits:
    """The limits in a dict of check to share, or in a list, where each limit is the default. Text may have either.

    Raises:
        ConfigError: a name is unknown, or a limit is not a share.
    """
    return {
        _check_of(parameter, name): default if limit is None else _share_of(f"{parameter}.{name}", limit)
        for name, limit in _entries(parameter, value)
    }


def check_disjoint(ignored_parameter: str, ignored: Iterable[Check], parameter: str, limits: Limits) -> None:
    """Check that no check is both left out and limited.

    Raises:
        ConfigError: one is.
    """
    if both := set(ignored) & limits.keys():
        raise ConfigError(f"{min(both)} is in both {ignored_parameter} and {parameter}: remove it from one")


def missed_limits(parameter: str, limits: Limits, counts: HealthCounts) -> Iterator[str]:
    """A line for each check that is more frequent than its limit."""
    for check, limit in limits.items():
        if (share := counts.share(check)) > limit:
            of = "tasks" if check.is_of_task else "rollouts"
            yield f"{check} is {share:.4g} of the {of}, above {parameter}.{check}={limit:g} ({counts.example(check)})"


def _entries(parameter: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Names with their limits; None for a name without one."""
    if isinstance(value, Mapping):
        yield from ((str(name), limit) for name, limit in value.items())
    elif isinstance(value, str):
        for entry in value.strip("[]{} ").split(","):
            name, _, limit = (part.strip(" '\"") for part in entry.partition(":"))
            if name:
                yield name, limit or None
    elif isinstance(value, (list, tuple)):
        yield from ((str(name), None) for name in value)
    elif value is not None:
        raise ConfigError(f"{parameter} must be a list of checks, got {value!r}")


def _check_of(parameter: str, name: str) -> Check:
    known = {check.value: check for check in Check}
    if name not in known:
        hint = did_you_mean(name, known, otherwise=" (docs/health.md lists the checks)")
        raise ConfigError(f"{parameter}: {name!r} is not a check{hint}")
    return known[name]


def _share_of(name: str, value: Any) -> float:
    try:
        share = float(value) if not isinstance(value, bool) else -1.0
    except (TypeError, ValueError):
        share = -1.0
    if not (isfinite(share) and 0 <= share <= 1):
        raise ConfigError(f"{name} must be a share from 0 to 1, got {value!r}")
    return share
