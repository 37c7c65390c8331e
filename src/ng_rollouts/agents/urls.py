"""URLs given by the user."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ng_rollouts.errors import ConfigError
from ng_rollouts.redaction import redact


def parse_urls(value: Any, parameter: str) -> list[str]:
    """Check one URL or a list of them.

    Args:
        parameter: the parameter that has the value, for messages.

    Returns:
        The URLs; at least one.

    Raises:
        ConfigError: a value is not an http or https URL, or the list is empty.
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
    """Whether a value is an http or https URL with a host."""
    # `urlsplit` accepts these characters; a comma usually means several URLs in one string
    if not isinstance(value, str) or any(character.isspace() or character in ',<>"' for character in value):
        return False
    try:
        parts = urlsplit(value)
        # reading the port raises ValueError if it is out of range
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
