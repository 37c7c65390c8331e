"""Addresses as they are typed."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ng_rollouts.errors import ConfigError
from ng_rollouts.redaction import redact


def parse_urls(value: Any, parameter: str) -> list[str]:
    """One URL or a list of them.

    Raises:
        ConfigError: one is no http URL, or there is none.
    """
    urls = value if isinstance(value, list) else [value]
    for url in urls:
        if not is_url(url):
            example = "a URL such as http://127.0.0.1:8000, or a list: [URL, URL]"
            raise ConfigError(f"{parameter} must be {example}; got {redact(str(url))!r}")
    if not urls:
        raise ConfigError(f"{parameter} is an empty list: give at least one URL")
    return list(urls)


def is_url(value: Any) -> bool:
    """Whether this is an http address that can be asked."""
    if not isinstance(value, str) or any(character.isspace() or character in ',<>"' for character in value):
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
