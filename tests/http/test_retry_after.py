"""The `Retry-After` header."""

from __future__ import annotations

import pytest

from ng_rollouts.http.retry_after import retry_after_s


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 3 ", 3),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 60),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("soon", None),
        (None, None),
        ("-1", None),
    ],
)
def test_retry_after_is_seconds_or_an_http_date(header: str | None, seconds: float | None) -> None:
    """A number of seconds and an HTTP date are understood, a date in the past is 0, and any other value is ignored."""
    assert retry_after_s(header, now=40) == seconds
