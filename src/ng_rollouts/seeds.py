"""Read and move the seed of a request.

The seed is one of the sampling parameters. NeMo Gym's agents reject that key, so they get the seed in the JSON text of
`metadata.extra_body`.
"""

from __future__ import annotations

from typing import Any

from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.types import Json


def seed_of(params: Json) -> Any:
    """The seed of sampling parameters, from `seed` or else from `metadata.extra_body`; None if neither has one."""
    return params["seed"] if params.get("seed") is not None else _extra_body(params.get("metadata")).get("seed")


def seed_in_extra_body(request: Json) -> Json:
    """The request with its seed moved into the JSON text of `metadata.extra_body`. Its other keys are kept."""
    params = dict(request["responses_create_params"])
    extra = {**_extra_body(params.get("metadata")), "seed": params.pop("seed")}
    metadata = {**(params.get("metadata") or {}), "extra_body": dumps(extra).decode()}
    return {**request, "responses_create_params": {**params, "metadata": metadata}}


def _extra_body(metadata: Any) -> Json:
    """The object in the JSON text of `extra_body`; empty if it is not valid."""
    try:
        extra = loads(str(metadata["extra_body"]).encode())
    except (KeyError, TypeError, ValueError):
        return {}
    return extra if isinstance(extra, dict) else {}
