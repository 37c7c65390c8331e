"""The finished rows as a Parquet file: a column a field, what has no common type as JSON text."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ng_rollouts.integrations.column_types import ColumnType, coerce, json_columns, type_of_value, unify
from ng_rollouts.integrations.runner import PRODUCTS
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.storage.atomic import replacing
from ng_rollouts.storage.compression import base_name

_ROWS_A_GROUP = 1000
_TYPES = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string(), "json": pa.string()}


def write_parquet(output: Path) -> str:
    """Write <stem>.parquet beside a finished file, a thousand rows in memory at a time; say so."""
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
    return f"Parquet: {target} ({rows} rows)"


def _write(output: Path, fields: dict[str, ColumnType], target: Path) -> None:
    texts = [name for field, shape in fields.items() for name in json_columns(shape, field)]
    schema = pa.schema([(name, _type(shape)) for name, shape in fields.items()], {"json_text": dumps(texts)})
    with output.open("rb") as lines, pq.ParquetWriter(target, schema) as writer:
        while chunk := list(map(loads, islice(lines, _ROWS_A_GROUP))):
            rows = [{name: coerce(row.get(name), shape) for name, shape in fields.items()} for row in chunk]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _type(shape: ColumnType) -> Any:
    if shape is None:
        return pa.string()
    if isinstance(shape, tuple):
        return pa.list_(_type(shape[1]))
    if isinstance(shape, dict):
        return pa.struct([(name, _type(inner)) for name, inner in shape.items()])
    return _TYPES[shape]
