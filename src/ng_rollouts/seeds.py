"""Where seeds are: among the sampling parameters, or, with NeMo Gym, in the JSON text of `metadata.extra_body`."""

from __future__ import annotations

from typing import Any

from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.types import Json


def seed_of(params: Json) -> Any:
    """The seed of sampling parameters, wherever it is; None if there is none."""
    return params["seed"] if params.get("seed") is not None else _extra_body(params.get("metadata")).get("seed")


def seed_in_extra_body(request: Json) -> Json:
    """The request with its seed moved into the JSON text of `metadata.extra_body`, beside what is there."""
    params = dict(request["responses_create_params"])
    extra = {**_extra_body(params.get("metadata")), "seed": params.pop("seed")}
    metadata = {**(params.get("metadata") or {}), "extra_body": dumps(extra).decode()}
    return {**request, "responses_create_params": {**params, "metadata": metadata}}


def _extra_body(metadata: Any) -> Json:
    try:
        extra = loads(str(metadata["extra_body"]).encode())
    except (KeyError, TypeError, ValueError):
        return {}
    return extra if isinstance(extra, dict) else {}
