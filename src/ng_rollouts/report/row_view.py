"""A row as the page reads it: the row itself, and its chat messages if the row does not contain them in that form."""

from __future__ import annotations

from collections.abc import Iterator

from ng_rollouts.export.example import Example
from ng_rollouts.jsonl import dumps
from ng_rollouts.report.rendered_text import render
from ng_rollouts.types import Json


def row_view(row: Json, *, renders: bool = True) -> bytes:
    """Three JSON texts with tabs between them: the row, its chat messages, and their rendered texts.

    The messages are null if they are the row's own fields, and the rendered texts if there is nothing to render. JSON
    text escapes tabs and newlines, so a view is always one line.

    Args:
        renders: whether to render Markdown, code and formulas.
    """
    example = Example(row)
    view = {"input": example.prompt, "output": example.completion}
    # With training_view=true, the row has the same messages: they are not stored twice.
    in_row = all(row.get(name) == messages for name, messages in view.items())
    trees = [_rendered(message) for message in [*example.prompt, *example.completion]] if renders else []
    return b"\t".join((dumps(row), dumps(None if in_row else view), dumps(trees if any(trees) else None)))


def text_length(row: Json) -> int:
    """The number of characters that `row_view` would render."""
    example = Example(row)
    return sum(len(text) for message in [*example.prompt, *example.completion] for text in _parts(message))


def _rendered(message: Json) -> Json | None:
    """The trees of a message's texts, as page.js reads them; None if it has no markup. Results of tools are data."""
    if message.get("role") == "tool":
        return None
    content, reasoning = message.get("content"), message.get("reasoning_content")
    trees: Json = {}
    if isinstance(content, str) and (tree := render(content)):
        trees["content"] = tree
    if isinstance(reasoning, str) and (tree := render(reasoning)):
        trees["reasoning"] = tree
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        parts = [render(text) if isinstance(text, str) else None for text in texts]
        if any(parts):
            trees["parts"] = parts
    return trees or None


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
