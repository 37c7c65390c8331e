"""Convert Responses API items to the steps of an ATIF trajectory.

A step of the agent is one call of the model with the results of its tool calls. Items do not say where a call of the
model ends: a tool result ends it, a second message, and the token ids of what was generated.
Source: Harbor's RFC 0001, Agent Trajectory Interchange Format, v1.7.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ng_rollouts.chat import reasoning_text, text_of
from ng_rollouts.chat_items import IMAGE_TYPES, arguments_text
from ng_rollouts.export.messages import image_url
from ng_rollouts.jsonl import loads
from ng_rollouts.outputs.from_atif import TOKEN_IDS
from ng_rollouts.types import Json

Lost = Counter[str]
"""Numbers of what a trajectory has in `extra` alone, by kind."""

_IMAGE = re.compile(
    r"data:image/(?P<data>png|jpe?g|gif|webp);base64,|https?://[^?#]*\.(?P<file>png|jpe?g|gif|webp)(?:$|[?#])",
    re.IGNORECASE,
)
"""The images that the specification allows: their type is in a data URI, or the extension of an address."""

_SOURCES = {"system": "system", "developer": "system"}
"""Sources of steps by the role of a message; all other roles are those of users."""

_CALLS = ("function_call", "custom_tool_call")
_RESULTS = ("function_call_output", "custom_tool_call_output")


class StepOf(NamedTuple):
    """A step without its number, and its items in the order in which it is read."""

    step: Json
    items: list[Json]


@dataclass(slots=True)
class _Turn:
    """The items of one step of the agent.

    Attributes:
        results: tool results, each with the id of its call; None if the call is not in this step.
        others: items that a step has no field for.
        has_ended: whether the item with the token ids of the model's reply is here, which is its last.
    """

    reasoning: list[Json] = field(default_factory=list)
    messages: list[Json] = field(default_factory=list)
    calls: list[Json] = field(default_factory=list)
    results: list[tuple[str | None, Json]] = field(default_factory=list)
    others: list[Json] = field(default_factory=list)
    has_ended: bool = False

    def takes(self, kind: str) -> bool:
        """True if an item of this type may belong to the same reply.

        Parallel calls may have reasoning before each of them.
        """
        if self.results or self.has_ended:
            return False
        if kind == "message":
            return not (self.messages or self.calls)
        return kind != "reasoning" or not self.messages or bool(self.calls)

    def add(self, kind: str, item: Json) -> None:
        """Add an item of the model's reply."""
        lists = {"reasoning": self.reasoning, "message": self.messages, **dict.fromkeys(_CALLS, self.calls)}
        lists.get(kind, self.others).append(item)
        self.has_ended = "generation_token_ids" in item

    def has_call(self, call_id: Any) -> bool:
        """True if the step has the call."""
        return call_id is not None and any(item.get("call_id") == call_id for item in self.calls)

    @property
    def generated(self) -> list[Json]:
        """The items of the model's reply, as a step is read."""
        return [*self.reasoning, *self.messages, *self.calls]


def steps_of(items: Iterable[Json], lost: Lost) -> list[StepOf]:
    """The steps of items, without numbers.

    Args:
        lost: counts what the steps have no field for.
    """
    turns: list[_Turn | Json] = []
    for item in items:
        kind = str(item.get("type") or "message")
        if kind == "message" and item.get("role", "user") != "assistant":
            turns.append(item)
        elif kind in _RESULTS:
            _add_result(turns, item)
        else:
            _last_turn(turns, kind).add(kind, item)
            if kind not in ("reasoning", "message", *_CALLS):
                lost[f"items of type {kind}"] += 1
    return [_agent_step(each, lost) if isinstance(each, _Turn) else _message_step(each, lost) for each in turns]


def _last_turn(turns: list[_Turn | Json], kind: str) -> _Turn:
    """The step that takes an item of this type: the last one, or a new one."""
    last = turns[-1] if turns else None
    if isinstance(last, _Turn) and (kind in _RESULTS or last.takes(kind)):
        return last
    turns.append(turn := _Turn())
    return turn


def _add_result(turns: list[_Turn | Json], item: Json) -> None:
    """Add a tool result to the step of its call, or if there is none, to the last step of the agent."""
    call_id = item.get("call_id")
    for turn in reversed(turns):
        if isinstance(turn, _Turn) and turn.has_call(call_id):
            turn.results.append((str(call_id), item))
            return
    _last_turn(turns, _RESULTS[0]).results.append((None, item))


def _message_step(item: Json, lost: Lost) -> StepOf:
    source = _SOURCES.get(str(item.get("role")), "user")
    return StepOf({"step_id": 0, "source": source, "message": _content(item.get("content"), lost)}, [item])


def _agent_step(turn: _Turn, lost: Lost) -> StepOf:
    step: Json = {"step_id": 0, "source": "agent", "message": ""}
    if turn.messages:
        step["message"] = _answer(turn.messages[0].get("content"), lost)
    if turn.reasoning:
        texts = [reasoning_text(item) for item in turn.reasoning]
        lost["reasoning without text"] += texts.count("")
        if text := "\n".join(filter(None, texts)):
            step["reasoning_content"] = text
    if turn.calls:
        step["tool_calls"] = [_call(item, number, lost) for number, item in enumerate(turn.calls)]
    if turn.results:
        step["observation"] = {"results": [_result(call_id, item, lost) for call_id, item in turn.results]}
    if metrics := _token_ids(turn.generated):
        step["metrics"] = metrics
    return StepOf(step, [*turn.generated, *(item for _, item in turn.results), *turn.others])


def _call(item: Json, number: int, lost: Lost) -> Json:
    call_id = item.get("call_id") or item.get("id")
    return {
        "tool_call_id": f"call_{number}" if call_id is None else str(call_id),
        "function_name": str(item.get("name") or ""),
        "arguments": _arguments(item, lost),
        **({"extra": item["extra"]} if isinstance(item.get("extra"), dict) else {}),
    }


def _arguments(item: Json, lost: Lost) -> Json:
    """The arguments of a call as an object, which the specification requires."""
    if item["type"] == "custom_tool_call":
        return {"input": item.get("input") or ""}
    try:
        value = loads(arguments_text(item.get("arguments")).encode())
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    lost["tool arguments that are not an object"] += 1
    return {}


def _result(call_id: str | None, item: Json, lost: Lost) -> Json:
    return {
        **({} if call_id is None else {"source_call_id": call_id}),
        "content": _content(item.get("output"), lost),
        **({"extra": item["extra"]} if isinstance(item.get("extra"), dict) else {}),
    }


def _answer(content: Any, lost: Lost) -> str | list[Json]:
    """The message of an agent. An empty one is a list with an empty text: an empty string means that there is none."""
    parts = _content(content, lost)
    if isinstance(parts, str):
        return parts or [{"type": "text", "text": ""}]
    return parts[0]["text"] if len(parts) == 1 and parts[0].get("text") else parts


def _content(content: Any, lost: Lost) -> str | list[Json]:
    """Text as it is, and a list of parts as parts of text and images."""
    if isinstance(content, list):
        return [made for part in content if (made := _part(part, lost)) is not None]
    return text_of(content)


def _part(part: Any, lost: Lost) -> Json | None:
    """A part in the form of the specification; None if it has no such form."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in IMAGE_TYPES:
        url = image_url(part)
        if match := _IMAGE.match(url):
            name = (match["data"] or match["file"]).lower().replace("jpg", "jpeg")
            return {"type": "image", "source": {"media_type": f"image/{name}", "path": url}}
        lost["images that are neither data nor an address with a known extension"] += 1
        return None
    text = text_of([part])
    if text or kind is None or "text" in part:
        return {"type": "text", "text": text}
    lost[f"parts of type {kind}"] += 1
    return None


def _token_ids(items: list[Json]) -> Json:
    """Token ids and log probabilities, if one item has those of the whole reply."""
    holders = [item for item in items if "generation_token_ids" in item]
    if len(holders) != 1:
        return {}
    return {name: holders[0][field] for name, field in TOKEN_IDS.items() if _are_numbers(holders[0].get(field))}


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) in (int, float) for each in value)
