"""Read, write and name compressed files. The extension decides: .gz, .zst, .bz2 or .xz."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any, BinaryIO, Protocol

from ng_rollouts.errors import require_extra
from ng_rollouts.storage.atomic import replacing

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
EXTENSIONS = (".zst", *_OPENERS)

_LEVELS = {".gz": {"compresslevel": 6}}
"""gzip's own default. Python's default of 9 takes twice as long and saves one percent."""

_CHUNK_BYTES = 1 << 20
"""Bytes per read or write: 1 MiB."""

_ZSTD_CHUNK_BYTES = 4096
"""Compressed bytes per call of zstandard, whose output has no maximum: four bytes may decompress to 128 KiB."""

_KEPT_DECOMPRESSED = 4
"""Decompressed copies to keep. They use space in the temporary folder until the program ends."""


class Writable(Protocol):
    """A file that bytes can be written to."""

    def write(self, data: bytes, /) -> int: ...


def is_compressed(name: str | Path) -> bool:
    """Whether a name has the extension of a compressed file, in any case."""
    return str(name).lower().endswith(EXTENSIONS)


def plain_name(path: Path) -> Path:
    """The name without a compression extension."""
    return path.with_suffix("") if is_compressed(path) else path


def compressed_names(plain: Path) -> list[Path]:
    """The names that a file may have when it is compressed."""
    return [plain.with_name(plain.name + ending) for ending in EXTENSIONS]


def base_name(path: Path) -> str:
    """The common prefix of the names of side files: the name without .jsonl and without a compression extension."""
    return plain_name(path).name.removesuffix(".jsonl")


def check_compression(label: str) -> None:
    """Check that the library for a file's compression is installed.

    Args:
        label: the file in messages, such as `PARAMETER PATH`. It ends with the file's name.

    Raises:
        ConfigError: an extra is not installed.
    """
    if label.lower().endswith(".zst"):
        require_extra("zstandard", "zstd", label)


@contextmanager
def open_decompressed(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading at any offset. A compressed file is decompressed once, into the temporary folder.

    Raises:
        OSError: the file cannot be read, or its content does not match its extension.
        ConfigError: an extra is not installed.
    """
    if not is_compressed(path):
        with path.open("rb") as file:
            yield file
        return
    state = path.stat()
    copy = _decompressed(path, state.st_mtime_ns, state.st_size)
    # opened a second time by its name, because users of the shared copy must not share a file position
    with Path(copy.name).open("rb") as file:
        yield file


@lru_cache(_KEPT_DECOMPRESSED)
def _decompressed(path: Path, _mtime_ns: int, _size: int) -> IO[bytes]:
    """A decompressed copy, which is deleted when the last reference to it goes away.

    Modification time and size are part of the cache's key, so a file that has changed is decompressed again.
    """
    check_compression(str(path))
    copy = tempfile.NamedTemporaryFile(prefix="ng_rollouts_unpacked_", suffix=".jsonl")  # noqa: SIM115
    with path.open("rb") as compressed:
        decompress(path.name, compressed, copy)
    copy.flush()
    return copy


def decompress(name: str, source: Any, plain: Writable) -> None:
    """Copy the content of a file, decompressed if its name has a compression extension.

    Args:
        source: the file to read, opened in binary mode.
        plain: the file to write.

    Raises:
        OSError: the content does not match the extension, or is truncated.
    """
    try:
        if is_compressed(name) and (opener := _OPENERS.get(Path(name.lower()).suffix)):
            with opener(source) as decompressed:
                shutil.copyfileobj(decompressed, plain, _CHUNK_BYTES)
        elif is_compressed(name):
            _decompress_zstd(source, plain)
        else:
            shutil.copyfileobj(source, plain, _CHUNK_BYTES)
        if is_compressed(name) and not source.tell():  # gzip accepts an empty file
            raise EOFError("the file is empty: a compressed file has at least a header")
    except (EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise OSError(errno.EINVAL, str(error), name) from error
    except OSError as error:  # errors of gzip and bz2 have no errno
        raise OSError(error.errno or errno.EINVAL, error.strerror or str(error), name) from error


def _decompress_zstd(source: Any, plain: Writable) -> None:
    """Decompress frame by frame, because zstandard's own stream reader accepts a truncated frame as complete."""
    zstandard = _zstandard()
    frame, in_frame = zstandard.ZstdDecompressor().decompressobj(), False
    try:
        while chunk := source.read(_ZSTD_CHUNK_BYTES):
            while chunk:  # a file may be a sequence of frames (RFC 8878, 3.1), and a chunk may hold several
                plain.write(frame.decompress(chunk))
                in_frame, chunk = not frame.eof, frame.unused_data
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    if in_frame:
        raise EOFError("the file ends in the middle of a compressed frame")


def compress(source: Path, target: Path, name: str | Path) -> None:
    """Write a compressed copy of a file.

    Args:
        target: the file to write; it gets the permissions of `source`.
        name: a name whose extension decides the compression, usually the final name of `target`.

    Raises:
        OSError: the copy could not be written.
    """
    extension = Path(name).suffix.lower()
    with source.open("rb") as rows, target.open("wb") as file:
        if opener := _OPENERS.get(extension):
            with opener(file, "wb", **_LEVELS.get(extension, {})) as compressed:
                shutil.copyfileobj(rows, compressed, _CHUNK_BYTES)
        else:  # the size goes into the frame header, so readers can allocate
            _zstandard().ZstdCompressor().copy_stream(rows, file, size=os.fstat(rows.fileno()).st_size)
    target.chmod(source.stat().st_mode & 0o7777)


def compress_in_place(file: Path, name: str | Path) -> None:
    """Compress a file if its final name has a compression extension.

    Raises:
        OSError: the compressed file could not be written; `file` stays as it was.
    """
    if is_compressed(name):
        with replacing(file) as compressed:
            compress(file, compressed, name)


def _zstandard() -> ModuleType:
    import zstandard  # noqa: PLC0415 - an extra

    return zstandard
