"""Open the input as a local JSONL file. Compressed files, Parquet, stdin and URLs become a temporary copy."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from ng_rollouts.errors import InputError, require_extra
from ng_rollouts.inputs.lines import LineLimitedWriter
from ng_rollouts.jsonl import dumps
from ng_rollouts.redaction import redact
from ng_rollouts.storage.compression import check_compression, decompress, is_compressed
from ng_rollouts.storage.remote import is_url, open_remote
from ng_rollouts.types import Json

_ROWS_PER_BATCH = 1000
"""Parquet rows in memory at once; the default of pyarrow is 65,536."""


def check_source(parameter: str, path: str) -> None:
    """Check that a local file exists, without reading it.

    Raises:
        InputError: it does not; the message names the parameter.
    """
    if path == "-" or is_url(path):
        return
    # The name of a path that is too long, for example, is reported where the file is read.
    with suppress(OSError, ValueError, RuntimeError):
        if not Path(path).expanduser().exists():
            raise InputError(f"{parameter} {redact(path)} cannot be read: {os.strerror(errno.ENOENT)}")


@contextmanager
def local_input(path: str) -> Iterator[Path]:
    """The input as a local JSONL file that can be read several times; a temporary copy exists during the block.

    Args:
        path: a file, which may be compressed or .parquet; `-` for stdin; or a URL that fsspec supports, such as s3://.

    Raises:
        InputError: the file does not exist, its content does not match its extension, or a line is too long.
        ConfigError: an extra that the file needs is not installed.
    """
    source = Path(path).expanduser()
    if path != "-" and not is_url(path) and _is_plain_file(source, path):
        yield source
        return
    # The input is read at least twice, by the check and by the run, and a stream can be read only once.
    with tempfile.NamedTemporaryFile(prefix="ng_rollouts_input_", suffix=".jsonl") as copy:
        try:
            with _open_source(path, source) as original:
                _write_jsonl(path, original, LineLimitedWriter(cast("BinaryIO", copy), redact(path)))
        except (OSError, ValueError, TypeError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise InputError(f"input_jsonl_fpath {redact(path)} cannot be read: {reason}") from error
        copy.flush()
        yield Path(copy.name)


def _is_plain_file(source: Path, path: str) -> bool:
    """Whether the input can be read in place: a regular file, neither compressed nor Parquet.

    Raises:
        InputError: the file does not exist, or is a folder.
    """
    try:
        mode = source.stat().st_mode
    except OSError as error:
        raise InputError(f"input_jsonl_fpath {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"input_jsonl_fpath {path!r} cannot be read: {error}") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"input_jsonl_fpath {path} is a folder: use the path of a JSONL file")
    return stat.S_ISREG(mode) and not is_compressed(path) and source.suffix != ".parquet"


@contextmanager
def _open_source(path: str, source: Path) -> Iterator[Any]:
    if path == "-":
        yield sys.stdin.buffer
    elif is_url(path):
        with open_remote("input_jsonl_fpath", path) as file:
            yield file
    else:
        with source.open("rb") as file:
            yield file


def _write_jsonl(path: str, original: Any, copy: LineLimitedWriter) -> None:
    name = urlsplit(path).path if is_url(path) else path  # signed URLs have a query after the file's extension
    if name.endswith(".parquet"):
        _write_parquet_rows(path, original, copy)
    else:
        check_compression(f"input_jsonl_fpath {name}")
        decompress(name, original, copy)


def _write_parquet_rows(path: str, original: Any, copy: LineLimitedWriter) -> None:
    """Write each row of a Parquet file as a line of JSON. A column of JSON text stays text."""
    require_extra("pyarrow", "parquet", f"input_jsonl_fpath {path}")
    import pyarrow.parquet as pq  # noqa: PLC0415 - an extra

    for batch in pq.ParquetFile(original).iter_batches(_ROWS_PER_BATCH):
        copy.writelines(_json_line(row) for row in batch.to_pylist())


def _json_line(row: Json) -> bytes:
    """A row of a table as a line of JSON.

    Raises:
        TypeError: a column has a type without an equivalent in JSON; the message names the column.
    """
    row = {name: _without_nulls(value) for name, value in row.items()}
    try:
        return dumps(row) + b"\n"
    except TypeError:
        for name, value in row.items():
            try:
                dumps(value)
            except TypeError as error:
                raise TypeError(f"column {name}: {error}") from error
        raise


def _without_nulls(value: Any) -> Any:
    """A nested value without null fields.

    All structs of a Parquet column have the same fields, so those that a row does not have are null there. An API may
    refuse such a null, for example in a message without `tool_calls`.
    """
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value
