"""Write the finished rows as a Parquet file, with one column per field.

Values without a common type are stored as JSON text.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ng_rollouts.integrations.column_types import ColumnType, coerce, json_columns, type_of_value, unify
from ng_rollouts.integrations.runner import PRODUCTS
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.storage.atomic import back_up, replacing
from ng_rollouts.storage.compression import base_name

_ROW_GROUP_SIZE = 1000
"""Rows in memory at a time."""

_TYPES = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string(), "json": pa.string()}


def write_parquet(output: Path) -> str:
    """Write <stem>.parquet next to a finished output; the line to report.

    The file is read twice: once for the column types, and once to write the rows.
    """
    fields: dict[str, ColumnType] = {}
    rows = 0
    with output.open("rb") as lines:
        for row in map(loads, lines):
            rows += 1
            for name, value in row.items():
                fields[name] = unify(fields.get(name), type_of_value(value))
    target = output.with_name(base_name(output) + PRODUCTS["parquet"])
    with replacing(target) as temporary:
        _write(output, fields, temporary)
        if target.exists():
            back_up(target)
    return f"Parquet: {target} ({rows} rows)"


def _write(output: Path, fields: dict[str, ColumnType], target: Path) -> None:
    # the schema's metadata names the columns of JSON text, so that readers know which strings to parse
    json_text = [name for field, column_type in fields.items() for name in json_columns(column_type, field)]
    columns = [(_column_name(name), _arrow_type(column_type)) for name, column_type in fields.items()]
    schema = pa.schema(columns, {"json_text": dumps(json_text)})
    with output.open("rb") as lines, pq.ParquetWriter(target, schema) as writer:
        while chunk := list(map(loads, islice(lines, _ROW_GROUP_SIZE))):
            rows = [
                {_column_name(name): coerce(row.get(name), column_type) for name, column_type in fields.items()}
                for row in chunk
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


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
