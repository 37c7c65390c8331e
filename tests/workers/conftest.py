"""Fixtures of the tests of worker processes."""

from tests.verifiers.conftest import process_pool

__all__ = ["process_pool"]
