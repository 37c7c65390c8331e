"""A rollout as a training example: its prompt and completion as chat messages."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ng_rollouts.chat import chat_input, chat_output, is_chat, prompt_messages, text_of, tool_names
from ng_rollouts.export.config import ExportConfig
from ng_rollouts.export.messages import (
    FORM_OF_ROLLOUTS,
    WITH_IMAGES,
    MessageForm,
    chat_tool,
    has_files,
    has_images_in_answer,
    has_images_in_tool_results,
    image_urls,
    is_image_data,
    with_text_parts,
)
from ng_rollouts.export.tool_calls import (
    CALL_WITHOUT_RESULT,
    RESULT_WITHOUT_CALL,
    functions_called,
    has_object_arguments,
    mismatch,
    with_unique_ids,
)
from ng_rollouts.jsonl import dumps
from ng_rollouts.metrics.result_rows import scores_of_row, stats_of
from ng_rollouts.types import MASK, Json, RolloutStats

Skipped = Counter[str]
"""The number of skipped rollouts or groups, by reason."""


@dataclass(frozen=True)
class Example:
    """One rollout as a training example.

    Attributes:
        row: the row of a rollouts file.
        form: the form of its messages.
    """

    row: Json
    form: MessageForm = FORM_OF_ROLLOUTS

    @cached_property
    def prompt(self) -> list[Json]:
        """The prompt: the row's own chat messages in `input`, or else those made from its request.

        With images, it is always made from the request: the chat messages of a row have text only.
        """
        if self.images:
            messages = prompt_messages(self._params, WITH_IMAGES)
        else:
            messages = _messages(self.row.get("input")) or chat_input(self._params)
        return with_unique_ids(self.form.apply(messages))

    @cached_property
    def completion(self) -> list[Json]:
        """The answer: the row's own chat messages in `output`, or else those made from its response."""
        messages = _messages(self.row.get("output")) or chat_output(self.row.get("response"))
        if self.images:
            messages = [with_text_parts(message) for message in messages]
        return with_unique_ids([*self.prompt, *self.form.apply(messages)])[len(self.prompt) :]

    @cached_property
    def images(self) -> list[str]:
        """The images of the prompt as data URIs; empty if one of them has no data in the row."""
        urls = image_urls(self._params)
        return urls if all(map(is_image_data, urls)) else []

    @property
    def has_files(self) -> bool:
        """Whether the prompt has files or audio."""
        return has_files(self._params)

    @property
    def has_images_without_data(self) -> bool:
        """Whether the prompt has an image without data: only its address."""
        return not self.images and bool(image_urls(self._params))

    @property
    def _params(self) -> Json:
        params = self.row.get("responses_create_params")
        return params if isinstance(params, dict) else {}

    @property
    def response(self) -> Json:
        """The response; empty if the row has none."""
        response = self.row.get("response")
        return response if isinstance(response, dict) else {}

    @cached_property
    def stats(self) -> RolloutStats:
        """The scores, tokens and truncation of the row."""
        return stats_of(self.row)

    @cached_property
    def scores(self) -> dict[str, float]:
        """The scores of the row, also of a masked one."""
        return scores_of_row({**self.row, MASK: False}) if self.is_masked else self.stats.scores

    @property
    def is_masked(self) -> bool:
        """True for a masked row."""
        return self.stats.masked is not None

    @property
    def columns(self) -> Json:
        """The columns beside the messages: `tools` with their schemas, and `images`; neither if there are none."""
        tools = {"tools": [chat_tool(tool) for tool in self._tools]} if self._tools else {}
        return {**tools, "images": self.images} if self.images else tools

    @property
    def _tools(self) -> list[Any]:
        """The tools of the request, or else those that the response repeats."""
        for holder in (self._params, self.response):
            if isinstance(tools := holder.get("tools"), list) and tools:
                return tools
        return []

    @property
    def calls(self) -> list[Any]:
        """The name and arguments of each tool call in prompt and completion."""
        return list(functions_called([*self.prompt, *self.completion]))

    @property
    def has_calls_without_tools(self) -> bool:
        """Whether tools are called that the row does not define."""
        return bool(self.calls) and not self._tools

    @property
    def has_calls_of_undefined_tools(self) -> bool:
        """Whether a tool is called that is not among the row's tools."""
        names = tool_names(self._tools)
        # A name may be any JSON value, such as a list, which cannot be in a set.
        called = [call.get("name") for call in self.calls if isinstance(call, dict)]
        return any(not isinstance(name, str) or name not in names for name in called)

    @cached_property
    def mismatch(self) -> str | None:
        """The first way in which calls and results do not belong together; None if they do."""
        return mismatch([*self.prompt, *self.completion])

    @property
    def has_images_in_tool_results(self) -> bool:
        """Whether a tool returned an image, in the prompt or in the response."""
        return any(map(has_images_in_tool_results, (self._params.get("input"), self.response.get("output"))))

    @property
    def ends_without_an_answer(self) -> bool:
        """Whether the last message has neither text nor a call, but reasoning at most."""
        return not any(self.completion[-1].get(name) for name in ("content", "tool_calls"))

    @property
    def has_odd_arguments(self) -> bool:
        """Whether the arguments of a call should be an object, but the model wrote something else."""
        return self.form.tool_arguments == "object" and not all(map(has_object_arguments, self.calls))

    @property
    def text(self) -> str:
        """The contents of the assistant's messages, joined by newlines."""
        return "\n".join(text_of(message.get("content")) for message in self._assistant_messages)

    @property
    def has_answer(self) -> bool:
        """Whether the assistant wrote text or called a tool."""
        return any(message.get("content") or message.get("tool_calls") for message in self._assistant_messages)

    @property
    def _assistant_messages(self) -> list[Json]:
        return [message for message in self.completion if message.get("role") == "assistant"]

    def size(self, name: str) -> float | None:
        """The number of characters, tokens or turns of the assistant; None if the row has no token count."""
        if name == "tokens":
            return self.stats.tokens.get("output_tokens")
        return len(self._assistant_messages) if name == "turns" else len(self.text)

    def digest(self, dedupe: str) -> bytes:
        """A digest that duplicates have in common, for `dedupe=exact` or `normalised`."""
        content: Any = [self.prompt, self.images, self.completion]
        if dedupe == "normalised":
            # tool calls are compared exactly: case and white space can matter in arguments
            # call ids differ between rollouts
            calls = list(functions_called(self._assistant_messages))
            content = [self.prompt, self.images, " ".join(self.text.casefold().split()), calls]
        return hashlib.blake2b(dumps(content), digest_size=16).digest()


_UNUSABLE: dict[str, Callable[[Example], bool]] = {
    "failed responses": lambda example: example.response.get("status") not in (None, "completed", "incomplete"),
    "no prompt": lambda example: not example.prompt,
    "no assistant text": lambda example: not example.has_answer,
    "last message not the assistant's": lambda example: example.completion[-1].get("role") != "assistant",
    "last message without an answer": lambda example: example.ends_without_an_answer,
    CALL_WITHOUT_RESULT: lambda example: example.mismatch == CALL_WITHOUT_RESULT,
    RESULT_WITHOUT_CALL: lambda example: example.mismatch == RESULT_WITHOUT_CALL,
    "tool calls without tools": lambda example: example.has_calls_without_tools,
    "tool arguments that are not an object": lambda example: example.has_odd_arguments,
    "files or audio in the prompt": lambda example: example.has_files,
    "images in tool results": lambda example: example.has_images_in_tool_results,
    "images in the answer": lambda example: has_images_in_answer(example.response.get("output")),
    "images without data": lambda example: example.has_images_without_data,
    "calls of undefined tools": lambda example: example.has_calls_of_undefined_tools,
}
"""What no trainer can take, or must not be trained on: the reason, and whether it applies to a rollout."""


def usable(
    group: list[Example], config: ExportConfig, skipped: Skipped, obstacle: Callable[[Example], str | None]
) -> Iterator[tuple[Example, float]]:
    """The examples of a group that pass all filters, with their scores; the others are counted in `skipped`.

    Args:
        obstacle: what the trainer has no place for in an example; None if it can take all of it.
    """
    for example in group:
        reason = _skip_reason(example, config) or obstacle(example)
        if reason:
            skipped[reason] += 1
        else:
            yield example, example.scores[config.score]


def _skip_reason(example: Example, config: ExportConfig) -> str | None:
    """The first filter that an example fails, as a noun phrase for the summary; None if it passes all of them."""
    if example.is_masked and not config.keep_masked:
        return "masked"
    score = example.scores.get(config.score)
    if score is None:
        return f"no {config.score}"
    if example.stats.truncated and not config.keep_truncated:
        return "truncated"
    for reason, applies in _UNUSABLE.items():
        if applies(example):
            return reason
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
