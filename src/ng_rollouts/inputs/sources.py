"""Where the input lies -> a local JSONL file that can be read twice: itself, or a copy of what is packed or far."""

from __future__ import annotations

import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from ng_rollouts.errors import InputError, require_extra
from ng_rollouts.jsonl import dumps
from ng_rollouts.redaction import redact
from ng_rollouts.storage.compression import check_compression, decompress, is_compressed
from ng_rollouts.storage.remote import is_url, open_remote
from ng_rollouts.types import Json

_ROWS_AT_ONCE = 1000


@contextmanager
def local_input(path: str) -> Iterator[Path]:
    """The input as a file that can be read again.

    Args:
        path: a file, plain, .gz, .zst or .parquet; `-` for stdin; or a URL that fsspec knows, such as s3://.

    Raises:
        InputError: there is no such file, or it is not what its name says.
        ConfigError: an extra is needed that is not installed.
    """
    source = Path(path).expanduser()
    if path != "-" and not is_url(path) and _is_plain(source, path):
        yield source
        return
    with tempfile.NamedTemporaryFile(prefix="ng_rollouts_input_", suffix=".jsonl") as copy:
        try:
            with _opened(path, source) as packed:
                _unpack(path, packed, cast("BinaryIO", copy))
        except (OSError, ValueError, TypeError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise InputError(f"input_jsonl_fpath {redact(path)} cannot be read: {reason}") from error
        copy.flush()
        yield Path(copy.name)


def _is_plain(source: Path, path: str) -> bool:
    """Whether a file can be read as it is.

    Raises:
        InputError: there is none.
    """
    try:
        mode = source.stat().st_mode
    except OSError as error:
        raise InputError(f"input_jsonl_fpath {path} cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"input_jsonl_fpath {path} is a folder: name a JSONL file")
    return stat.S_ISREG(mode) and not is_compressed(path) and source.suffix != ".parquet"


@contextmanager
def _opened(path: str, source: Path) -> Iterator[Any]:
    if path == "-":
        yield sys.stdin.buffer
    elif is_url(path):
        with open_remote("input_jsonl_fpath", path) as file:
            yield file
    else:
        with source.open("rb") as file:
            yield file


def _unpack(path: str, packed: Any, plain: BinaryIO) -> None:
    name = urlsplit(path).path if is_url(path) else path  # signed links have more behind it
    if name.endswith(".parquet"):
        _unpack_parquet(path, packed, plain)
    else:
        check_compression(f"input_jsonl_fpath {name}")
        decompress(name, packed, plain)


def _unpack_parquet(path: str, packed: Any, plain: BinaryIO) -> None:
    """A line for each row; columns that hold JSON text, by the file's own word, are what they were."""
    require_extra("pyarrow", "parquet", f"input_jsonl_fpath {path}")
    import pyarrow.parquet as pq  # noqa: PLC0415 - an extra

    for batch in pq.ParquetFile(packed).iter_batches(_ROWS_AT_ONCE):
        plain.writelines(_line_of(row) for row in batch.to_pylist())


def _line_of(row: Json) -> bytes:
    """A row of a table as JSON.

    Raises:
        TypeError: a column has what JSON has not; it is named.
    """
    row = {name: _without_fillings(value) for name, value in row.items()}
    try:
        return dumps(row) + b"\n"
    except TypeError:
        for name, value in row.items():
            try:
                dumps(value)
            except TypeError as error:
                raise TypeError(f"column {name}: {error}") from error
        raise


def _without_fillings(value: Any) -> Any:
    """Structures without the nulls by which a table gives all those of a column the same fields."""
    if isinstance(value, dict):
        return {name: _without_fillings(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_fillings(each) for each in value]
    return value
