"""A row as the page reads it: the row itself, and its chat messages where it does not have them as such."""

from __future__ import annotations

from collections.abc import Iterator

from ng_rollouts.export.example import Example
from ng_rollouts.jsonl import dumps
from ng_rollouts.types import Json


def row_view(row: Json) -> bytes:
    """The row as JSON, and after a tab what is to be shown instead of its own messages; null if those will do."""
    example = Example(row)
    view = {"input": example.prompt, "output": example.completion}
    own = all(row.get(name) == messages for name, messages in view.items())
    return dumps(row) + b"\t" + dumps(None if own else view)


def text_of_message(row: Json) -> str:
    """All that was asked and answered, in lower case."""
    example = Example(row)
    return "\n".join(part for message in [*example.prompt, *example.completion] for part in _parts(message)).lower()


def _parts(message: Json) -> Iterator[str]:
    for name in ("reasoning_content", "content"):
        if isinstance(message.get(name), str):
            yield message[name]
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield from (str(function.get(name) or "") for name in ("name", "arguments"))
