"""A row as the page shows it."""

from __future__ import annotations

from ng_rollouts.export.examples import Example
from ng_rollouts.records import Json


def viewed(row: Json) -> Json:
    """The row, and beside it its chat messages where it does not have them itself."""
    example = Example(row)
    view = {"input": example.prompt, "output": example.completion}
    return row if all(row.get(name) == messages for name, messages in view.items()) else {**row, "_view": view}
