"""Files of a scenario's folder, and the rows in them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

Files = dict[str, bytes]
"""Content of files, by path in the folder."""

Key = tuple[Any, Any]
"""Task index and rollout index of a row; None for those that a row does not have."""

_SEEN, _OLDER = "seen", "older"

_PACKINGS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    ".gz": (gzip.decompress, gzip.compress),
    ".zst": (zstandard.decompress, zstandard.compress),
}
"""How to decompress and compress a file with this extension."""


def files_of(folder: Path) -> Files:
    """The files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_files(folder: Path, files: Files) -> Path:
    """Make a folder with these files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def content_of(files: Files, name: str) -> bytes | None:
    """The decompressed content of a file; None if it is missing or empty."""
    own_name = name.rstrip("0123456789").rstrip(".")  # without the number of a backup
    content, packing = files.get(name), _PACKINGS.get(Path(own_name).suffix)
    return packing[0](content) if content and packing else content or None


def rows_of(files: Files, plain: str) -> list[Any]:
    """The rows of an output or of a side file. The output may be compressed; `plain` is its name without that."""
    contents = (content_of(files, name) for name in (plain, *(plain + ending for ending in _PACKINGS)))
    return list(map(json.loads, next(filter(None, contents), b"").splitlines()))


def key_of(row: Any) -> Key:
    """The key of a row."""
    return row.get("_ng_task_index"), row.get("_ng_rollout_index")


def older(row: Any) -> bytes:
    """A line with a row, marked as one of an older output."""
    return json.dumps({**row, _OLDER: "yes"}).encode() + b"\n"


def unmarked(row: Any) -> Any:
    """A row without the marks of these tests."""
    return {name: value for name, value in row.items() if name not in (_SEEN, _OLDER)}


def older_rows(files: Files) -> set[tuple[str, str]]:
    """The rows of an older output, with the folder in which they are, under any name."""
    rows = set()
    for name in files:
        for line in (content_of(files, name) or b"").splitlines():
            # A torn line is not a row yet.
            if b'"older"' in line and line.endswith(b"}"):
                row = {field: value for field, value in json.loads(line).items() if field != _SEEN}
                rows.add((str(Path(name).parent), json.dumps(row, sort_keys=True)))
    return rows


def mark_seen(folder: Path) -> set[Key]:
    """Mark the rows of the output and of its incomplete file. A row that is collected again has no mark.

    Returns:
        The keys of these rows.
    """
    # A plain file with rows is the output, and compressed files beside it are not.
    is_plain = bool(content_of(files_of(folder), "r.jsonl"))
    names = ["r_incomplete.jsonl", "r.jsonl", *([] if is_plain else ("r.jsonl.gz", "r.jsonl.zst"))]
    keys: set[Key] = set()
    for path in (folder / name for name in names if (folder / name).exists()):
        decompress, compress = _PACKINGS.get(path.suffix, (bytes, bytes))
        *lines, torn = decompress(path.read_bytes()).split(b"\n")
        rows = list(map(json.loads, lines))
        keys.update(map(key_of, rows))
        marked = (json.dumps({**row, _SEEN: "yes"}).encode() for row in rows)
        path.write_bytes(compress(b"\n".join([*marked, torn])))
    return keys


def collected_again(folder: Path, seen: set[Key]) -> list[Key]:
    """The keys of rows that are not marked although they were seen before."""
    files = files_of(folder)
    rows = [row for name in ("r.jsonl", "r_incomplete.jsonl") for row in rows_of(files, name)]
    return [key_of(row) for row in rows if key_of(row) in seen and _SEEN not in row]
