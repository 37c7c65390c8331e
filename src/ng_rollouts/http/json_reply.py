"""Parse a reply: its JSON object, or the failure that it reports."""

from __future__ import annotations

import codecs
import gc
import json
import re
import time
from typing import Any

from ng_rollouts.errors import MESSAGE_CHARACTERS, AttemptFailed, FailureClass, is_retryable_status
from ng_rollouts.http.client import Reply
from ng_rollouts.http.retry_after import retry_after_s
from ng_rollouts.jsonl import NotFiniteError, TooDeepError, loads
from ng_rollouts.redaction import redact
from ng_rollouts.types import Json

_CHARSET = re.compile(r"charset=\"?([\w.:-]{1,40})", re.IGNORECASE)
_CHARSETS = ("utf", "iso8859", "cp", "koi8", "gb", "big5", "shift_jis", "euc")
"""Beginnings of the names of codecs for texts. Python has others, some of which take quadratic time."""

_LARGE_BYTES = 1_000_000

_MAX_VALUES = 50_000_000
"""Commas and opening brackets in a reply. Each value takes up to 100 bytes and 50 ns: a few gigabytes and seconds."""


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
        result = parsed(reply)
    except NotFiniteError as error:
        message = "the reply has NaN or infinite numbers"
        raise AttemptFailed(FailureClass.NOT_FINITE, message, status=reply.status) from error
    except TooDeepError as error:
        raise AttemptFailed(FailureClass.ODD_REPLY, "the reply is nested too deeply", status=reply.status) from error
    except ValueError as error:
        message = f"the reply is not JSON ({error}): {_excerpt(reply.body[:200])}"
        raise AttemptFailed(FailureClass.NOT_JSON, message, status=reply.status) from error
    if not isinstance(result, dict):
        message = f"the reply is not an object: {_excerpt(reply.body[:200])}"
        raise AttemptFailed(FailureClass.NOT_OBJECT, message, status=reply.status)
    return result


def parsed(reply: Reply) -> Any:
    """The JSON value in a reply, which may be in another encoding than UTF-8.

    Raises:
        AttemptFailed: `reply_too_large`, because of the number of its values.
        NotFiniteError, TooDeepError, ValueError: as `loads`.
    """
    if len(reply.body) > _LARGE_BYTES:
        return _parsed_large(reply)
    return _parsed(reply)


def _parsed_large(reply: Reply) -> Any:
    body = reply.body
    if len(body) > _MAX_VALUES and body.count(b",") + body.count(b"[") + body.count(b"{") > _MAX_VALUES:
        message = f"the reply has more than {_MAX_VALUES // 1_000_000} million values"
        raise AttemptFailed(FailureClass.REPLY_TOO_LARGE, message, status=reply.status)
    # the garbage collector would visit the growing value again and again: it takes three quarters of the time
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return _parsed(reply)
    finally:
        if was_enabled:
            gc.enable()


def _parsed(reply: Reply) -> Any:
    try:
        return loads(reply.body)
    except (NotFiniteError, TooDeepError):
        raise
    except ValueError:
        text = _as_utf8(reply)
        if text is None:
            raise
    return loads(text)


def _as_utf8(reply: Reply) -> bytes | None:
    """A body that is not plain UTF-8, converted to it; None if its encoding is not known."""
    # the standard library knows UTF-16, UTF-32 and byte-order marks by the first four bytes
    encoding: str = json.detect_encoding(reply.body)
    if encoding == "utf-8":
        charset = _CHARSET.search(reply.header("content-type") or "")
        encoding = charset[1] if charset else encoding
    try:
        name = codecs.lookup(encoding).name
        if name == "utf-8" or not name.startswith(_CHARSETS):
            return None
        return reply.body.decode(encoding).encode()
    except (LookupError, UnicodeError):
        return None


def _excerpt(body: bytes) -> str:
    """The beginning of a body as one line of text, without credentials."""
    # cut before decoding and before the regular expressions, because a body may have megabytes
    text = body[: 4 * MESSAGE_CHARACTERS].decode(json.detect_encoding(body), "replace")
    # before lines are joined, because a credential may be divided by a line break
    return " ".join(redact(text).split())[:MESSAGE_CHARACTERS]
