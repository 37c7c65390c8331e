"""The command's parameters as keywords of a Python program -> config: typed, with config groups by their names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Required, TypedDict, TypeVar, get_args, get_origin, get_type_hints

from ng_rollouts.config.groups import group_names, group_values, members
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import ConfigError, did_you_mean
from ng_rollouts.types import Json

T = TypeVar("T")

_Path = str | os.PathLike[str]


class Parameters(TypedDict, total=False):
    """Keywords of `collect` and `collect_groups`; what each means is in docs/parameters.md and `--help`."""

    input_jsonl_fpath: Required[_Path]
    output_jsonl_fpath: Required[_Path]
    limit: int | None
    num_repeats: int | Mapping[str, int] | None
    prompt_config: _Path | None
    training_view: bool
    materialized_inputs: bool
    overwrite: bool
    upload_to: _Path | None
    agent_name: str | None
    agent_url: str | Sequence[str] | None
    agents: Mapping[str, Mapping[str, Any]]
    head_server: Mapping[str, Any]
    policy_base_url: str | Sequence[str] | None
    policy_api_key: str | None
    policy_model_name: str | None
    policy_api: Literal["auto", "responses", "chat_completions"]
    resources_base_url: str | None
    tools: _Path | None
    max_steps: int
    responses_create_params: Mapping[str, Any]
    num_repeats_add_seed: bool
    num_samples_in_parallel: int | None
    dry_run: bool
    canary: int
    http_engine: Literal["auto", "pyreqwest", "httpx"]
    connect_timeout_s: float | None
    idle_timeout_s: float | None
    rollout_timeout_s: float | None
    wait_for_agent_s: float
    drain_s: float
    adaptive_parallelism: bool
    max_requests_per_minute: float | None
    max_tokens_per_minute: float | None
    max_total_tokens: int | None
    price_per_million: Mapping[str, float | None]
    resume_from_cache: bool
    retry_failed: bool
    max_attempts: int
    retry_budget_s: float | None
    max_failed_rollouts: int | float
    incomplete_groups: Literal["set_aside", "keep"]
    shard_index: int | None
    num_shards: int | None
    shard_from: Literal["slurm"] | None
    disable_aggregation: bool
    answer_key: str | None
    agent_side_metrics: Literal["auto", "never"]
    metrics_by: Literal["agent"] | None
    min_mean: Mapping[str, float]
    min_coverage: float
    status_file: _Path | None
    quiet: bool
    report: bool
    export: str | Sequence[str] | None
    export_project: str
    # config groups: a name, or the values themselves
    agent: str | Mapping[str, Any] | None
    executor: str | Mapping[str, Any] | None
    sampling: str | Mapping[str, Any] | None
    verifier: str | Mapping[str, Any] | None


def config_of(parameters: Mapping[str, Any]) -> CollectConfig:
    """The config of these keywords; config groups give way to what is given beside them.

    Raises:
        ConfigError: a keyword is not known, or its value is of another kind, or cannot be.
    """
    own = {name: value for name, value in parameters.items() if name not in group_names()}
    given: Json = {}
    for group in sorted(group_names() & parameters.keys()):
        given = _merged(given, _chosen(group, parameters[group]))
    return _made(CollectConfig, _merged(given, own), "")


def _chosen(group: str, value: Any) -> Mapping[str, Any]:
    """What a group says: one of its members by name, or what is in such a member; nothing if it is None.

    Raises:
        ConfigError: it is neither.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        return group_values(group, value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{group} must be a name ({', '.join(members(group))}) or a dict, got {value!r}")
    return {group: value} if group in {field.name for field in fields(CollectConfig)} else value


def _merged(under: Json, over: Mapping[str, Any]) -> Json:
    """Both, mappings within mappings; of what both have, the second's."""
    merged = dict(under)
    for name, value in over.items():
        below = under.get(name)
        merged[name] = _merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged


def _made(kind: type[T], values: Mapping[str, Any], prefix: str) -> T:
    """A dataclass of these values."""
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            nearby = [*known, *(group_names() if not prefix else ())]
            raise ConfigError(f"unknown parameter {prefix}{name}{did_you_mean(name, nearby)}")
    return kind(**{name: _fitting(f"{prefix}{name}", value, hints[name]) for name, value in values.items()})


def _fitting(name: str, value: Any, hint: Any) -> Any:
    """A value as its parameter takes it: paths as text, numbers of other libraries as Python's."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if hint is Any:
        return [os.fspath(each) if isinstance(each, Path) else each for each in value] if _is_list(value) else value
    if is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return _made(hint, value, f"{name}.")
        kinds = (hint,)
    for kind in kinds:
        plain = get_origin(kind) or kind
        if plain is float and isinstance(value, Real) and not isinstance(value, bool):
            return float(value)
        if plain is int and isinstance(value, Integral) and not isinstance(value, bool):
            return int(value)
        if plain is dict and isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, plain) and (plain is bool or not isinstance(value, bool)):
            return value
    wanted = " or ".join("None" if kind is NoneType else (get_origin(kind) or kind).__name__ for kind in kinds)
    raise ConfigError(f"{name} must be {wanted}, got {value!r}")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
