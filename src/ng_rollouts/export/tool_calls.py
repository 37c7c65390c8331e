"""Tool calls and their results in a conversation: whether they belong together, and under unique ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from ng_rollouts.types import Json

CALL_WITHOUT_RESULT = "tool calls without a result"
RESULT_WITHOUT_CALL = "tool results without a call"


def functions_called(messages: Iterable[Json]) -> Iterator[Any]:
    """The function of each tool call: its name and arguments."""
    for message in messages:
        for call in _calls(message):
            yield call.get("function") if isinstance(call, dict) else call


def has_object_arguments(call: Any) -> bool:
    """Whether the arguments of a tool call are an object."""
    return isinstance(call, dict) and isinstance(call.get("arguments"), dict)


def mismatch(messages: Iterable[Json]) -> str | None:
    """The first way in which calls and results do not belong together; None if they do.

    Calls in the last message are the answer, so they need no result. A result without an id belongs to the first open
    call.
    """
    waiting: list[Any] = []
    for message in messages:
        if message.get("role") == "tool":
            call_id = message.get("tool_call_id")
            if not waiting or (call_id is not None and call_id not in waiting):
                return RESULT_WITHOUT_CALL
            waiting.remove(call_id if call_id is not None else waiting[0])
        elif waiting:
            return CALL_WITHOUT_RESULT
        else:
            waiting = [call.get("id") if isinstance(call, dict) else None for call in _calls(message)]
    return None


def with_unique_ids(messages: Iterable[Json]) -> list[Json]:
    """The messages, with new ids for calls whose id an earlier call has; their results follow."""
    seen: set[Any] = set()
    renamed: dict[Any, list[Any]] = {}
    unique = []
    for message in messages:
        if message.get("role") == "tool":
            ids = renamed.get(message.get("tool_call_id"))
            unique.append({**message, "tool_call_id": ids.pop(0)} if ids else message)
            continue
        if calls := _calls(message):
            renamed = {}
            message = {**message, "tool_calls": [_renamed(call, seen, renamed) for call in calls]}  # noqa: PLW2901
        unique.append(message)
    return unique


def _renamed(call: Any, seen: set[Any], renamed: dict[Any, list[Any]]) -> Any:
    """A call with an id that is not in `seen`. `renamed` gets the ids that stand for an old one, in order."""
    old = call.get("id") if isinstance(call, dict) else None
    if old is None:
        return call
    new = old if old not in seen else next(each for n in count(2) if (each := f"{old}_{n}") not in seen)
    seen.add(new)
    renamed.setdefault(old, []).append(new)
    return {**call, "id": new}


def _calls(message: Json) -> list[Any]:
    calls = message.get("tool_calls")
    return calls if isinstance(calls, list) else []
