"""Parse a reply: its JSON object, or the failure that it reports."""

from __future__ import annotations

import json
import time

from ng_rollouts.errors import MESSAGE_CHARACTERS, AttemptFailed, FailureClass, is_retryable_status
from ng_rollouts.http.client import Reply
from ng_rollouts.http.retry_after import retry_after_s
from ng_rollouts.jsonl import loads
from ng_rollouts.redaction import redact
from ng_rollouts.types import Json


def json_object(reply: Reply) -> Json:
    """The JSON object in a reply.

    Raises:
        AttemptFailed: the status is not 2xx, or the body is not a JSON object.
    """
    if not 200 <= reply.status < 300:
        raise AttemptFailed(
            f"http_{reply.status}",
            _excerpt(reply.body) or "no message",
            status=reply.status,
            retryable=is_retryable_status(reply.status),
            retry_after_s=retry_after_s(reply.header("retry-after"), time.time()),
        )
    try:
        result = loads(reply.body)
    except ValueError as error:
        if _is_lenient_json(reply.body):
            raise AttemptFailed(
                FailureClass.NOT_FINITE, "the reply has NaN or infinite numbers", status=reply.status
            ) from error
        message = f"the reply is not JSON ({error}): {_excerpt(reply.body[:200])}"
        raise AttemptFailed(FailureClass.NOT_JSON, message, status=reply.status) from error
    if not isinstance(result, dict):
        message = f"the reply is not an object: {_excerpt(reply.body[:200])}"
        raise AttemptFailed(FailureClass.NOT_OBJECT, message, status=reply.status)
    return result


def _is_lenient_json(body: bytes) -> bool:
    """Whether a body is JSON for the standard library, which also accepts NaN and infinite numbers."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _excerpt(body: bytes) -> str:
    """The beginning of a body as one line of text, without credentials."""
    # cut before decoding and before the regular expressions, because a body may have megabytes
    text = body[: 4 * MESSAGE_CHARACTERS].decode("utf-8", "replace")
    # before lines are joined, because a credential may be divided by a line break
    return " ".join(redact(text).split())[:MESSAGE_CHARACTERS]
