"""Places that fsspec knows, by URL: buckets, hubs, other file systems.

Their drivers raise errors of many trees; what leaves this room is an OSError that says what happened.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ng_rollouts.errors import ConfigError, NgRolloutsError, install_extra, require_extra
from ng_rollouts.redaction import redact
from ng_rollouts.storage.atomic import replacing

_BUCKETS = frozenset("s3 s3a gs gcs abfs abfss az oss hf".split())
"""Where names need no folder; making one would make the bucket that a mistyped name stands for."""

_CHUNK_BYTES = 1 << 20

_DRIVERS = ("adlfs", "aiobotocore", "botocore", "fsspec", "gcsfs", "google", "huggingface_hub", "s3fs")
"""Loggers of those who also raise what they log."""


def is_url(path: str) -> bool:
    """Whether a path is for fsspec."""
    return "://" in path


@contextmanager
def open_remote(parameter: str, url: str) -> Iterator[BinaryIO]:
    """What a URL leads to, to be read.

    Raises:
        OSError: it is not there, or cannot be read.
        ConfigError: nothing here knows such URLs.
    """
    system, path = _system(parameter, url)
    with _told(redact(url)), system.open(path, "rb") as file:
        yield file


@dataclass(frozen=True, slots=True)
class Folder:
    """A place for files, known by their names. What its methods raise is an OSError.

    Attributes:
        url: what to call it.
    """

    url: str
    _system: Any
    _path: str

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        with _told(self.url):
            return bool(self._system.exists(self._at(name)))

    def size(self, name: str) -> int:
        """How many bytes a file has."""
        with _told(self.url):
            return int(self._system.size(self._at(name)))

    def probe(self, name: str) -> None:
        """Write a file, and remove it, if that is allowed."""
        with _told(self.url):
            self._make_folder()
            self._system.pipe_file(self._at(name), b"probe")
            with suppress(Exception):
                self._system.rm_file(self._at(name))

    def read(self, name: str) -> bytes:
        """All of a file."""
        with _told(self.url):
            return bytes(self._system.cat_file(self._at(name)))

    def put(self, file: Path, moved: Callable[[], None]) -> None:
        """Copy a file there, in place of one of its name, whole or not at all.

        Args:
            moved: is called again and again while it goes on.
        """
        with _told(self.url):
            if "file" in self._protocols:
                _copy(file, Path(self._at(file.name)), moved)
                return
            self._make_folder()
            self._system.put_file(str(file), self._at(file.name), callback=_callback(moved))

    def get(self, name: str, file: Path) -> None:
        """Copy a file from there."""
        with _told(self.url):
            self._system.get_file(self._at(name), str(file))

    def rename(self, name: str, new: str) -> None:
        """Give a file another name."""
        with _told(self.url):
            self._system.mv(self._at(name), self._at(new))

    def remove(self, name: str) -> None:
        """Remove a file."""
        with _told(self.url):
            self._system.rm_file(self._at(name))

    def is_local(self, path: Path) -> bool:
        """Whether it is this folder of this machine."""
        return "file" in self._protocols and Path(self._path).resolve() == path.resolve()

    def holds(self, url: str) -> bool:
        """Whether a path or URL is that of a file in it."""
        system, path = _system("", url)
        parent = Path(path).resolve().parent if "file" in self._protocols else Path(path).parent
        mine = Path(self._path).resolve() if "file" in self._protocols else Path(self._path)
        return _protocols_of(system) == self._protocols and parent == mine

    def _make_folder(self) -> None:
        if _BUCKETS.isdisjoint(self._protocols):
            self._system.makedirs(self._path, exist_ok=True)

    @property
    def _protocols(self) -> frozenset[str]:
        return _protocols_of(self._system)

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"


def folder(parameter: str, url: str) -> Folder:
    """The folder of a URL; nothing is asked of it yet.

    Raises:
        ConfigError: nothing here knows such URLs.
    """
    return Folder(redact(url), *_system(parameter, url))


def _protocols_of(system: Any) -> frozenset[str]:
    return frozenset([system.protocol] if isinstance(system.protocol, str) else system.protocol)


def _copy(file: Path, target: Path, moved: Callable[[], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary, file.open("rb") as source, temporary.open("wb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            copy.write(chunk)
            moved()


def _callback(moved: Callable[[], None]) -> Any:
    from fsspec.callbacks import Callback  # noqa: PLC0415 - an extra

    return Callback(hooks={"moved": lambda *_, **__: moved()})


def _system(parameter: str, url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    require_extra("fsspec", "remote", f"{parameter} {redact(url)}")
    from fsspec.core import url_to_fs  # noqa: PLC0415 - an extra

    for name in _DRIVERS:
        logging.getLogger(name).addHandler(logging.NullHandler())  # or Python shows it where nobody has set logging up
    try:
        with _told(redact(url)):
            found: tuple[Any, str] = url_to_fs(url, use_listings_cache=False, **_options(url))
    except OSError as error:
        reason = (
            f"{error.strerror}: {install_extra('remote')}"
            if isinstance(error.__cause__, ImportError)
            else error.strerror
        )
        raise ConfigError(f"{parameter} {redact(url)}: {reason}") from error
    return found


def _options(url: str) -> dict[str, Any]:
    """What keeps a driver's memory small: s3fs would have ten pieces of 50 MB on their way at once."""
    return {"max_concurrency": 1} if url.startswith(("s3://", "s3a://")) else {}


@contextmanager
def _told(url: str) -> Iterator[None]:
    try:
        yield
    except NgRolloutsError:
        raise
    except Exception as error:
        raise OSError(getattr(error, "errno", None) or errno.EIO, _reason(error), url) from error


def _reason(error: BaseException) -> str:
    """What happened, in one line; some drivers say no more of a file that is not there than its name."""
    told = str(getattr(error, "strerror", None) or " ".join(str(error).split()))
    if isinstance(error, FileNotFoundError) and " " not in told:
        return _reason(error.__cause__) if error.__cause__ else "not found"
    return told or type(error).__name__
