"""A rollout as a training example: its prompt and completion as chat messages."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ng_rollouts.chat import chat_input, chat_output, is_chat
from ng_rollouts.export.config import ExportConfig
from ng_rollouts.jsonl import dumps
from ng_rollouts.metrics.result_rows import stats_of
from ng_rollouts.types import Json, RolloutStats

Skipped = Counter[str]
"""The number of skipped rollouts or groups, by reason."""


@dataclass(frozen=True)
class Example:
    """One rollout as a training example.

    Attributes:
        row: the row of a rollouts file.
        keep_reasoning: whether messages keep `reasoning_content`.
    """

    row: Json
    keep_reasoning: bool = True

    @cached_property
    def prompt(self) -> list[Json]:
        """The prompt: the row's own chat messages in `input`, or else those made from its request."""
        prompt = _messages(self.row.get("input"))
        params = self.row.get("responses_create_params")
        return prompt or chat_input(params if isinstance(params, dict) else {})

    @cached_property
    def completion(self) -> list[Json]:
        """The answer: the row's own chat messages in `output`, or else those made from its response."""
        completion = _messages(self.row.get("output")) or chat_output(self.row.get("response"))
        return completion if self.keep_reasoning else [_without_reasoning(message) for message in completion]

    @cached_property
    def stats(self) -> RolloutStats:
        """The scores, tokens and truncation of the row."""
        return stats_of(self.row)

    @property
    def tools(self) -> Json:
        """`{"tools": JSON text}` with the tools of the request; empty if it has none.

        Trainers accept tools as JSON text. As objects, the schemas of different tools would not fit one column type.
        """
        params = self.row.get("responses_create_params")
        tools = params.get("tools") if isinstance(params, dict) else None
        if not isinstance(tools, list) or not tools:
            return {}
        return {"tools": dumps([_as_chat_tool(tool) for tool in tools]).decode()}

    @property
    def text(self) -> str:
        """The contents of the assistant's messages, joined by newlines."""
        return "\n".join(str(message.get("content") or "") for message in self._assistant_messages)

    @property
    def has_answer(self) -> bool:
        """Whether the assistant wrote text or called a tool."""
        return any(message.get("content") or message.get("tool_calls") for message in self._assistant_messages)

    @property
    def _assistant_messages(self) -> list[Json]:
        return [message for message in self.completion if message.get("role") == "assistant"]

    def _calls(self) -> Iterator[Any]:
        """The name and arguments of each tool call, without the call ids, which differ between rollouts."""
        for message in self._assistant_messages:
            calls = message.get("tool_calls")
            for call in calls if isinstance(calls, list) else ():
                yield call.get("function") if isinstance(call, dict) else call

    def size(self, name: str) -> float | None:
        """The number of characters, tokens or turns of the assistant; None if the row has no token count."""
        if name == "tokens":
            return self.stats.tokens.get("output_tokens")
        return len(self._assistant_messages) if name == "turns" else len(self.text)

    def digest(self, dedupe: str) -> bytes:
        """A digest that duplicates have in common, for `dedupe=exact` or `normalised`."""
        content: Any = [self.prompt, self.completion]
        if dedupe == "normalised":
            # tool calls are compared exactly: case and white space can matter in arguments
            content = [self.prompt, " ".join(self.text.casefold().split()), list(self._calls())]
        return hashlib.blake2b(dumps(content), digest_size=16).digest()


def usable(group: list[Example], config: ExportConfig, skipped: Skipped) -> Iterator[tuple[Example, float]]:
    """The examples of a group that pass all filters, with their scores; the others are counted in `skipped`."""
    for example in group:
        reason = _skip_reason(example, config)
        if reason:
            skipped[reason] += 1
        else:
            yield example, example.stats.scores[config.score]


def _skip_reason(example: Example, config: ExportConfig) -> str | None:
    """The first filter that an example fails, as a noun phrase for the summary; None if it passes all of them."""
    score = example.stats.scores.get(config.score)
    if score is None:
        return f"no {config.score}"
    if not example.prompt:
        return "no prompt"
    if not example.has_answer:
        return "no assistant text"
    if example.stats.truncated and not config.keep_truncated:
        return "truncated"
    if config.min_reward is not None and score < config.min_reward:
        return f"{config.score} below {config.min_reward:g}"
    for name, (minimum, maximum) in config.bounds().items():
        size = example.size(name)
        # only the token count can be missing: it comes from the response's usage
        if size is None:
            return "token count unknown"
        if not minimum <= size <= maximum:
            return f"too {'few' if size < minimum else 'many'} {name}"
    return None


def _messages(value: Any) -> list[Json]:
    return value if is_chat(value) else []


def _without_reasoning(message: Json) -> Json:
    return {name: value for name, value in message.items() if name != "reasoning_content"}


def _as_chat_tool(tool: Any) -> Any:
    """A function tool in the format of Chat Completions, which chat templates expect: its fields under `function`.

    In the format of the Responses API, the fields are at the top level. Other tools are returned unchanged.
    """
    if not isinstance(tool, dict) or tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
