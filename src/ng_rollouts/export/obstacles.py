"""The parts of rollouts that a trainer may have no place for: a phrase for each, and whether an example has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ng_rollouts.chat import text_of
from ng_rollouts.chat_items import IMAGE_TYPES, TEXT_TYPES
from ng_rollouts.export.example import Example
from ng_rollouts.export.trainer_rows import expected_answer
from ng_rollouts.types import Json

Applies = Callable[[Example], bool]
Obstacle = tuple[str, Applies]

_ALWAYS = frozenset({"role", "content"})
_TAGS = ("<image>", "<video>", "<audio>")
"""Tags that trainers replace with media, wherever they are in a text."""


def in_conversation(what: str, applies: Callable[[Json], bool]) -> Obstacle:
    """An obstacle in a message of the prompt or of the answer."""
    return what, lambda example: any(map(applies, [*example.prompt, *example.completion]))


def in_prompt(what: str, applies: Callable[[Json], bool]) -> Obstacle:
    """An obstacle in a message of the prompt."""
    return what, lambda example: any(map(applies, example.prompt))


def beyond(*fields: str) -> Callable[[Json], bool]:
    """A predicate: true for a message with more than role, text and these fields, or with parts that are not text.

    The content of a row with images has parts for them, which are another obstacle.
    """
    allowed = _ALWAYS | {*fields}

    def is_beyond(message: Json) -> bool:
        used = {name for name, value in message.items() if value not in (None, "", [])}
        # the name of a tool is that of the call as well
        names = {"name"} if message.get("role") == "tool" else set()
        is_text = _is_text(message.get("content")) and isinstance(message.get("reasoning_content"), str | None)
        return bool(used - allowed - names) or not is_text

    return is_beyond


def has_tag(message: Json) -> bool:
    """True for a message with a media tag in its text."""
    return any(tag in text for text in _texts(message.get("content")) for tag in _TAGS)


def has_tag_in_string(message: Json) -> bool:
    """True for a message whose content is text, not a list of parts, with a media tag in it."""
    return isinstance(message.get("content"), str) and has_tag(message)


def has_text_beside_calls(message: Json) -> bool:
    """True for a message with text and tool calls."""
    return bool(message.get("tool_calls")) and bool(text_of(message.get("content")))


def has_ambiguous_reasoning(message: Json) -> bool:
    """True for a message whose reasoning could not be separated again from its text if both were one text with tags."""
    reasoning = message.get("reasoning_content")
    return bool(reasoning) and "think>" in f"{reasoning}{text_of(message.get('content'))}"


def does_not_alternate(example: Example) -> bool:
    """True unless user or tool, and assistant, take turns after at most one system message; the last is the answer."""
    roles = [message.get("role") for message in [*example.prompt, *example.completion]]
    roles = roles[1:] if roles[:1] == ["system"] else roles
    expected = (("user", "tool"), ("assistant",))
    return len(roles) % 2 == 1 or any(role not in expected[place % 2] for place, role in enumerate(roles))


def has_several_turns(example: Example) -> bool:
    """True unless the prompt is one user message, after at most one system message."""
    return [message.get("role") for message in example.prompt] not in (["user"], ["system", "user"])


def has_no_gym_task(example: Example) -> bool:
    """True for a row without a request, or without the name of its agent."""
    agent = example.row.get("agent_ref")
    is_named = isinstance(agent, dict) and bool(agent.get("name"))
    return not is_named or not isinstance(example.row.get("responses_create_params"), dict)


IMAGES: Obstacle = ("images", lambda example: bool(example.images))
TOOLS: Obstacle = ("tools", lambda example: bool(example.columns.get("tools")))
SEVERAL_MESSAGES: Obstacle = ("answers of several messages", lambda example: len(example.completion) != 1)
REASONING: Obstacle = in_conversation("reasoning", lambda message: bool(message.get("reasoning_content")))
TAGS_BESIDE_IMAGES: Obstacle = (
    "tags such as <image> beside images",
    lambda example: bool(example.images) and any(map(has_tag, example.prompt)),
)
IMAGES_BESIDE_MORE: Obstacle = (
    "images beside tools or reasoning",
    lambda example: bool(example.images) and (TOOLS[1](example) or REASONING[1](example)),
)
NO_EXPECTED_ANSWER: Obstacle = ("no expected answer", lambda example: expected_answer(example.row) is None)
UNUSABLE_PROMPTS: tuple[Obstacle, ...] = (
    ("files or audio", lambda example: example.has_files),
    ("images in tool results", lambda example: example.has_images_in_tool_results),
    ("images without data", lambda example: example.has_images_without_data),
)
"""What a prompt alone can have that messages of text and images cannot; other recipes leave it out anyway."""


def _is_text(content: Any) -> bool:
    if content is None or isinstance(content, str):
        return True
    return isinstance(content, list) and all(map(_is_text_or_image, content))


def _is_text_or_image(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    return part.get("type") in IMAGE_TYPES or (part.get("type") in TEXT_TYPES and isinstance(part.get("text"), str))


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (part["text"] for part in _objects(content) if isinstance(part.get("text"), str))


def _objects(parts: Iterable[Any]) -> Iterator[Json]:
    return (part for part in parts if isinstance(part, dict))
