"""Fixtures and helpers of the verifier tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ng_rollouts.workers.process_pool import ProcessPool


def response_with(text: str) -> Any:
    """A Response object with one assistant message."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"output": [{"type": "message", "role": "assistant", "content": content}]}


@pytest.fixture(scope="session")
def process_pool() -> Iterator[ProcessPool]:
    """Worker processes, shared by all tests because each of them takes a second to start."""
    pool = ProcessPool()
    pool.preload.add("math_verify")
    yield pool
    pool.stop()
