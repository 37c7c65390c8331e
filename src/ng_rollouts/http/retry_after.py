"""The `Retry-After` header."""

from __future__ import annotations


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
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - takes milliseconds, and few servers send a date

    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
