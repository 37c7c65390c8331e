"""A verifier of the user's own: a Python function, by name."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass
from typing import Any

from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.types import Json
from ng_rollouts.user_code import guarded, import_callable
from ng_rollouts.verifiers.base import Verifier
from ng_rollouts.verifiers.process_pool import ProcessPool


@dataclass(slots=True, kw_only=True)
class PythonFunction(Verifier):
    """`(row, response) -> reward or fields`: a coroutine function runs in the loop, any other in a worker process."""

    name: str
    process_pool: ProcessPool
    seconds: float = 30.0

    async def verify(self, row: Json, response: Json) -> Json:
        function = import_callable(self.name)
        if not inspect.iscoroutinefunction(function):
            return fields_of(await self.process_pool.run(call_by_name, self.name, row, response, seconds=self.seconds))
        try:
            async with asyncio.timeout(self.seconds):
                return fields_of(await guarded(function(row, response), FailureClass.VERIFIER_ERROR, self.name))
        except TimeoutError as error:
            raise AttemptFailed(
                FailureClass.VERIFIER_TIMEOUT, f"{self.name} took more than {self.seconds:g} s"
            ) from error


def call_by_name(name: str, row: Json, response: Json) -> Any:
    """What a function returns; for a worker, which is handed names."""
    return import_callable(name)(row, response)


def fields_of(returned: Any) -> Json:
    """What a verifier's function returned, as fields of the row.

    Raises:
        AttemptFailed: it is neither a number nor an object.
    """
    if isinstance(returned, (bool, int, float)):
        return {"reward": float(returned)}
    if isinstance(returned, dict):
        return returned
    raise AttemptFailed(
        FailureClass.VERIFIER_ERROR, f"the verifier returned {type(returned).__name__}, not a number or a dict"
    )
