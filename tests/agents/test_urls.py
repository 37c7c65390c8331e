"""Checks of URLs."""

from __future__ import annotations

from typing import Any

import pytest

from ng_rollouts.agents.urls import parse_urls
from ng_rollouts.errors import ConfigError


@pytest.mark.parametrize(
    "value",
    ["localhost:8000", "http://", 3, ["http://a", None], [], "http://a:1,http://b:2", "http://a:99999", "http://a b"],
)
def test_invalid_url_is_a_configuration_error(value: Any) -> None:
    """A value that is not an http or https URL with a host, or a list of them, is rejected."""
    with pytest.raises(ConfigError):
        parse_urls(value, "agent_url")
