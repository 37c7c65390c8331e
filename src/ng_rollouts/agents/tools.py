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
            if not name.startswith("_") and getattr(function, "__module__", None) == loaded.__name__
            if _is_function(function)
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


def _is_function(value: Any) -> bool:
    """True for a function, also one that `functools.lru_cache` wraps."""
    return callable(value) and not inspect.isclass(value) and inspect.isfunction(inspect.unwrap(value))


def _definition(name: str, function: Callable[..., Any]) -> Json:
    """A function as a tool of the Responses API; a parameter without a type hint is a string.

    `*args` and `**kwargs` are not described: they need no arguments.

    Raises:
        ConfigError: a parameter cannot be given by name, or the type hints cannot be read.
    """
    try:
        hints = typing.get_type_hints(inspect.unwrap(function))
    except Exception as error:  # hints are code of the module
        raise ConfigError(f"tools: the type hints of {name} cannot be read: {error}") from error
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.POSITIONAL_ONLY for parameter in parameters):
        raise ConfigError(f"tools: {name} has parameters that cannot be given by name: remove the / of its signature")
    named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    required = [each.name for each in named if each.default is inspect.Parameter.empty]
    properties = {each.name: _schema(hints.get(each.name, str)) for each in named}
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": takes_any}
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
