"""Seeds in requests."""

from __future__ import annotations

from ng_rollouts.seeds import seed_in_extra_body, seed_of


def test_invalid_extra_body_is_replaced() -> None:
    """The seed is moved into `extra_body` even if the earlier value is not a JSON object."""
    row = {"responses_create_params": {"seed": 1, "metadata": {"extra_body": "not JSON"}}}
    moved = seed_in_extra_body(row)
    assert moved == {"responses_create_params": {"metadata": {"extra_body": '{"seed":1}'}}}
    assert seed_of(moved["responses_create_params"]) == 1
