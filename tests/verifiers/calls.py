"""Functions that the tests of the worker processes call in workers."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any


class NotPicklableError(Exception):
    """An exception that cannot be unpickled, as many with required arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def act(action: str, value: Any = None) -> Any:
    """Return a value, or do what the name of the action says."""
    match action:
        case "hang":
            time.sleep(600)
        case "slow":
            time.sleep(0.03)
        case "crash":
            os._exit(3)
        case "exit":
            sys.exit(3)
        case "error":
            raise NotPicklableError("un", "lucky")
        case "lambda":
            return lambda: value
        case "deep":
            for _ in range(100_000):
                value = [value]
    return value


def note_and_wait(folder: str, name: str, go_on: str) -> int:
    """Write the process's number to a file, and wait for another file."""
    draft = Path(folder) / f"{name}.draft"
    draft.write_text(str(os.getpid()))
    draft.rename(Path(folder) / name)
    while not (Path(folder) / go_on).exists():
        time.sleep(0.01)
    return os.getpid()
