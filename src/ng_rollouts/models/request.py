"""HTTP requests to model and agent servers, and the token counts in their replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ng_rollouts.redaction import MASK
from ng_rollouts.types import MAX_TOKENS, Json


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request: the path below the server's base address, the headers and the JSON body."""

    path: str
    headers: dict[str, str]
    body: Json

    @property
    def asks_for_logprobs(self) -> bool:
        """Whether the reply should have log probabilities, by a field of either API."""
        include = self.body.get("include") or ()
        return bool(self.body.get("logprobs") or self.body.get("top_logprobs") or INCLUDE_LOGPROBS in include)


INCLUDE_LOGPROBS = "message.output_text.logprobs"
"""The value of `include` by which a Responses request asks for log probabilities."""


_PARTS = ("input_tokens", "output_tokens")


def masked(headers: dict[str, str]) -> dict[str, str]:
    """Headers with the bearer token masked, for display."""
    return {name: f"Bearer {MASK}" if name == "authorization" else value for name, value in headers.items()}


def total_tokens(usage: Any) -> int:
    """The total tokens of a `usage` object, else the sum of its input and output tokens; 0 without usage."""
    if not isinstance(usage, dict):
        return 0
    total = usage.get("total_tokens")
    return _count(total) if isinstance(total, (int, float)) else sum(map(_count, map(usage.get, _PARTS)))


def _count(value: Any) -> int:
    """A number of tokens; 0 for anything that is none, such as 1e308."""
    return int(value) if isinstance(value, (int, float)) and 0 <= value <= MAX_TOKENS else 0
