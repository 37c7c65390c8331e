"""Column types for JSON values, so that rows fit a table.

A column type is one of:

- None: every value so far was null.
- "bool", "int", "float" or "text".
- "json": JSON text, for values that no other type holds: values of different types, empty objects, objects with too
  many fields, integers beyond 64 bits, and text that is not valid Unicode.
- ("list", type): a list.
- {field: type}: an object.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from ng_rollouts.jsonl import dumps

ColumnType: TypeAlias = "str | tuple[str, ColumnType] | dict[str, ColumnType] | None"

_MAX_DEPTH = 50

_MAX_FIELDS = 100
"""An object with more fields is probably a mapping with arbitrary keys; as columns, each key would get its own."""


def type_of_value(value: Any, depth: int = 0) -> ColumnType:
    """The column type of one value. Deeply nested ones are JSON text."""
    if depth > _MAX_DEPTH:
        return "json"
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
                inner = unify(inner, type_of_value(each, depth + 1))
            return "list", inner
        case _:
            return _of_fields({name: type_of_value(inner, depth + 1) for name, inner in value.items()})


def unify(one: ColumnType, other: ColumnType) -> ColumnType:
    """The column type that holds the values of two column types."""
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


def coerce(value: Any, column_type: ColumnType) -> Any:
    """Convert a value to a column type that holds it."""
    if value is None or column_type is None:
        return None
    if column_type == "json":
        return dumps(value).decode()
    if column_type == "float":
        return float(value)
    if isinstance(column_type, tuple):
        return [coerce(each, column_type[1]) for each in value]
    if isinstance(column_type, dict):
        return {name: coerce(value.get(name), inner) for name, inner in column_type.items()}
    return value


def json_columns(column_type: ColumnType, name: str = "") -> list[str]:
    """The dotted names of the parts of a column that hold JSON text; `[]` stands for the elements of a list."""
    if column_type == "json":
        return [name]
    if isinstance(column_type, tuple):
        return json_columns(column_type[1], f"{name}[]")
    if isinstance(column_type, dict):
        return [
            text
            for field, inner in column_type.items()
            for text in json_columns(inner, f"{name}.{field}" if name else field)
        ]
    return []


def _of_fields(fields: dict[str, ColumnType]) -> ColumnType:
    """The column type of an object: its fields, or "json" if they cannot be columns."""
    if not 0 < len(fields) <= _MAX_FIELDS or not all(map(_is_unicode, fields)):
        return "json"
    return fields


def _is_unicode(text: str) -> bool:
    """Whether a text can be encoded as UTF-8. Lone surrogates cannot, and models write them at times."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
