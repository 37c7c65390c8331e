"""HTTP requests to model and agent servers, their addresses, and the token counts in the replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.jsonl import loads
from ng_rollouts.redaction import MASK
from ng_rollouts.types import MAX_TOKENS, Json

RESPONSES, CHAT = "responses", "chat_completions"
PATHS = {RESPONSES: "/responses", CHAT: "/chat/completions"}
"""The path of each API below the base address."""


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request: the path below the server's base address, the headers and the JSON body.

    Attributes:
        asks_for_logprobs: whether its parameters ask for log probabilities, `token_ids` aside.
    """

    path: str
    headers: dict[str, str]
    body: Json
    asks_for_logprobs: bool = False


INCLUDE_LOGPROBS = "message.output_text.logprobs"
"""The value of `include` by which a Responses request asks for log probabilities."""


_PARTS = ("input_tokens", "output_tokens")


def asks_for_logprobs(body: Json) -> bool:
    """Whether the reply should have log probabilities, by a field of either API."""
    return bool(body.get("logprobs") or body.get("top_logprobs") or INCLUDE_LOGPROBS in (body.get("include") or ()))


def pop_extra_body(fields: Json) -> Json:
    """Remove `extra_body` from the metadata and return it: body fields that the API itself does not define."""
    metadata = dict(fields.get("metadata") or {})  # a copy: all rollouts of a task share the row's own
    extra_body = metadata.pop("extra_body", None)
    if extra_body is None:
        return {}
    fields["metadata"] = metadata
    if not metadata:
        del fields["metadata"]
    try:
        # metadata values are strings in the API, so NeMo Gym's rows carry it as JSON text
        parsed = loads(extra_body.encode()) if isinstance(extra_body, str) else extra_body
    except ValueError as error:
        raise AttemptFailed(FailureClass.BAD_REQUEST, f"metadata.extra_body is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise AttemptFailed(FailureClass.BAD_REQUEST, "metadata.extra_body is not a JSON object")
    return parsed


def base_url(url: str) -> str:
    """Normalise a base address: remove the path of an API from its end, and add `/v1` if it has no path.

    A query, such as Azure's `api-version`, is kept.
    """
    url, mark, query = url.partition("?")
    url = url.rstrip("/")
    for path in PATHS.values():
        url = url.removesuffix(path)
    return (url if urlsplit(url).path else f"{url}/v1") + mark + query


def url_of(base: str, path: str) -> str:
    """The URL of a path under a base address, whose query stays behind the path."""
    url, mark, query = base.partition("?")
    return url + path + mark + query


def masked(headers: dict[str, str]) -> dict[str, str]:
    """Headers with the bearer token masked, for display."""
    return {name: f"Bearer {MASK}" if name == "authorization" else value for name, value in headers.items()}


def total_tokens(usage: Any) -> int:
    """The total tokens of a `usage` object, else the sum of its input and output tokens; 0 without usage."""
    if not isinstance(usage, dict):
        return 0
    total = usage.get("total_tokens")
    return _count(total) if isinstance(total, (int, float)) else sum(map(_count, map(usage.get, _PARTS)))


def token_counts(usage: Any) -> tuple[int, int]:
    """The input and the output tokens of a `usage` object; 0 for what it does not report."""
    return (_count(usage.get(_PARTS[0])), _count(usage.get(_PARTS[1]))) if isinstance(usage, dict) else (0, 0)


def _count(value: Any) -> int:
    """A number of tokens; 0 for anything that is none, such as 1e308."""
    return int(value) if isinstance(value, (int, float)) and 0 <= value <= MAX_TOKENS else 0
