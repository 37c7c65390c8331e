"""Checks of parameters for which bounds or choices are not enough. They run when a configuration is made."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ng_rollouts.errors import ConfigError, require_extra

_CHECKED_SAMPLING = frozenset({"temperature", "top_p", "max_output_tokens", "seed"})
"""Sampling parameters with a range. Rows that set none of them, which most do, are not checked further."""

MAX_SECONDS = 1e8
"""Three years: longer than any run, and within the range of timers."""

INTEGRATIONS = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio", "parquet": "pyarrow"}
"""The integrations that can receive a finished run, and the module that each of them needs."""

_ZERO_NAMES = ("failed", "masked", "missing")
"""The names in `count_as_zero` that are not failure classes."""

_RAY: dict[str, Any] = {
    "kind": "ray",
    "address": None,
    "num_actors": None,
    "max_in_flight_per_actor": 1000,
    "num_cpus": 1.0,
    "resources": {},
    "runtime_env": {},
}
"""The options of executor=ray, with their defaults."""


def check_sampling(params: dict[str, Any], prefix: str) -> None:
    """Check the ranges of sampling parameters. Null is allowed: the model then uses its default.

    Raises:
        ConfigError: one is out of range or of the wrong type.
    """
    if _CHECKED_SAMPLING.isdisjoint(params):
        return
    _check_number(params, "temperature", 0.0, 2.0, prefix)
    _check_number(params, "top_p", 0.0, 1.0, prefix)
    for name, minimum in (("max_output_tokens", 1), ("seed", None)):
        value = params.get(name)
        if value is None:
            continue
        if not _is_int(value) or (minimum is not None and value < minimum):
            kind = "an integer" if minimum is None else "a positive integer"
            raise ConfigError(f"{prefix}{name} must be {kind}, got {value!r}")


def _check_number(params: dict[str, Any], name: str, low: float, high: float, prefix: str) -> None:
    value = params.get(name)
    if value is None:
        return
    # `bool` is a subclass of `int`, so it has to be excluded. NaN fails every comparison, so it is not in the range.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"{prefix}{name} must be a number from {low:g} to {high:g}, got {value!r}")


def executor_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of an executor, with defaults for those that are left out.

    Raises:
        ConfigError: an option is unknown or out of range, or the executor is not installed.
    """
    kind = options.get("kind", "local")
    if kind == "local":
        if extra := options.keys() - {"kind"}:
            raise ConfigError(f"executor.{min(extra)} needs +executor=ray: add it, or leave executor.{min(extra)} out")
        return {"kind": "local"}
    if kind != "ray":
        raise ConfigError(f"executor.kind must be local or ray, got {kind!r}")
    for name in options.keys() - _RAY.keys():
        raise ConfigError(f"executor has no option {name!r}: its options are {', '.join(_RAY)}")
    completed = {**_RAY, **options}
    _check_ray(completed)
    require_extra("ray", "ray", "executor=ray")
    return completed


def _check_ray(options: dict[str, Any]) -> None:
    for name in ("num_actors", "max_in_flight_per_actor"):
        value = options[name]
        if not (_is_int(value) and value > 0) and not (name == "num_actors" and value is None):
            raise ConfigError(f"executor.{name} must be a positive integer, got {value!r}")
    if not _is_amount(options["num_cpus"]):
        raise ConfigError(f"executor.num_cpus must be a number >= 0, got {options['num_cpus']!r}")
    for name, kind in (("address", str), ("resources", dict), ("runtime_env", dict)):
        if not isinstance(options[name], kind | None):
            wanted = "text" if kind is str else "a dict"
            raise ConfigError(f"executor.{name} must be {wanted} or null, got {options[name]!r}")
    for name, value in (options["resources"] or {}).items():
        if name in ("CPU", "GPU") or not _is_amount(value):
            raise ConfigError(
                f"executor.resources.{name} must be a number >= 0 of a custom resource other than CPU and GPU, "
                f"got {value!r}"
            )


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def zero_names(names: Any, classes: Any, *, missing: bool) -> list[str]:
    """The values of `count_as_zero` with those of NeMo Gym's parameters, as a list without duplicates.

    Args:
        names: value of `count_as_zero`: a list, or text with commas.
        classes: value of `count_failure_classes_as_zero`, likewise.
        missing: value of `count_missing_rollouts_as_zero`.

    Raises:
        ConfigError: a value is not a list of names, or has one that is probably misspelled.
    """
    listed = [
        *_names("count_as_zero", names),
        *_names("count_failure_classes_as_zero", classes),
        *(["missing"] if missing else []),
    ]
    if not listed:
        return []
    from difflib import get_close_matches  # noqa: PLC0415 - few runs need it

    for name in listed:
        # Failure classes have any name, such as `eval_missing`, but `Failed` and `mask` are not meant as such.
        if (
            name not in _ZERO_NAMES
            and "_" not in name
            and (near := get_close_matches(name.lower(), _ZERO_NAMES, n=1, cutoff=0.7))
        ):
            raise ConfigError(f"count_as_zero has {name!r}: did you mean {near[0]}?")
    return list(dict.fromkeys(listed))


def _names(parameter: str, value: Any) -> list[str]:
    if isinstance(value, str):
        value = [name.strip() for name in value.strip("[]").split(",")]
    names = [] if value is None else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{parameter} must be a list of names such as [failed,missing], got {value!r}")
    return [name for name in names if name]


class HedgeThreshold(NamedTuple):
    """How long a rollout is in flight before its second attempt: seconds, or a quantile of the run's durations."""

    seconds: float | None = None
    quantile: float = 0.0


def hedge_threshold(value: Any) -> HedgeThreshold | None:
    """The threshold that `hedge_after` gives; None for no second attempts.

    Raises:
        ConfigError: it is neither a number of seconds nor a percentile.
    """
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < MAX_SECONDS:
        return HedgeThreshold(float(value))
    if isinstance(value, str) and re.fullmatch(r"p\d\d(\.\d{1,2})?", value):
        return HedgeThreshold(quantile=float(value[1:]) / 100)
    raise ConfigError(f"hedge_after must be a number of seconds or a percentile such as p99, got {value!r}")


def integration_names(wanted: Any) -> list[str]:
    """The value of `export` as a list without duplicates.

    Raises:
        ConfigError: one of the names is unknown.
    """
    names = [] if wanted is None else wanted if isinstance(wanted, list) else [wanted]
    for name in names:
        if name not in INTEGRATIONS:
            raise ConfigError(f"export must be one of {', '.join(INTEGRATIONS)}, or a list of them, got {name!r}")
    # In the order of the user, which a set would not keep.
    return list(dict.fromkeys(names))


def check_repeats(num_repeats: Any) -> None:
    """Check `num_repeats`, a number or a dict by agent.

    Raises:
        ConfigError: one is not a positive integer.
    """
    by_agent = num_repeats if isinstance(num_repeats, dict) else {"": num_repeats}
    if not by_agent:
        raise ConfigError("num_repeats is empty: give a number, or {agent: number, _default: number}")
    for agent, repeats in by_agent.items():
        where = f"num_repeats for {agent}" if agent else "num_repeats"
        if not _is_int(repeats):
            several = ": add -m to run once for each value" if "," in str(repeats) else ""
            raise ConfigError(f"{where} must be an integer, got {repeats!r}{several}")
        if repeats < 1:
            raise ConfigError(f"{where} must be >= 1, got {repeats}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_max_failed(allowed: Any) -> None:
    """Check `max_failed_rollouts`, a count or a fraction.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(allowed, bool) or not isinstance(allowed, (int, float)) or not allowed >= 0:
        raise ConfigError(f"max_failed_rollouts must be a count or a fraction such as 0.01, got {allowed!r}")
    # The type decides: 1 is one rollout, 1.0 is all of them.
    if isinstance(allowed, float) and allowed > 1:
        raise ConfigError(f"max_failed_rollouts must be a whole count or a fraction up to 1.0, got {allowed!r}")


def check_min_mean(minimums: dict[str, Any]) -> None:
    """Check `min_mean`.

    Raises:
        ConfigError: a minimum is not a number.
    """
    for name, minimum in minimums.items():
        if isinstance(minimum, bool) or not isinstance(minimum, (int, float)):
            raise ConfigError(f"min_mean.{name} must be a number, got {minimum!r}")
