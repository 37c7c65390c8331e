"""The session of the attempt that the current asyncio task makes, and the tokens that it uses.

Context variables carry them to every request of the attempt, whichever agent, verifier or user's function sends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ng_rollouts.http.client import NO_HEADERS, Headers
from ng_rollouts.models.request import token_counts
from ng_rollouts.types import Tokens


@dataclass(slots=True)
class AttemptTokens:
    """The tokens that an attempt has used, as replies report them: those of its answers, and those of judges."""

    answers: Tokens = field(default_factory=Tokens)
    judges: Tokens = field(default_factory=Tokens)

    def add(self, other: AttemptTokens) -> None:
        """Add the tokens of another process, which made the attempt."""
        self.answers.add(other.answers.input, other.answers.output)
        self.judges.add(other.judges.input, other.judges.output)


_TOKENS: ContextVar[AttemptTokens | None] = ContextVar("tokens", default=None)
_HEADERS: ContextVar[Headers] = ContextVar("headers", default=NO_HEADERS)


@contextmanager
def counted_tokens() -> Iterator[AttemptTokens]:
    """Count the tokens that are used within the block, and in asyncio tasks that are created there."""
    tokens = AttemptTokens()
    before = _TOKENS.set(tokens)
    try:
        yield tokens
    finally:
        _TOKENS.reset(before)


def count_usage(usage: Any, *, is_judge: bool = False) -> None:
    """Count the `usage` of a reply for the current attempt, if there is one."""
    if (tokens := _TOKENS.get()) is not None:
        (tokens.judges if is_judge else tokens.answers).add(*token_counts(usage))


def count_tokens(other: AttemptTokens) -> None:
    """Count tokens that another process has used for the current attempt, if there is one."""
    if (tokens := _TOKENS.get()) is not None:
        tokens.add(other)


@contextmanager
def session(headers: Headers) -> Iterator[None]:
    """Send these headers with every request within the block, and in asyncio tasks that are created there."""
    before = _HEADERS.set(headers)
    try:
        yield
    finally:
        _HEADERS.reset(before)


def session_headers() -> Headers:
    """The headers of the current attempt's session; none outside of one."""
    return _HEADERS.get()
