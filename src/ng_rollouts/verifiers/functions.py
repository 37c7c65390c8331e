"""A verifier of the user's own: a Python function, by name."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ng_rollouts.errors import AttemptFailed, ConfigError
from ng_rollouts.records import Json
from ng_rollouts.verifiers.workers import Workers


@dataclass(slots=True, kw_only=True)
class PythonFunction:
    """`(row, response) -> reward or fields`: a coroutine function runs in the loop, any other in a worker process."""

    name: str
    workers: Workers
    seconds: float = 30.0
    scores: ClassVar[bool] = True

    def check(self, row: Json) -> None:
        """Any row will do."""

    async def verify(self, row: Json, response: Json) -> Json:
        function = imported(self.name)
        if not inspect.iscoroutinefunction(function):
            return fields_of(await self.workers.run(called, self.name, row, response, seconds=self.seconds))
        try:
            return fields_of(await function(row, response))
        except AttemptFailed:
            raise
        except Exception as error:
            raise AttemptFailed("verifier_error", f"{self.name}: {type(error).__name__}: {error}") from error


def imported(name: str) -> Callable[..., Any]:
    """A function by its name: `module.function`, or `file.py:function`; modules of the working folder are found.

    Raises:
        ConfigError: there is none.
    """
    path, _, function = name.rpartition(":") if ":" in name else name.rpartition(".")
    try:
        found = getattr(imported_module(path), function)
    except AttributeError as error:
        raise ConfigError(f"{name}: {path} has no {function!r}") from error
    if not callable(found):
        raise ConfigError(f"{name} is not a function")
    return found  # type: ignore[no-any-return]


def imported_module(path: str) -> Any:
    """A module by its dotted name or the path of its file.

    Raises:
        ConfigError: it cannot be imported.
    """
    if not path:
        raise ConfigError("a function is named as module.function or file.py:function")
    try:
        if path.endswith(".py"):
            return _loaded(Path(path).expanduser().resolve())
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(path)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error


def called(name: str, row: Json, response: Json) -> Any:
    """What a function returns; for a worker, which is handed names."""
    return imported(name)(row, response)


def fields_of(returned: Any) -> Json:
    """What a verifier's function returned, as fields of the row.

    Raises:
        AttemptFailed: it is neither a number nor an object.
    """
    if isinstance(returned, (bool, int, float)):
        return {"reward": float(returned)}
    if isinstance(returned, dict):
        return returned
    raise AttemptFailed("verifier_error", f"the verifier returned {type(returned).__name__}, not a number or a dict")


def _loaded(path: Path) -> Any:
    name = f"ng_rollouts_user_{path.stem}"
    module = sys.modules.get(name)
    if module is None or getattr(module, "__file__", None) != str(path):
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError("no such file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return module
