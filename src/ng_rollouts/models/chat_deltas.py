"""Put a chat completion together from the deltas of its event stream.

Servers cut texts, parts and calls anywhere, and repeat what they have sent in different ways.
Source: OpenAI's API reference of streaming; Mistral's for parts, OpenRouter's for `reasoning_details`.
"""

from __future__ import annotations

from io import SEEK_END, StringIO
from typing import Any

from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.reasoning import REASONING_FIELDS
from ng_rollouts.types import Json

_TEXTS = frozenset("text thinking content reasoning summary transcript data refusal arguments input".split())
"""Keys of parts whose values are pieces of a text. Other values, such as a signature, are whole."""

_IN_PIECES = frozenset({"delta", "logprobs", "token_ids"})
"""Fields of a choice of which each chunk has a piece. `token_ids` are vLLM's."""

_PIECES = frozenset(
    "text output_text refusal thinking reasoning reasoning_text thought reasoning.text reasoning.summary".split()
)
"""Types of parts that continue the part before them, without an index that says so."""


def completion_of(chunks: list[Json]) -> Json:
    """The completion whose deltas these chunks are.

    Raises:
        AttemptFailed: `truncated`, if the last chunk is missing.
    """
    message: Json = {"role": "assistant"}
    choice: Json = {"index": 0, "message": message, "finish_reason": None}
    completion: Json = {}
    for chunk in chunks:
        completion |= {name: value for name, value in chunk.items() if name != "choices" and value is not None}
        for each in chunk["choices"]:
            if not each.get("index"):
                _add_delta(message, each.get("delta") or {})
                choice |= {name: each[name] for name in each.keys() - _IN_PIECES if each[name] is not None}
                _add_logprobs(choice, each.get("logprobs"))
                if each.get("token_ids"):
                    choice.setdefault("token_ids", []).extend(each["token_ids"])
    if choice["finish_reason"] is None:
        raise AttemptFailed(FailureClass.TRUNCATED, "the event stream ended before its last event")
    return {**completion, "object": "chat.completion", "choices": [_without_buffers(choice)]}


def _text(old: Any, new: str) -> StringIO:
    """A text with a piece more, in a buffer: a string that grows would be copied again and again."""
    buffer = old if isinstance(old, StringIO) else StringIO(old or "", newline="")
    buffer.seek(0, SEEK_END)
    buffer.write(new)
    return buffer


def _without_buffers(value: Any) -> Any:
    """A value with strings in place of buffers."""
    if isinstance(value, StringIO):
        return value.getvalue()
    if isinstance(value, dict):
        return {name: _without_buffers(each) for name, each in value.items()}
    return [_without_buffers(each) for each in value] if isinstance(value, list) else value


def _add_delta(message: Json, delta: Json) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            for call in [value] if isinstance(value, dict) else value or []:
                message.setdefault("tool_calls", _Calls()).add(call)
        elif name == "function_call" and isinstance(value, dict):
            _add_function(message.setdefault("function_call", {}), value)
        elif value == message.get(name) and name not in (*_TEXTS, *REASONING_FIELDS):
            continue  # such as a signature, which is not text that could repeat itself
        elif name != "role" and value is not None:
            is_text = name in _TEXTS or name in REASONING_FIELDS or not isinstance(value, str)
            message[name] = _joined(message.get(name), value) if is_text else value


def _joined(old: Any, new: Any) -> Any:
    """A value with what a delta adds to it: text to text, parts to parts; text beside parts becomes a part."""
    if isinstance(new, str) and (old is None or isinstance(old, (str, StringIO))):
        return _text(old, new)
    old = _without_buffers(old) if isinstance(old, StringIO) else old
    if isinstance(old, list) or isinstance(new, list):
        joined = old if isinstance(old, _Parts) else _Parts()
        for part in [*([] if joined is old else _parts(old)), *_parts(new)]:
            joined.add(part)
        return joined
    if isinstance(old, dict) and isinstance(new, dict):
        return _joined_part(old, new)
    return new


def _parts(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [{"type": "text", "text": value}] if value else []
    return value if isinstance(value, list) else [] if value is None else [value]


class _Parts(list[Any]):
    """The parts of a message. A delta adds to them in place, and finds its part by a key: both take constant time."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[str, int] = {}

    def add(self, part: Any) -> None:
        """Add a part to the one that it continues: the one with its index, or else the last one if that is open."""
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if part.get("index") is not None:
            place = self._places.get(_key(part))
        else:
            is_open = bool(self) and _key(self[-1]) == _key(part) and not self[-1].get("signature")
            place = len(self) - 1 if is_open and part.get("type") in _PIECES else None
        if place is None:
            self._places.setdefault(_key(part), len(self))
            self.append(part)
        else:
            self[place] = _joined_part(self[place], part)


def _key(part: Json) -> str:
    """Index and type of a part. As text, because a server may send lists, which cannot be keys."""
    return repr((part.get("index"), part.get("type")))


def _joined_part(old: Json, new: Json) -> Json:
    joined = {name: _joined(old.get(name), value) if name in _TEXTS else value for name, value in new.items()}
    return {**old, **{name: value for name, value in joined.items() if value is not None}}


class _Calls(list[Json]):
    """The tool calls of a message. A delta finds its call by index or id, in constant time."""

    def __init__(self) -> None:
        super().__init__()
        self._by_index: dict[str, Json] = {}
        self._by_id: dict[str, Json] = {}

    def add(self, delta: Json) -> None:
        """Add a part of a tool call to its call, or a new call."""
        call = self._call_of(delta)
        if call is None:
            self.append(call := {})
        whole = {name: value for name, value in delta.items() if name not in ("function", "custom")}
        call |= {name: value for name, value in whole.items() if value not in (None, "")}
        # The last call with an index, and the first with an id.
        self._by_index[repr(call.get("index"))] = call
        self._by_id.setdefault(repr(call.get("id")), call)
        for name in ("function", "custom"):
            if isinstance(delta.get(name), dict):
                _add_function(call.setdefault(name, {}), delta[name])

    def _call_of(self, delta: Json) -> Json | None:
        """The call that a delta continues: the one with its index or id; without both, the last one. None: a new call.

        Some servers give every call the index 0: another id is another call.
        """
        index, call_id = delta.get("index"), delta.get("id")
        if index is not None:
            continued = self._by_index.get(repr(index))
            is_other = continued is not None and call_id and continued.get("id") not in (None, call_id)
            return None if is_other else continued
        if call_id:
            return self._by_id.get(repr(call_id))
        has_name = any((delta.get(kind) or {}).get("name") for kind in ("function", "custom"))
        return self[-1] if self and not has_name else None


def _add_function(function: Json, delta: Json) -> None:
    """Add the pieces of a name, of arguments or of an input. Some servers repeat the name in every delta."""
    for name, value in delta.items():
        if value is None or (name == "name" and value == function.get(name)):
            continue
        is_piece = name in ("name", "arguments", "input") and isinstance(value, str)
        if name == "name" or not is_piece:
            function[name] = (function.get(name) or "") + value if is_piece else value
        else:
            function[name] = _text(function.get(name), value)


def _add_logprobs(choice: Json, logprobs: Any) -> None:
    if isinstance(logprobs, dict) and logprobs.get("content"):
        choice.setdefault("logprobs", {"content": []})["content"] += logprobs["content"]
