"""HTTP statuses that may be retried, and the `Retry-After` header."""

from __future__ import annotations

from email.utils import parsedate_to_datetime


def is_retryable(status: int) -> bool:
    """Whether the same request may succeed later (RFC 9110, 15.5.9, 15.6; RFC 6585; RFC 8470)."""
    return status in (408, 425, 429) or status >= 500


def retry_after_s(header: str | None, now: float) -> float | None:
    """Seconds to wait, from a `Retry-After` header; None if it is missing or not valid.

    Args:
        header: a number of seconds, or an HTTP date (RFC 9110, 10.2.3).
        now: seconds since 1970.
    """
    if header is None:
        return None
    header = header.strip()
    if header.isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
