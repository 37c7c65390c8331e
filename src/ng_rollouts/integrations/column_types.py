"""What values of JSON have in common, so that rows fit the columns of a table.

A shape is None (nothing but null was seen), "bool", "int", "float", "text", "json", a list's ["list", shape] or an
object's {field: shape}. What has no shape of its own (a field that is text here and a list there, an empty object, an
integer beyond 64 bits) is "json": its JSON text.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from ng_rollouts.jsonl import dumps

ColumnType: TypeAlias = "str | tuple[str, ColumnType] | dict[str, ColumnType] | None"

_MOST_FIELDS = 100
"""An object of more fields is a mapping rather than a record."""


def type_of_value(value: Any) -> ColumnType:
    """The shape of one value."""
    match value:
        case None:
            return None
        case bool():
            return "bool"
        case int():
            return "int" if -(2**63) <= value < 2**63 else "json"
        case float():
            return "float"
        case str():
            return "text" if _is_unicode(value) else "json"
        case list():
            inner: ColumnType = None
            for each in value:
                inner = unify(inner, type_of_value(each))
            return "list", inner
        case _:
            return _of_fields({name: type_of_value(inner) for name, inner in value.items()})


def unify(one: ColumnType, other: ColumnType) -> ColumnType:
    """The shape that holds values of both."""
    if one is None or one == other:
        return other
    if other is None:
        return one
    if isinstance(one, dict) and isinstance(other, dict):
        return _of_fields({name: unify(one.get(name), other.get(name)) for name in {**one, **other}})
    if isinstance(one, tuple) and isinstance(other, tuple):
        return "list", unify(one[1], other[1])
    if {str(one), str(other)} == {"int", "float"}:
        return "float"
    return "json"


def coerce(value: Any, shape: ColumnType) -> Any:
    """A value as its column holds it."""
    if value is None or shape is None:
        return None
    if shape == "json":
        return dumps(value).decode()
    if shape == "float":
        return float(value)
    if isinstance(shape, tuple):
        return [coerce(each, shape[1]) for each in value]
    if isinstance(shape, dict):
        return {name: coerce(value.get(name), inner) for name, inner in shape.items()}
    return value


def json_columns(shape: ColumnType, name: str = "") -> list[str]:
    """Dotted names of what is JSON text in a shape; a list's elements are `[]`."""
    if shape == "json":
        return [name]
    if isinstance(shape, tuple):
        return json_columns(shape[1], f"{name}[]")
    if isinstance(shape, dict):
        return [
            text for field, inner in shape.items() for text in json_columns(inner, f"{name}.{field}" if name else field)
        ]
    return []


def _of_fields(fields: dict[str, ColumnType]) -> ColumnType:
    if not 0 < len(fields) <= _MOST_FIELDS or not all(map(_is_unicode, fields)):
        return "json"
    return fields


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: models do write lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
