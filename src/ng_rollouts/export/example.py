"""A row of a file of rollouts -> what trainers call an example: prompt and completion as chat messages."""

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
"""Why rollouts or groups were left out, and how many."""


@dataclass(frozen=True)
class Example:
    """One rollout, ready to be trained on."""

    row: Json
    keep_reasoning: bool = True

    @cached_property
    def prompt(self) -> list[Json]:
        """What was asked."""
        asked = _messages(self.row.get("input"))
        params = self.row.get("responses_create_params")
        return asked or chat_input(params if isinstance(params, dict) else {})

    @cached_property
    def completion(self) -> list[Json]:
        """What was answered."""
        answered = _messages(self.row.get("output")) or chat_output(self.row.get("response"))
        return answered if self.keep_reasoning else [_without_reasoning(message) for message in answered]

    @cached_property
    def stats(self) -> RolloutStats:
        return stats_of(self.row)

    @property
    def tools(self) -> Json:
        """The tools that were offered, as JSON text: trainers take it so, and tables of rows need one type."""
        params = self.row.get("responses_create_params")
        tools = params.get("tools") if isinstance(params, dict) else None
        if not isinstance(tools, list) or not tools:
            return {}
        return {"tools": dumps([_as_chat_tool(tool) for tool in tools]).decode()}

    @property
    def text(self) -> str:
        """All that the assistant wrote."""
        return "\n".join(str(message.get("content") or "") for message in self._own)

    @property
    def has_answer(self) -> bool:
        return any(message.get("content") or message.get("tool_calls") for message in self._own)

    @property
    def _own(self) -> list[Json]:
        return [message for message in self.completion if message.get("role") == "assistant"]

    def _calls(self) -> Iterator[Any]:
        """The functions it called, with their arguments; call ids differ from rollout to rollout."""
        for message in self._own:
            calls = message.get("tool_calls")
            for call in calls if isinstance(calls, list) else ():
                yield call.get("function") if isinstance(call, dict) else call

    def size(self, what: str) -> float | None:
        """Its characters, tokens or turns; None if tokens are not told."""
        if what == "tokens":
            return self.stats.tokens.get("output_tokens")
        return len(self._own) if what == "turns" else len(self.text)

    def digest(self, dedupe: str) -> bytes:
        """The same for examples that are alike."""
        said: Any = [self.prompt, self.completion]
        if dedupe == "normalised":
            said = [self.prompt, " ".join(self.text.casefold().split()), list(self._calls())]
        return hashlib.blake2b(dumps(said), digest_size=16).digest()


def usable(group: list[Example], config: ExportConfig, skipped: Skipped) -> Iterator[tuple[Example, float]]:
    """Those of a group that can be trained on, with their scores; why others cannot be is counted."""
    for example in group:
        reason = _unfit(example, config)
        if reason:
            skipped[reason] += 1
        else:
            yield example, example.stats.scores[config.score]


def _unfit(example: Example, config: ExportConfig) -> str | None:
    score = example.stats.scores.get(config.score)
    if score is None:
        return f"no {config.score}"
    if not example.prompt:
        return "no prompt"
    if not example.has_answer:
        return "nothing said by the assistant"
    if example.stats.truncated and not config.keep_truncated:
        return "truncated"
    if config.min_reward is not None and score < config.min_reward:
        return f"{config.score} below {config.min_reward:g}"
    for what, (least, most) in config.bounds().items():
        size = example.size(what)
        if size is None:
            return f"{what} not told"
        if not least <= size <= most:
            return f"too {'few' if size < least else 'many'} {what}"
    return None


def _messages(value: Any) -> list[Json]:
    return value if is_chat(value) else []


def _without_reasoning(message: Json) -> Json:
    return {name: value for name, value in message.items() if name != "reasoning_content"}


def _as_chat_tool(tool: Any) -> Any:
    """A function of the Responses API as chat templates know it: its fields one floor down, under `function`."""
    if not isinstance(tool, dict) or tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
