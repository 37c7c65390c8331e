"""Chat messages in the form that trainers and chat templates take.

Source: TRL's dataset formats, and the chat templates of the models. Most templates walk the arguments of a tool call or
write them as JSON: text is then encoded twice, or is an error.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ng_rollouts.chat import Conversion, text_of, warn_of_unknown_in_prompt
from ng_rollouts.chat_items import IMAGE_TYPES, content_parts
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.reasoning import without_reasoning
from ng_rollouts.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageForm:
    """The form of messages. The default is that of rollouts.

    Attributes:
        keep_reasoning: whether messages keep their reasoning, in whichever field, part or tag it is.
        tool_arguments: arguments of tool calls as an `object`, or as a `string` of JSON.
        developer_role: what becomes of messages of the role `developer`: `system`, `keep` or `drop`.
    """

    keep_reasoning: bool = True
    tool_arguments: str = "string"
    developer_role: str = "keep"

    def apply(self, messages: Iterable[Json]) -> list[Json]:
        """The messages in this form."""
        made: list[Json] = []
        for message in messages:
            is_developer = message.get("role") == "developer"
            if is_developer and self.developer_role == "drop":
                continue
            converted = self._message(message)
            # most chat templates have one system message
            if is_developer and made and made[-1].get("role") == converted["role"] == "system":
                first = made.pop()
                converted = {**first, "content": _both(first.get("content"), converted.get("content"))}
            made.append(converted)
        return made

    def _message(self, message: Json) -> Json:
        message = dict(message)
        if message.get("role") == "developer" and self.developer_role == "system":
            message["role"] = "system"
        if not self.keep_reasoning and message.get("role") == "assistant":
            message = without_reasoning(message)
        if isinstance(calls := message.get("tool_calls"), list):
            message["tool_calls"] = [_call_with_arguments(call, self.tool_arguments) for call in calls]
        return message


_IMAGE_DATA = re.compile(r"data:image/(?:png|jpe?g|gif|webp|bmp|tiff);base64,", re.IGNORECASE)

FORM_OF_ROLLOUTS = MessageForm()


def has_images_in_tool_results(items: Any) -> bool:
    """Whether a tool returned an image, for which a `tool` message has no place."""
    results = [item for item in _objects(items) if "output" in item or item.get("role") == "tool"]
    return bool(image_urls({"input": results}))


def has_images_in_answer(items: Any) -> bool:
    """Whether the model answered with an image."""
    return bool(image_urls({"input": [item for item in _objects(items) if item.get("role") == "assistant"]}))


def image_urls(params: Json) -> list[str]:
    """The URL of each image in a request, in order; empty for an image that is a file on a server."""
    return [image_url(part) for part in _prompt_parts(params) if part.get("type") in IMAGE_TYPES]


def has_files(params: Json) -> bool:
    """Whether a request has files or audio, for which messages of text and images have no place."""
    return any(part.get("type") in ("input_file", "file", "input_audio", "audio") for part in _prompt_parts(params))


def is_image_data(url: str) -> bool:
    """Whether a URL is a data URI of an image that trainers can decode: not SVG, and in valid base64."""
    match = _IMAGE_DATA.match(url)
    if match is None:
        return False
    try:
        return bool(base64.b64decode(url[match.end() :], validate=True))
    except ValueError:
        return False


def with_text_parts(message: Json) -> Json:
    """A message whose content is a list of parts, as in all messages of a row with images."""
    return {**message, "content": _parts(message.get("content"))}


def chat_tool(tool: Any) -> Any:
    """A function tool in the format of Chat Completions, which chat templates expect: its fields under `function`.

    In the format of the Responses API, the fields are at the top level. Other tools are returned unchanged.
    """
    if not isinstance(tool, dict) or tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _both(first: Any, second: Any) -> Any:
    """Two contents as one, as text if both are text. Templates put parts together without a space between them."""
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    before, after = content_parts(first), content_parts(second)
    if before and after and _is_text(before[-1]) and _is_text(after[0]):
        joined = {**before[-1], "text": f"{before[-1]['text']}\n\n{after[0]['text']}"}
        return [*before[:-1], joined, *after[1:]]
    return [*before, *after]


def _is_text(part: Json) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def _call_with_arguments(call: Any, form: str) -> Any:
    if not isinstance(call, dict) or not isinstance(function := call.get("function"), dict):
        return call
    arguments = function.get("arguments")
    if form == "string" and not isinstance(arguments, str):
        arguments = dumps(arguments).decode()
    elif form == "object" and isinstance(arguments, str):
        # other text stays as it is: the filters leave such a rollout out
        with suppress(ValueError):
            arguments = loads(arguments.encode())
    return {**call, "function": {**function, "arguments": arguments}}


def _objects(items: Any) -> list[Json]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _prompt_parts(params: Json) -> Iterator[Json]:
    """The parts of all contents and tool outputs in a request."""
    for item in _objects(params.get("input")):
        for content in (item.get("content"), item.get("output")):
            yield from (part for part in (content if isinstance(content, list) else ()) if isinstance(part, dict))


def image_url(part: Json) -> str:
    url = part.get("image_url", part.get("image"))
    url = url.get("url") if isinstance(url, dict) else url
    return url if isinstance(url, str) else ""


def _parts(content: Any) -> list[Json]:
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return [
            {"type": "image"} if part.get("type") in IMAGE_TYPES else {"type": "text", "text": text_of([part])}
            for part in content
        ]
    return [{"type": "text", "text": text}] if (text := text_of(content)) else []


WITH_IMAGES = Conversion(
    content=_parts,
    answer=lambda item: {"content": _parts(item.get("content"))},
    no_content="",
    unknown=warn_of_unknown_in_prompt,
)
"""Keeps the place of each image, as `{"type": "image"}`."""
