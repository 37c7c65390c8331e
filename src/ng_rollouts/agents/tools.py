"""Tools from a Python module: the model may call each public function, described by its signature and docstring."""

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
    """The public functions of a module.

    Attributes:
        definitions: the functions as tools of the Responses API.

    Raises:
        ConfigError: the module cannot be imported, or has no public functions.
    """

    def __init__(self, module: str) -> None:
        loaded = import_module(module)
        # functions that the module only imports are not tools
        self._functions: dict[str, Callable[..., Any]] = {
            name: function
            for name, function in vars(loaded).items()
            if inspect.isfunction(function) and not name.startswith("_") and function.__module__ == loaded.__name__
        }
        if not self._functions:
            raise ConfigError(f"tools={module} has no public functions")
        self.definitions = [_definition(name, function) for name, function in self._functions.items()]

    async def call(self, name: str, arguments: Json) -> str:
        """Call a tool.

        Returns:
            The result as text: a string as it is, any other value as JSON. An error is `{"error": message}`, because
            the model can react to it.
        """
        function = self._functions.get(name)
        if function is None:
            return dumps({"error": f"unknown tool {name!r}: the tools are {', '.join(self._functions)}"}).decode()
        try:
            # wrong arguments must not look like an error of the function
            inspect.signature(function).bind(**arguments)
            # a plain function may block, so it must not run in the event loop
            is_plain = not inspect.iscoroutinefunction(function)
            result = call_in_thread(function, **arguments) if is_plain else function(**arguments)
            value = await guarded(result, FailureClass.TOOL_ERROR, name)
            return value if isinstance(value, str) else dumps(value).decode()
        except (AttemptFailed, TypeError, ValueError) as error:
            return dumps({"error": str(error)}).decode()


def _definition(name: str, function: Callable[..., Any]) -> Json:
    """A function as a tool of the Responses API; a parameter without a type hint is a string."""
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters
    required = [each for each, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    properties = {each: _schema(hints.get(each, str)) for each in parameters}
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    description = inspect.getdoc(function) or name
    return {"type": "function", "name": name, "description": description, "parameters": schema, "strict": False}


def _schema(hint: Any) -> Json:
    """The JSON Schema of a type hint; of a union, only the first type that is not None is described."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        members = [each for each in inner if each is not type(None)]
        return _schema(members[0])
    if origin is typing.Literal:
        return {"enum": list(inner)}
    kind = _JSON_TYPES.get(origin or hint, "string")
    return {"type": kind, "items": _schema(inner[0])} if kind == "array" and inner else {"type": kind}
