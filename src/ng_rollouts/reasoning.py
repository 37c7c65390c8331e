"""Reasoning in chat messages: servers have different fields and parts for it.

Source: the API references of DeepSeek, vLLM, OpenRouter, Ollama, Mistral, Anthropic and Gemini (OpenAI compatibility).
"""

from __future__ import annotations

import re
from typing import Any

from ng_rollouts.types import Json

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
"""Fields with the text: DeepSeek's and earlier vLLM's; vLLM's since 0.12 and OpenRouter's; Ollama's."""

_DETAIL_FIELDS = ("reasoning_details", "thinking_blocks")
"""Fields with the text and its signatures in blocks. Most servers send the text beside them, too."""

THINKING_TYPES = ("thinking", "redacted_thinking", "reasoning", "reasoning_text", "thought")
"""Types of content parts that are reasoning: Mistral's and Anthropic's, and those of other servers."""

_SENT_BACK = re.compile(
    "reasoning|think|thought|signature|encrypted|opaque|^extra_content$|^provider_specific_fields$", re.IGNORECASE
)
"""Names of fields by which a server recognises its own reasoning in the next request: texts, signatures, ciphertext."""

_TEXT_KEYS = ("thinking", "text", "reasoning", "reasoning_text", "content", "summary")
"""Keys of the text in a block of reasoning."""

_THOUGHT = re.compile(r"<think>.*?(?:</think>\s*|\Z)", re.DOTALL)


def is_sent_back(name: str) -> bool:
    """Whether a field of a message or of a call belongs to the reasoning, so that its server expects it back."""
    return _SENT_BACK.search(name) is not None


def thinking_parts(content: Any) -> list[Json]:
    """The parts of a message's content that are reasoning."""
    parts = content if isinstance(content, list) else [content]
    return [part for part in parts if isinstance(part, dict) and part.get("type") in THINKING_TYPES]


def reasoning_texts(message: Json) -> list[str]:
    """The texts of a message's reasoning, each once: servers may send the same text in several fields."""
    values = [*(message.get(name) for name in REASONING_FIELDS), *thinking_parts(message.get("content"))]
    texts = list(dict.fromkeys(filter(None, map(text_in, values))))
    details = [text_in(message.get(name)) for name in _DETAIL_FIELDS]
    return texts or list(filter(None, details))[:1]


def text_in(value: Any) -> str:
    """The text of reasoning in any form: text, a list of parts, or a part."""
    if isinstance(value, list):
        return "".join(map(text_in, value))
    if isinstance(value, dict):
        return next((text for key in _TEXT_KEYS if (text := text_in(value.get(key)))), "")
    return value if isinstance(value, str) else ""


def without_reasoning(message: Json) -> Json:
    """An assistant message without its reasoning: fields, parts, and `<think>` blocks of the text."""
    kept = {name: value for name, value in message.items() if not is_sent_back(name)}
    content = kept.get("content")
    if isinstance(content, str):
        kept["content"] = _without_think(content)
    elif isinstance(content, list):
        kept["content"] = [_text_part_without_think(part) for part in content if not thinking_parts([part])]
    return kept


def _text_part_without_think(part: Any) -> Any:
    has_text = isinstance(part, dict) and isinstance(part.get("text"), str)
    return {**part, "text": _without_think(part["text"])} if has_text else part


def _without_think(text: str) -> str:
    # some chat templates put the opening tag into the prompt
    return _THOUGHT.sub("", text).rpartition("</think>")[2].lstrip() if "think>" in text else text
