"""Hypothesis strategies and a comparison helper that several tests of metrics use."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ng_rollouts.types import RolloutStats

FLOATS = st.floats(-10, 10, allow_nan=False).map(lambda value: round(value, 3))

ROLLOUT_STATS = st.builds(
    lambda reward, tokens, answer: RolloutStats(
        scores={"reward": reward}, tokens={"output_tokens": tokens}, answer=answer
    ),
    st.sampled_from([0.0, 1.0, 0.5]),
    st.integers(0, 50),
    st.sampled_from(["x", "y", None]),
)
"""The statistics of one rollout, with binary and other rewards, and with or without an answer."""


def flatten(value: Any, name: str = "") -> dict[str, float]:
    """The numbers of nested objects and lists by dotted names, so that `pytest.approx` can compare them."""
    if isinstance(value, dict):
        return {
            key: number for each, inner in value.items() for key, number in flatten(inner, f"{name}.{each}").items()
        }
    if isinstance(value, list):
        return flatten(dict(enumerate(value)), name)
    return {name: float("-inf") if value is None else float(value)}
