"""Tools from a Python module: each public function is one, its signature is what the model is told."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from ng_rollouts.errors import AttemptFailed, ConfigError, FailureClass
from ng_rollouts.jsonl import dumps
from ng_rollouts.types import Json
from ng_rollouts.user_code import call_in_thread, guarded, import_module

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}


class PythonTools:
    """The functions of a module, by name.

    Raises:
        ConfigError: the module cannot be imported, or has none.
    """

    def __init__(self, module: str) -> None:
        loaded = import_module(module)
        self._functions: dict[str, Callable[..., Any]] = {
            name: function
            for name, function in vars(loaded).items()
            if inspect.isfunction(function) and not name.startswith("_") and function.__module__ == loaded.__name__
        }
        if not self._functions:
            raise ConfigError(f"tools={module} has no public functions")
        self.described = [_described(name, function) for name, function in self._functions.items()]

    async def call(self, name: str, arguments: Json) -> str:
        """What a tool returns, as text; what it raises, as an object with `error`."""
        function = self._functions.get(name)
        if function is None:
            return dumps({"error": f"there is no tool {name!r}: {', '.join(self._functions)}"}).decode()
        try:
            inspect.signature(function).bind(**arguments)
            plain = not inspect.iscoroutinefunction(function)
            answer = call_in_thread(function, **arguments) if plain else function(**arguments)
            value = await guarded(answer, FailureClass.TOOL_ERROR, name)
            return value if isinstance(value, str) else dumps(value).decode()
        except (AttemptFailed, TypeError, ValueError) as error:  # the model is to read it
            return dumps({"error": str(error)}).decode()


def _described(name: str, function: Callable[..., Any]) -> Json:
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters
    required = [each for each, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    properties = {each: _schema(hints.get(each, str)) for each in parameters}
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    description = inspect.getdoc(function) or name
    return {"type": "function", "name": name, "description": description, "parameters": schema, "strict": False}


def _schema(hint: Any) -> Json:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        known = [each for each in inner if each is not type(None)]
        return _schema(known[0])
    if origin is typing.Literal:
        return {"enum": list(inner)}
    kind = _JSON_TYPES.get(origin or hint, "string")
    return {"type": kind, "items": _schema(inner[0])} if kind == "array" and inner else {"type": kind}
