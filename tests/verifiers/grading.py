"""Grade answers by the built verifiers, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.verifiers.base import Verifier
from ng_rollouts.verifiers.registry import build_verifier, verifier_options


class SameProcess:
    """A `ProcessPool` that calls functions at once. Starting workers takes longer than most cases."""

    def __init__(self) -> None:
        self.preload: set[str] = set()

    async def run(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """Call a function and return its result."""
        return function(*arguments)


class FixedReply:
    """A model server whose only reply is a text."""

    load_balancer = None
    text = ""

    async def respond(self, params: Any, task: int) -> Any:
        """The response of the server."""
        return response_of(self.text)


def response_of(text: str) -> Any:
    """A Response object with one assistant message."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"output": [{"type": "message", "role": "assistant", "content": content}]}


class Grader:
    """A built verifier. For `judge`, the answer is what the judge says."""

    def __init__(self, kind: str, **options: Any) -> None:
        self._judge = FixedReply()
        options = {"kind": kind, **options, **({"attempts": 1} if kind == "judge" else {})}
        server: Any = lambda _: self._judge  # noqa: E731
        pool: Any = SameProcess()
        self._verifier: Verifier = build_verifier(verifier_options(options), pool, server)
        self._is_judge = kind == "judge"

    def fields(self, answer: str, row: Any) -> Any:
        """The result fields of an answer, or `{"failure": CLASS}`."""
        row = {"_ng_task_index": 0, "responses_create_params": {"input": "?"}, **row}
        self._verifier.check(row)
        if self._is_judge:
            self._judge.text, answer = answer, "so it is"
        try:
            return asyncio.run(self._verifier.verify(row, response_of(answer)))
        except AttemptFailed as failure:
            return {"failure": str(failure.failure_class)}

    def grade(self, answer: str, row: Any) -> float | str:
        """The reward of an answer, or the class of its failure."""
        fields = self.fields(answer, row)
        graded: float | str = fields["failure"] if "failure" in fields else fields["reward"]
        return graded
