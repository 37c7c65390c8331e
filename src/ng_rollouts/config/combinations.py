"""Checks of parameters against one another."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ng_rollouts.config.validation import integration_names
from ng_rollouts.errors import ConfigError

if TYPE_CHECKING:
    from ng_rollouts.config.parameters import CollectConfig

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""A token (RFC 9110, 5.6.2)."""

_OWN_HEADERS = frozenset(
    "accept accept-encoding authorization connection content-encoding content-length content-type cookie host te "
    "trailer transfer-encoding upgrade user-agent".split()
)

ROLLOUT_LIMITS = ("max_rollout_tokens", "max_rollout_cost", "max_rollout_turns")
"""Parameters that limit the model calls of a rollout. They apply to model agents only."""


def check_combinations(config: CollectConfig) -> None:
    """Check that no parameter contradicts another, or has no effect without one.

    Raises:
        ConfigError: one does.
    """
    _check_model_server(config)
    _check_cost(config)
    _check_scoring(config)
    _check_resume(config)
    _check_routes(config)
    _check_dispatch(config)
    _check_gauges(config)
    _check_export(config)
    _check_time(config)
    _check_shards(config)
    _check_session(config)


def _check_session(config: CollectConfig) -> None:
    name = config.session_header
    if name is not None and (not _HEADER_NAME.fullmatch(name) or name.lower() in _OWN_HEADERS):
        raise ConfigError(f"session_header={name} must be the name of a header that requests do not have already")


def _check_routes(config: CollectConfig) -> None:
    default = config.agent_map.get("_default")
    if config.agent_name is not None and default not in (None, config.agent_name):
        raise ConfigError(
            f"agent_name={config.agent_name} and agent_map._default={default} name two agents for all rows: give one"
        )
    for key, agents in config.fan_out.items():
        names = agents if isinstance(agents, list) else []
        if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
            raise ConfigError(f"fan_out.{key} must be a list of different agents such as [a, b], got {agents!r}")
    if (config.environment_routing_mode == "legacy") != (config.environment_server_name is not None):
        raise ConfigError("environment_routing_mode=legacy and environment_server_name=NAME go together")


def _check_dispatch(config: CollectConfig) -> None:
    is_estimated = config.dispatch_field is not None or config.dispatch_from is not None
    if config.dispatch == "longest_first" and not is_estimated:
        raise ConfigError("dispatch=longest_first needs an estimate: add +dispatch_field=FIELD or +dispatch_from=FILE")
    if is_estimated and config.dispatch != "longest_first":
        raise ConfigError("dispatch_field and dispatch_from have no effect without dispatch=longest_first")
    if config.dispatch_field is not None and config.dispatch_from is not None:
        raise ConfigError("dispatch_field and dispatch_from both give an estimate: choose one")


def _check_gauges(config: CollectConfig) -> None:
    if config.engine_metrics_url is not None and not config.adaptive_parallelism:
        raise ConfigError("engine_metrics_url has no effect without adaptive_parallelism=true")


def _check_export(config: CollectConfig) -> None:
    if config.export_every_s is not None and not set(integration_names(config.export)) - {"parquet"}:
        raise ConfigError("export_every_s has no effect without a tracker: add +export=wandb, mlflow or trackio")


def _check_time(config: CollectConfig) -> None:
    if config.drain_margin_s is not None and config.dispatch_budget_s is None:
        raise ConfigError("drain_margin_s has no effect without dispatch_budget_s: give both")
    wall_s, margin_s = config.max_wall_s, config.wall_margin_s
    if wall_s is not None and margin_s is not None and margin_s >= wall_s:
        raise ConfigError(
            f"wall_margin_s={margin_s:g} leaves no time for rollouts: it must be less than max_wall_s={wall_s:g}"
        )


def _check_model_server(config: CollectConfig) -> None:
    if config.policy_api == "responses" and config.num_repeats_add_seed:
        raise ConfigError(
            "num_repeats_add_seed needs a seed, which /responses does not accept: use policy_api=chat_completions"
        )
    if config.policy_base_url is not None and config.agent_url is not None:
        raise ConfigError("agent_url is for an agent server, policy_base_url for a model server: give one of them")
    if config.resources_base_url and config.tools:
        raise ConfigError("resources_base_url and tools both provide tools: give one of them")
    # A model server can also be in an entry of `agents`, which is checked when the agents are resolved.
    if config.policy_base_url is None and not any(map(_may_call_model, config.agents.values())):
        for key in ("verifier", "resources_base_url", "tools", "token_ids", *ROLLOUT_LIMITS):
            if (value := getattr(config, key)) and value != "never":
                raise ConfigError(f"{key} needs a model server: add +policy_base_url=http://127.0.0.1:8000/v1")


def _may_call_model(entry: Any) -> bool:
    """True for an entry of `agents` that may call a model server in this process. One with an address does not."""
    return isinstance(entry, dict) and "url" not in entry


def _check_cost(config: CollectConfig) -> None:
    prices = config.price_per_million
    if config.max_rollout_cost is not None and prices.input is None and prices.output is None:
        raise ConfigError("max_rollout_cost needs prices: add +price_per_million.output=PRICE")


def _check_scoring(config: CollectConfig) -> None:
    if config.scoring != "defer":
        return
    # Which entries of `agents` are used is known when they are resolved.
    if config.policy_base_url is None and not any(map(_may_call_model, config.agents.values())):
        raise ConfigError(
            "scoring=defer is for a model server, +policy_base_url=http://127.0.0.1:8000/v1: agent servers score "
            "their answers themselves"
        )
    if config.min_mean:
        raise ConfigError("min_mean needs scores, and scoring=defer leaves them to ng_rescore_rollouts: give one")


def _check_resume(config: CollectConfig) -> None:
    if config.resume_from_cache and config.overwrite:
        raise ConfigError("resume_from_cache=true keeps the output, overwrite=true replaces it: choose one")


def _check_shards(config: CollectConfig) -> None:
    index, count = config.shard_index, config.num_shards
    # With shard_from, num_shards may still be given: a job array can have gaps.
    if config.shard_from is not None:
        if index is not None:
            raise ConfigError("shard_from=slurm and shard_index both set the shard: give one of them")
        return
    if (index is None) != (count is None):
        raise ConfigError("shard_index and num_shards go together: +shard_index=0 +num_shards=4")
    if index is not None and count is not None and index >= count:
        raise ConfigError(f"shard_index must be from 0 to num_shards - 1 = {count - 1}, got {index}")
