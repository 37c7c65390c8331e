"""Remote files and folders by URL, through fsspec: buckets, hubs and other file systems.

fsspec's drivers raise exceptions of many types. This module raises all of them as `OSError` with a readable message.
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
from ng_rollouts.storage.atomic import remove_leftovers, replacing

_BUCKETS = frozenset("s3 s3a gs gcs abfs abfss az oss hf".split())
"""Protocols without real folders. `makedirs` would create a bucket there, even for a mistyped name."""

_CHUNK_BYTES = 1 << 20
"""Bytes per read or write: 1 MiB."""

_DRIVERS = ("adlfs", "aiobotocore", "botocore", "fsspec", "gcsfs", "google", "huggingface_hub", "s3fs")
"""Loggers of libraries that raise the same errors that they log."""


def is_url(path: str) -> bool:
    """Whether a path is a URL, to be opened through fsspec."""
    return "://" in path


@contextmanager
def open_remote(parameter: str, url: str) -> Iterator[BinaryIO]:
    """Open the file at a URL for reading.

    Args:
        parameter: the parameter that has the URL, for messages.

    Raises:
        OSError: the file does not exist, or cannot be read.
        ConfigError: the URL's protocol is not supported, or its driver is not installed.
    """
    system, path = _system(parameter, url)
    with _as_os_error(redact(url)), system.open(path, "rb") as file:
        yield file


@dataclass(frozen=True, slots=True)
class Folder:
    """A remote folder, whose files are addressed by name. All methods raise `OSError` on failure.

    Attributes:
        url: the URL with its credentials masked, for messages.
    """

    url: str
    _system: Any
    _path: str

    def has(self, name: str) -> bool:
        """Whether a file exists."""
        with _as_os_error(self.url):
            return bool(self._system.exists(self._at(name)))

    def probe(self, name: str) -> None:
        """Check that the folder is writable: write a small file, and delete it if that is allowed."""
        with _as_os_error(self.url):
            self._make_folder()
            self._system.pipe_file(self._at(name), b"probe")
            with suppress(Exception):  # a bucket may allow writing but not deleting
                self._system.rm_file(self._at(name))

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with _as_os_error(self.url):
            return bytes(self._system.cat_file(self._at(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        with _as_os_error(self.url):
            self._make_folder()
            self._system.pipe_file(self._at(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless it exists; whether it was written.

        The store decides where its driver has conditional writes (S3: `If-None-Match`, Google Cloud: generation 0, a
        local folder: `O_EXCL`). Elsewhere, two calls at the same moment may both succeed.
        """
        try:
            with _as_os_error(self.url):
                self._make_folder()
                if "file" in self._protocols:
                    with Path(self._at(name)).open("xb") as file:
                        file.write(data)
                else:
                    self._system.pipe_file(self._at(name), data, mode="create")
        except OSError as error:
            if isinstance(error.__cause__, FileExistsError) or self.has(name):
                return False
            self.write(name, data)  # a store that rejects the condition; what else failed fails again
        return True

    def put(self, file: Path, on_progress: Callable[[], None]) -> None:
        """Upload a file atomically. It replaces a file with the same name.

        Args:
            on_progress: called repeatedly during the upload, so that the caller can detect a stalled one.
        """
        with _as_os_error(self.url):
            if "file" in self._protocols:
                _copy(file, Path(self._at(file.name)), on_progress)
                return
            self._make_folder()
            self._system.put_file(str(file), self._at(file.name), callback=_callback(on_progress))

    def get(self, name: str, file: Path) -> None:
        """Download a file."""
        with _as_os_error(self.url):
            self._system.get_file(self._at(name), str(file))

    def rename(self, name: str, new: str) -> None:
        """Rename a file within the folder."""
        with _as_os_error(self.url):
            self._system.mv(self._at(name), self._at(new))

    def remove(self, name: str) -> None:
        """Delete a file."""
        with _as_os_error(self.url):
            self._system.rm_file(self._at(name))

    def is_local(self, path: Path) -> bool:
        """Whether this is the local folder `path`."""
        return "file" in self._protocols and Path(self._path).resolve() == path.resolve()

    def holds(self, url: str) -> bool:
        """Whether a path or URL is that of a file directly in this folder."""
        system, path = _system("", url)
        parent = Path(path).resolve().parent if "file" in self._protocols else Path(path).parent
        own_path = Path(self._path).resolve() if "file" in self._protocols else Path(self._path)
        return _protocols_of(system) == self._protocols and parent == own_path

    def _make_folder(self) -> None:
        if _BUCKETS.isdisjoint(self._protocols):
            self._system.makedirs(self._path, exist_ok=True)

    @property
    def _protocols(self) -> frozenset[str]:
        return _protocols_of(self._system)

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"


def folder(parameter: str, url: str) -> Folder:
    """The folder at a URL. No request is sent yet, and the folder may not exist.

    Args:
        parameter: the parameter that has the URL, for messages.

    Raises:
        ConfigError: the URL's protocol is not supported, or its driver is not installed.
    """
    return Folder(redact(url), *_system(parameter, url))


def _protocols_of(system: Any) -> frozenset[str]:
    # fsspec's `protocol` is a string or a tuple of aliases, such as ("s3", "s3a")
    return frozenset([system.protocol] if isinstance(system.protocol, str) else system.protocol)


def _copy(file: Path, target: Path, on_progress: Callable[[], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    with replacing(target) as temporary, file.open("rb") as source, temporary.open("wb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            copy.write(chunk)
            on_progress()


def _callback(on_progress: Callable[[], None]) -> Any:
    """An fsspec callback, which calls `on_progress` for every block that was transferred."""
    from fsspec.callbacks import Callback  # noqa: PLC0415 - an extra

    return Callback(hooks={"progress": lambda *_, **__: on_progress()})


def _system(parameter: str, url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    require_extra("fsspec", "remote", f"{parameter} {redact(url)}")
    from fsspec.core import url_to_fs  # noqa: PLC0415 - an extra

    for name in _DRIVERS:
        # without any handler, Python prints warnings and errors to stderr (`logging.lastResort`)
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        with _as_os_error(redact(url)):
            # listings would be outdated: the files change during a run
            system_and_path: tuple[Any, str] = url_to_fs(url, use_listings_cache=False, **_options(url))
    except OSError as error:
        reason = (
            f"{error.strerror}: {install_extra('remote')}"
            if isinstance(error.__cause__, ImportError)
            else error.strerror
        )
        raise ConfigError(f"{parameter} {redact(url)}: {reason}") from error
    return system_and_path


def _options(url: str) -> dict[str, Any]:
    """Options that limit a driver's memory. By default, s3fs uploads ten parts of 50 MB at the same time."""
    return {"max_concurrency": 1} if url.startswith(("s3://", "s3a://")) else {}


@contextmanager
def _as_os_error(url: str) -> Iterator[None]:
    """Raise a driver's exceptions as `OSError`, with a readable message and the URL."""
    try:
        yield
    except NgRolloutsError:  # raised by the caller's code within `open_remote`
        raise
    except Exception as error:
        raise OSError(getattr(error, "errno", None) or errno.EIO, _reason(error), url) from error


def _reason(error: BaseException) -> str:
    """The message of an exception, in one line."""
    message = str(getattr(error, "strerror", None) or " ".join(redact(str(error)).split()))
    # for a missing file, some drivers give only its name, which has no space
    if isinstance(error, FileNotFoundError) and " " not in message:
        return _reason(error.__cause__) if error.__cause__ else "not found"
    return message or type(error).__name__
