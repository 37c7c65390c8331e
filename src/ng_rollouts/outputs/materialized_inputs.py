"""The materialized inputs file: one row per planned rollout, as NeMo Gym's collector writes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ng_rollouts.jsonl import dumps
from ng_rollouts.seeds import seed_in_extra_body
from ng_rollouts.storage.atomic import replacing
from ng_rollouts.types import Rollout


def write_materialized_inputs(path: Path, rollouts: Iterable[Rollout]) -> None:
    """Replace the file atomically by one with a line for each planned rollout, in order.

    Raises:
        OSError: the file could not be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        for rollout in rollouts:
            request = rollout.request().body
            # NeMo Gym expects seeds in `metadata.extra_body`; the Responses API has no such parameter.
            has_seed = request["responses_create_params"].get("seed") is not None
            file.write(dumps(seed_in_extra_body(request) if has_seed else request) + b"\n")
