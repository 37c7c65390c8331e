"""Import and call the user's functions. Their exceptions become failed attempts and do not end the run."""

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

SAFE_PATH = "PYTHONSAFEPATH"
"""The environment variable for `python -P`, which imports nothing from the working folder."""


def import_callable(name: str) -> Callable[..., Any]:
    """Import a function by its name.

    Args:
        name: `module.function` or `file.py:function`. Modules in the working folder can be imported.

    Raises:
        ConfigError: the module cannot be imported, or has no such function.
    """
    path, _, function = name.rpartition(":") if ":" in name else name.rpartition(".")
    try:
        attribute = getattr(import_module(path), function)
    except AttributeError as error:
        raise ConfigError(f"{name}: {path} has no {function!r}") from error
    if not callable(attribute):
        raise ConfigError(f"{name} is not a function")
    return attribute  # type: ignore[no-any-return]


def import_module(path: str) -> Any:
    """Import a module by its dotted name or by the path of its file.

    Raises:
        ConfigError: the module cannot be imported.
    """
    if not path:
        raise ConfigError("a function must be named as module.function or file.py:function")
    try:
        if path.endswith(".py"):
            return _load_file(Path(path).expanduser().resolve())
        # the folder of a console script is in sys.path, but not the working folder
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(_first_of_packages(), str(Path.cwd()))
        return importlib.import_module(path)
    except (Exception, SystemExit) as error:  # the module runs when it is imported, and may raise anything
        raise ConfigError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error


def _first_of_packages() -> int:
    """The position in `sys.path` behind the standard library, which a module of the same name does not replace."""
    folders = ("site-packages", "dist-packages")
    return next((place for place, path in enumerate(sys.path) if path.endswith(folders)), len(sys.path))


async def guarded(call: Awaitable[T], failure_class: FailureClass, name: str) -> T:
    """Await a call of a user's coroutine function, and return its result.

    Args:
        failure_class: the class of the failure if the call raises an exception.
        name: the function's name, for messages.

    Raises:
        AttemptFailed: the call raised an exception or SystemExit, or cancelled itself.
    """
    try:
        return await call
    except AttemptFailed:  # raised by this package, such as by a model call in an agent
        raise
    except asyncio.CancelledError as error:
        # a cancellation by the run must continue; one that the user's code caused is a failure
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise AttemptFailed(failure_class, f"{name}: the function cancelled itself") from error
    except (Exception, SystemExit) as error:
        message = f"{name}: {type(error).__name__}: {error}"
        raise AttemptFailed(failure_class, message) from error


async def call_in_thread(function: Callable[..., T], **arguments: Any) -> T:
    """Call a function that is not a coroutine function, in a daemon thread.

    Raises:
        RuntimeError: the function raised an exception, including SystemExit and KeyboardInterrupt.
    """

    def call() -> T:
        try:
            return function(**arguments)
        except BaseException as error:  # `run_in_thread` passes on only subclasses of Exception
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    return await run_in_thread(call)


def _load_file(path: Path) -> Any:
    """The module of a file. A file is run once, even if several functions of it are used."""
    name = f"ng_rollouts_user_{path.stem}"
    module = sys.modules.get(name)
    if module is None or getattr(module, "__file__", None) != str(path):  # files in two folders may have one name
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError("no such file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # before it runs, because dataclasses and pickle look modules up there
        spec.loader.exec_module(module)
    return module
