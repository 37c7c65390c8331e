"""A verifier that calls your Python function."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass
from typing import Any

from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.jsonl import dumps
from ng_rollouts.types import Json
from ng_rollouts.user_code import guarded, import_callable
from ng_rollouts.verifiers.base import Verifier
from ng_rollouts.workers.process_pool import ProcessPool


@dataclass(slots=True, kw_only=True)
class PythonFunction(Verifier):
    """Calls `(row, response) -> reward or fields`.

    A coroutine function runs in the event loop. Any other function runs in a worker process.

    Attributes:
        name: `module.function` or `file.py:function`.
        seconds: the time limit of one call.
    """

    name: str
    process_pool: ProcessPool
    seconds: float = 30.0

    async def verify(self, row: Json, response: Json) -> Json:
        function = import_callable(self.name)
        if not inspect.iscoroutinefunction(function):
            result = await self.process_pool.run(call_by_name, self.name, row, response, seconds=self.seconds)
            return result_fields(result)
        try:
            async with asyncio.timeout(self.seconds):
                return result_fields(await guarded(function(row, response), FailureClass.VERIFIER_ERROR, self.name))
        except TimeoutError as error:
            message = f"{self.name} took more than {self.seconds:g} s"
            raise AttemptFailed(FailureClass.VERIFIER_TIMEOUT, message) from error


def call_by_name(name: str, row: Json, response: Json) -> Any:
    """Import and call a function. Workers receive its name, because a function of a file cannot be pickled."""
    return import_callable(name)(row, response)


def result_fields(returned: Any) -> Json:
    """Convert the return value of a verifier's function to result fields.

    Raises:
        AttemptFailed: it is neither a number nor a dict that can be JSON.
    """
    returned = _plain(returned)
    if isinstance(returned, (bool, int, float)):
        try:
            return {"reward": float(returned)}
        except OverflowError as error:
            message = "the verifier returned an integer that is too large for a reward"
            raise AttemptFailed(FailureClass.VERIFIER_ERROR, message) from error
    if isinstance(returned, dict):
        try:
            dumps(returned)
        except (TypeError, ValueError, RecursionError) as error:
            message = f"the verifier returned a value that is not JSON: {error}"
            raise AttemptFailed(FailureClass.VERIFIER_ERROR, message) from error
        return returned
    raise AttemptFailed(
        FailureClass.VERIFIER_ERROR, f"the verifier returned {type(returned).__name__}, not a number or a dict"
    )


def _plain(value: Any) -> Any:
    """A value without the scalars and arrays of numpy and torch, which have `item` or `tolist`."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (bool, int, str)) or value is None or type(value) is float:
        return value
    for method in ("tolist", "item"):  # numpy's float64 is a float, too: `tolist` makes it a plain one
        if callable(convert := getattr(value, method, None)):
            return convert()
    return value
