"""The session of the attempt that the current asyncio task makes, and the tokens that it uses.

Context variables carry them to every request of the attempt, whichever agent, verifier or user's function sends it.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ng_rollouts.http.client import NO_HEADERS, Headers
from ng_rollouts.models.request import token_counts
from ng_rollouts.types import Tokens


@dataclass(slots=True)
class AttemptTokens:
    """The tokens that an attempt has used, as replies report them.

    Attributes:
        answers: those of its answers.
        judges: those of judges.
        unusable: those of the answers that no row has, because they failed, and were perhaps asked for again.
    """

    answers: Tokens = field(default_factory=Tokens)
    judges: Tokens = field(default_factory=Tokens)
    unusable: Tokens = field(default_factory=Tokens)

    def add(self, other: AttemptTokens) -> None:
        """Add the tokens of another process, which made the attempt."""
        for own, others in zip(self._kinds, other._kinds, strict=True):
            own.add(others.input, others.output)

    @property
    def _kinds(self) -> tuple[Tokens, ...]:
        return self.answers, self.judges, self.unusable


_TOKENS: ContextVar[AttemptTokens | None] = ContextVar("tokens", default=None)
_HEADERS: ContextVar[Headers] = ContextVar("headers", default=NO_HEADERS)


def count_tokens_of_task() -> AttemptTokens:
    """Count the tokens that the current asyncio task uses from now on, and the tasks that it creates.

    A task has its own context, so nothing has to be reset: this runs for every rollout.
    """
    tokens = AttemptTokens()
    _TOKENS.set(tokens)
    return tokens


def count_usage(usage: Any, *, is_judge: bool = False) -> None:
    """Count the `usage` of a reply for the current attempt, if there is one."""
    if (tokens := _TOKENS.get()) is not None:
        (tokens.judges if is_judge else tokens.answers).add(*token_counts(usage))


def count_unusable(usage: Any) -> None:
    """Count the `usage` of an answer that `count_usage` has counted, and that has failed since."""
    if (tokens := _TOKENS.get()) is not None:
        tokens.unusable.add(*token_counts(usage))


def count_tokens(other: AttemptTokens) -> None:
    """Count tokens that another process has used for the current attempt, if there is one."""
    if (tokens := _TOKENS.get()) is not None:
        tokens.add(other)


def begin_session(headers: Headers) -> None:
    """Send these headers with every request of the current asyncio task from now on, and of tasks that it creates."""
    _HEADERS.set(headers)


def session_headers() -> Headers:
    """The headers of the current attempt's session; none outside of one."""
    return _HEADERS.get()
