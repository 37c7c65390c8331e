"""A row as the page reads it: the row itself, and its chat messages if the row does not contain them in that form."""

from __future__ import annotations

from collections.abc import Iterator

from ng_rollouts.export.example import Example
from ng_rollouts.jsonl import dumps
from ng_rollouts.types import Json


def row_view(row: Json) -> bytes:
    """The row as JSON, a tab, and the chat messages to show as JSON; null if they are the row's own fields.

    JSON text escapes tabs and newlines, so the first tab is the separator, and a view is always one line.
    """
    example = Example(row)
    view = {"input": example.prompt, "output": example.completion}
    # With training_view=true, the row has the same messages: they are not stored twice.
    in_row = all(row.get(name) == messages for name, messages in view.items())
    return dumps(row) + b"\t" + dumps(None if in_row else view)


def searchable_text(row: Json) -> str:
    """The text of all messages of a row, in lower case. `searchableText` in page.js does the same without a server."""
    example = Example(row)
    return "\n".join(part for message in [*example.prompt, *example.completion] for part in _parts(message)).lower()


def _parts(message: Json) -> Iterator[str]:
    content = message.get("content")
    texts = [part.get("text") for part in content if isinstance(part, dict)] if isinstance(content, list) else [content]
    yield from (text for text in (message.get("reasoning_content"), *texts) if isinstance(text, str))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield from (str(function.get(name) or "") for name in ("name", "arguments"))
