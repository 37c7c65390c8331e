"""What goes over the wire to a server, and what it is said to have taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ng_rollouts.redaction import MASK
from ng_rollouts.types import Json


@dataclass(frozen=True, slots=True)
class Request:
    """What goes over the wire."""

    path: str
    headers: dict[str, str]
    body: Json


def masked(headers: dict[str, str]) -> dict[str, str]:
    """Headers as they may be shown."""
    return {name: f"Bearer {MASK}" if name == "authorization" else value for name, value in headers.items()}


def total_tokens(usage: Any) -> int:
    """Tokens that a request took, by its usage; 0 if there is none."""
    if not isinstance(usage, dict):
        return 0
    total = usage.get("total_tokens")
    return int(total if isinstance(total, (int, float)) else sum(_counts(usage)))


def _counts(usage: Json) -> list[float]:
    values = (usage.get("input_tokens"), usage.get("output_tokens"))
    return [value for value in values if isinstance(value, (int, float))]
