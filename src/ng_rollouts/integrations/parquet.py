"""Write the finished rows as a Parquet file, with one column per field.

Values without a common type are stored as JSON text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ng_rollouts.integrations.column_types import ColumnType, coerce, json_columns, type_of_value, unify
from ng_rollouts.integrations.runner import PRODUCTS
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.storage.atomic import back_up, replacing
from ng_rollouts.storage.compression import base_name

_ROW_GROUP_SIZE, _ROW_GROUP_BYTES = 1000, 1 << 23
"""Rows in memory at a time, and the size of their JSON in bytes (8 MiB), which only a single row may exceed."""

_TYPES = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "int32": pa.int32(),
    "float": pa.float64(),
    "float32": pa.float32(),
    "text": pa.string(),
    "json": pa.string(),
}


def write_parquet(output: Path) -> str:
    """Write <stem>.parquet next to a finished output; the line to report."""
    target = output.with_name(base_name(output) + PRODUCTS["parquet"])
    with replacing(target) as temporary:
        rows = convert(output, temporary)
        if target.exists():
            back_up(target)
    return f"Parquet: {target} ({rows} rows)"


def convert(source: Path, target: Path, types: Mapping[str, ColumnType] = MappingProxyType({})) -> int:
    """Write the rows of a JSONL file as a Parquet file; the number of rows.

    The file is read twice: once for the column types, and once to write the rows.

    Args:
        types: the first columns. The values of those with a type need no conversion, and the type may be "int32" or
            "float32". None stands for a type that follows from the values, as those of all further columns do.
    """
    fields = dict(types)
    rows = 0
    with source.open("rb") as lines:
        for row in map(loads, lines):
            rows += 1
            for name, value in row.items():
                if types.get(name) is None:
                    fields[name] = unify(fields.get(name), type_of_value(value))
    _write(source, fields, types, target)
    return rows


def _write(source: Path, fields: dict[str, ColumnType], types: Mapping[str, ColumnType], target: Path) -> None:
    # the schema's metadata names the columns of JSON text, so that readers know which strings to parse
    json_text = [name for field, column_type in fields.items() for name in json_columns(column_type, field)]
    columns = [(_column_name(name), _arrow_type(column_type)) for name, column_type in fields.items()]
    schema = pa.schema(columns, {"json_text": dumps(json_text)})
    with source.open("rb") as lines, pq.ParquetWriter(target, schema) as writer:
        for chunk in chunks(lines):
            rows = [
                {
                    _column_name(name): row.get(name) if types.get(name) else coerce(row.get(name), column_type)
                    for name, column_type in fields.items()
                }
                for row in map(loads, chunk)
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def chunks(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines, as many at a time as make a row group."""
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        if chunk and (len(chunk) == _ROW_GROUP_SIZE or size + len(line) > _ROW_GROUP_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += len(line)
    if chunk:
        yield chunk


def _column_name(field: str) -> str:
    """A field as the name of a column, which has to be valid Unicode: lone surrogates as escape sequences."""
    return field.encode("utf-8", "backslashreplace").decode()


def _arrow_type(column_type: ColumnType) -> Any:
    # a column of nulls still needs a type that every reader of Parquet supports
    if column_type is None:
        return pa.string()
    if isinstance(column_type, tuple):
        return pa.list_(_arrow_type(column_type[1]))
    if isinstance(column_type, dict):
        return pa.struct([(name, _arrow_type(inner)) for name, inner in column_type.items()])
    return _TYPES[column_type]
