"""Functions of the user's own: found by name, run where what they do stays theirs."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from ng_rollouts.errors import AttemptFailed, ConfigError, FailureClass
from ng_rollouts.threads import run_in_thread

T = TypeVar("T")


def import_callable(name: str) -> Callable[..., Any]:
    """A function by its name: `module.function`, or `file.py:function`; modules of the working folder are found.

    Raises:
        ConfigError: there is none.
    """
    path, _, function = name.rpartition(":") if ":" in name else name.rpartition(".")
    try:
        found = getattr(import_module(path), function)
    except AttributeError as error:
        raise ConfigError(f"{name}: {path} has no {function!r}") from error
    if not callable(found):
        raise ConfigError(f"{name} is not a function")
    return found  # type: ignore[no-any-return]


def import_module(path: str) -> Any:
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


async def guarded(answer: Awaitable[T], failure_class: FailureClass, who: str) -> T:
    """What a coroutine of the user's returns.

    Raises:
        AttemptFailed: it raised, asked the program to end, or cancelled itself.
    """
    try:
        return await answer
    except AttemptFailed:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise AttemptFailed(failure_class, f"{who}: it was cancelled from within") from error
    except (Exception, SystemExit) as error:
        message = f"{who}: {type(error).__name__}: {error}"
        raise AttemptFailed(failure_class, message) from error


async def call_in_thread(function: Callable[..., T], **arguments: Any) -> T:
    """Call a plain function in a daemon thread.

    Raises:
        RuntimeError: it raised anything, including SystemExit and KeyboardInterrupt.
    """

    def call() -> T:
        try:
            return function(**arguments)
        except BaseException as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    return await run_in_thread(call)


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
