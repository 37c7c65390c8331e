"""Rows as a Parquet file with columns of given types."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ng_rollouts.integrations.parquet import chunks
from ng_rollouts.jsonl import loads


def write_typed_parquet(lines: Iterator[bytes], columns: Any, target: Path) -> None:
    """Write rows of JSON as a Parquet file.

    Args:
        columns: the type of each column: a name such as `string`, a list with the type of its elements, or an object
            with the type of each field. A field that a row does not have is null.
    """
    schema = pa.schema(_arrow_type(columns).fields)
    with pq.ParquetWriter(target, schema) as writer:
        for chunk in chunks(lines):
            writer.write_table(pa.Table.from_pylist(_valid(list(map(loads, chunk))), schema=schema))


def _arrow_type(kind: Any) -> Any:
    if isinstance(kind, list):
        return pa.list_(_arrow_type(kind[0]))
    if isinstance(kind, dict):
        return pa.struct([(name, _arrow_type(inner)) for name, inner in kind.items()])
    return pa.type_for_alias(kind)


def _valid(value: Any) -> Any:
    """A value with valid Unicode, as Parquet requires: lone surrogates become escape sequences."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_valid(each) for each in value]
    return {name: _valid(each) for name, each in value.items()} if isinstance(value, dict) else value
