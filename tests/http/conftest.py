"""The HTTP engines, as a parameter of every test that asks for one."""

from __future__ import annotations

import sys

import pytest

ENGINES = ["pyreqwest", "httpx", "httpx over httpx-aiohttp"]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The value of `http_engine`; httpx once with its own transport and once with that of httpx-aiohttp."""
    name, _, transport = request.param.partition(" over ")
    if transport:
        monkeypatch.delitem(sys.modules, "httpx_aiohttp")
    return str(name)
