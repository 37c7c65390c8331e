"""The configuration of a Ray actor."""

from __future__ import annotations

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.executors.ray_worker import per_actor_config


def test_actors_share_the_rate_limit() -> None:
    """Each actor gets an equal share of `max_requests_per_minute`, so that together they respect it."""
    config = CollectConfig(input_jsonl_fpath="i", output_jsonl_fpath="o", max_requests_per_minute=240)
    assert per_actor_config(config, 2).max_requests_per_minute == 120
    assert per_actor_config(config, 2).max_tokens_per_minute is None
