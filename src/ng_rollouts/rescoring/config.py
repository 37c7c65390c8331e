"""The parameters of `ng_rescore_rollouts`, and the collector's parameters that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

from ng_rollouts.config.fields import REQUIRED, check_fields, param, same_as
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import ConfigError
from ng_rollouts.types import Json

_PARALLEL = 256
"""Rollouts in flight by default: enough to keep judges and worker processes busy, and few enough for any memory."""


@dataclass(frozen=True, kw_only=True)
class RescoreConfig:
    """Score the rollouts of a file again, without asking the model again, and print what changed."""

    rollouts_jsonl_fpath: str = param(
        REQUIRED, "Rollouts of this program, of NeMo Gym, or ATIF trajectories.", kind="path"
    )
    output_jsonl_fpath: str = param(REQUIRED, "The new file. The old one is not changed.", kind="path")
    verifier: dict[str, Any] = same_as(CollectConfig, "verifier")
    verifiers: dict[str, Any] = param(
        {},
        "Several verifiers under names: +verifiers.strict=math +verifiers.loose=mcqa. The first gives the reward.",
        kind="dict",
    )
    resources_base_url: str | None = param(
        None, "NeMo Gym resources server whose /verify scores the answers; it must be stateless.", kind="URL"
    )
    force: bool = param(False, "Use a resources server although it does not say that it is stateless.")
    only: str = param(
        "all",
        "Rollouts to score: `all`, `unscored` (without a reward, also those whose verifier failed), or `failed` (those "
        "whose verifier failed). Others are copied.",
        choices=("all", "unscored", "failed"),
    )
    where: dict[str, Any] = param(
        {}, "Score only rows with these values: +where.subject=algebra. Others are copied.", kind="dict"
    )
    agreement_with: str | None = param(
        None, "Field with human or other labels: report the agreement of the reward with it.", nonempty=True
    )
    tasks_jsonl_fpath: str | None = param(
        None,
        "The tasks that were collected, or their materialized inputs, for rows that lack the expected answer "
        "(null: <stem>_materialized_inputs.jsonl, if it exists).",
        kind="path",
    )
    training_view: bool = same_as(CollectConfig, "training_view")
    num_samples_in_parallel: int = param(_PARALLEL, "Maximum rollouts in flight.", minimum=1)
    resume_from_cache: bool = same_as(CollectConfig, "resume_from_cache")
    overwrite: bool = same_as(CollectConfig, "overwrite")
    max_attempts: int = same_as(CollectConfig, "max_attempts")
    retry_budget_s: float | None = same_as(CollectConfig, "retry_budget_s")
    max_failed_rollouts: int | float = same_as(CollectConfig, "max_failed_rollouts")
    incomplete_groups: str = same_as(CollectConfig, "incomplete_groups")
    max_requests_per_minute: float | None = same_as(CollectConfig, "max_requests_per_minute")
    max_tokens_per_minute: float | None = same_as(CollectConfig, "max_tokens_per_minute")
    rollout_timeout_s: float | None = same_as(CollectConfig, "rollout_timeout_s")
    wait_for_agent_s: float = same_as(CollectConfig, "wait_for_agent_s")
    drain_s: float = same_as(CollectConfig, "drain_s")
    http_engine: str = same_as(CollectConfig, "http_engine")
    answer_key: str | None = same_as(CollectConfig, "answer_key")
    min_mean: dict[str, float] = same_as(CollectConfig, "min_mean")
    report: bool = same_as(CollectConfig, "report")
    quiet: bool = same_as(CollectConfig, "quiet")

    def __post_init__(self) -> None:
        check_fields(self)
        given = [name for name in ("verifier", "verifiers", "resources_base_url") if getattr(self, name)]
        if not given:
            raise ConfigError(
                "nothing scores the answers: add +verifier=NAME, +verifiers.NAME=KIND or +resources_base_url=URL"
            )
        if len(given) > 1:
            raise ConfigError(f"{given[0]} and {given[1]} both score the answers: use +verifiers.NAME=... for several")
        if self.agreement_with in ("reward", "accuracy"):
            raise ConfigError(
                f"agreement_with={self.agreement_with} is the new score itself: the table of changes has the one before"
            )
        if self.only == "failed" and self.where:
            raise ConfigError("where has no effect with only=failed: failed rollouts have no scored row")

    @classmethod
    def of_run(cls, config: CollectConfig, rollouts_jsonl_fpath: str, verifier: Json) -> Self:
        """The parameters for scoring the answers that a run has collected."""
        names = {each.name for each in fields(cls)} & {each.name for each in fields(CollectConfig)}
        values = {name: getattr(config, name) for name in names - {"verifier", "resources_base_url"}}
        values["num_samples_in_parallel"] = config.num_samples_in_parallel or _PARALLEL
        return cls(rollouts_jsonl_fpath=rollouts_jsonl_fpath, verifier=verifier, **values)

    def as_collect_config(self) -> CollectConfig:
        """The parameters of the run that scores the rollouts."""
        own = {each.name for each in fields(self)} & {each.name for each in fields(CollectConfig)}
        values = {name: getattr(self, name) for name in own}
        return CollectConfig(
            **{**values, "verifier": {}, "resources_base_url": None},
            input_jsonl_fpath=self.rollouts_jsonl_fpath,
            agent_side_metrics="never",
        )
