"""Replace files atomically: a reader sees the old file or the new one, never a part."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any


def back_up(path: Path) -> Path:
    """Rename a file to the first number that is free; where to."""
    aside = next(name for number in itertools.count(1) if not (name := Path(f"{path}.{number}")).exists())
    path.rename(aside)
    return aside


def write_json(path: Path, value: Any) -> None:
    """Put a file in place, whole or not at all.

    Raises:
        OSError: it could not be written.
    """
    temporary = path.with_name(path.name + ".writing")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
