"""Files that are packed, as their names say: .gz, .zst, .bz2, .xz; how they are read, written and named."""

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
from typing import IO, Any, BinaryIO

from ng_rollouts.errors import require_extra
from ng_rollouts.storage.atomic import replacing

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
EXTENSIONS = (".zst", *_OPENERS)

_LEVELS = {".gz": {"compresslevel": 6}}
"""As gzip itself has it: Python's 9 takes twice as long for a hundredth less."""

_CHUNK_BYTES = 1 << 20
_KEPT_UNPACKED = 4
"""They take room in the temporary folder for as long as the program runs."""


def is_compressed(name: str | Path) -> bool:
    """Whether a name says so."""
    return str(name).lower().endswith(EXTENSIONS)


def plain_name(path: Path) -> Path:
    """The name of what is in a packed file; of another, its own."""
    return path.with_suffix("") if is_compressed(path) else path


def compressed_names(plain: Path) -> list[Path]:
    """What a plain file may be packed into."""
    return [plain.with_name(plain.name + ending) for ending in EXTENSIONS]


def base_name(path: Path) -> str:
    """The name that those of side files begin with: without .jsonl, packed or not."""
    return plain_name(path).name.removesuffix(".jsonl")


def check_compression(what: str) -> None:
    """Check that there is what it takes to pack or unpack a file.

    Args:
        what: what to call it, its name last.

    Raises:
        ConfigError: an extra is not installed.
    """
    if what.lower().endswith(".zst"):
        require_extra("zstandard", "zstd", what)


@contextmanager
def open_decompressed(path: Path) -> Iterator[BinaryIO]:
    """A file to read from, wherever in it; what is packed is unpacked once, into the temporary folder.

    Raises:
        OSError: it cannot be read, or is not what its name says.
        ConfigError: an extra is not installed.
    """
    if not is_compressed(path):
        with path.open("rb") as file:
            yield file
        return
    state = path.stat()
    copy = _unpacked(path, state.st_mtime_ns, state.st_size)
    with Path(copy.name).open("rb") as file:
        yield file


@lru_cache(_KEPT_UNPACKED)
def _unpacked(path: Path, _mtime_ns: int, _size: int) -> IO[bytes]:
    """An unpacked copy, gone when nothing refers to it any longer."""
    check_compression(str(path))
    copy = tempfile.NamedTemporaryFile(prefix="ng_rollouts_unpacked_", suffix=".jsonl")  # noqa: SIM115
    with path.open("rb") as packed:
        decompress(path.name, packed, copy)
    copy.flush()
    return copy


def decompress(name: str, packed: Any, plain: IO[bytes]) -> None:
    """Copy what is in a file that may be packed.

    Raises:
        OSError: it is not what its name says, or not all of it.
    """
    try:
        if is_compressed(name) and (opener := _OPENERS.get(Path(name.lower()).suffix)):
            with opener(packed) as unpacked:
                shutil.copyfileobj(unpacked, plain, _CHUNK_BYTES)
        elif is_compressed(name):
            _unpack_zstd(packed, plain)
        else:
            shutil.copyfileobj(packed, plain, _CHUNK_BYTES)
        if is_compressed(name) and not packed.tell():
            raise EOFError("it is empty, which no packed file is")
    except (EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise OSError(errno.EINVAL, str(error), name) from error
    except OSError as error:  # those of gzip and bz2 have no errno
        raise OSError(error.errno or errno.EINVAL, error.strerror or str(error), name) from error


def _unpack_zstd(packed: Any, plain: IO[bytes]) -> None:
    """Frame by frame: the library itself takes a frame that is cut off for a whole one."""
    zstandard = _zstandard()
    frame, begun = zstandard.ZstdDecompressor().decompressobj(), False
    try:
        while chunk := packed.read(_CHUNK_BYTES):
            while chunk:
                plain.write(frame.decompress(chunk))
                begun, chunk = not frame.eof, frame.unused_data
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    if begun:
        raise EOFError("it ends in the middle of a compressed frame")


def compress(source: Path, target: Path, name: str | Path) -> None:
    """Write a copy of a file, compressed as an extension says.

    Args:
        target: the file to write; it gets the permissions of `source`.
        name: a name with the extension, usually that which `target` will be renamed to.

    Raises:
        OSError: the copy could not be written.
    """
    extension = Path(name).suffix.lower()
    with source.open("rb") as rows, target.open("wb") as file:
        if opener := _OPENERS.get(extension):
            with opener(file, "wb", **_LEVELS.get(extension, {})) as compressed:
                shutil.copyfileobj(rows, compressed, _CHUNK_BYTES)
        else:
            _zstandard().ZstdCompressor().copy_stream(rows, file, size=os.fstat(rows.fileno()).st_size)
    target.chmod(source.stat().st_mode & 0o7777)


def compress_in_place(file: Path, name: str | Path) -> None:
    """Compress a file as the extension of the name it will get says; does nothing for other names.

    Raises:
        OSError: the compressed file could not be written; `file` stays as it was.
    """
    if is_compressed(name):
        with replacing(file) as compressed:
            compress(file, compressed, name)


def _zstandard() -> ModuleType:
    import zstandard  # noqa: PLC0415 - an extra

    return zstandard
