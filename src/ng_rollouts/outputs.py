"""Where results go: the output's name and those of its side files, its lock, and moving an old one aside."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ng_rollouts.errors import OutputError
from ng_rollouts.packed import check_packing, is_packed, packed_names, plain_name, stem_of

_LONGEST_NAME = 255
"""Bytes, on the file systems in use."""


@dataclass(frozen=True, slots=True)
class OutputPaths:
    """The output and the files that belong to it, all in its folder.

    Attributes:
        output: the journal while a run goes on, and the finished file, unless that is packed.
        packed: what the finished file is packed into, if its name asks for it.
    """

    output: Path
    packed: Path | None = None

    @property
    def finished(self) -> Path:
        """The finished file."""
        return self.packed or self.output

    @property
    def names(self) -> tuple[Path, ...]:
        """All that an output may be called, packed or not: they share the files beside them, and are one output."""
        return (self.output, *packed_names(self.output))

    @property
    def failures(self) -> Path:
        """Rollouts that failed, one a line."""
        return self.beside("_failures.jsonl")

    @property
    def incomplete(self) -> Path:
        """Rollouts whose group is not complete, one a line."""
        return self.beside("_incomplete.jsonl")

    @property
    def manifest(self) -> Path:
        """What the output was collected for."""
        return self.beside("_manifest.json")

    @property
    def aggregate_metrics(self) -> Path:
        """Figures by agent, as NeMo Gym writes them, and more."""
        return self.beside("_aggregate_metrics.json")

    @property
    def summary(self) -> Path:
        """What became of the run."""
        return self.beside("_summary.json")

    @property
    def status(self) -> Path:
        """How far a run is, while it runs."""
        return self.beside("_status.json")

    @property
    def materialized_inputs(self) -> Path:
        """The planned rows, as NeMo Gym's collector writes them."""
        return self.beside("_materialized_inputs.jsonl")

    @property
    def all(self) -> tuple[Path, ...]:
        """The output first, by each of its names, then what belongs to it."""
        beside = (self.failures, self.incomplete, self.manifest, self.aggregate_metrics, self.summary)
        return (*self.names, *beside, self.materialized_inputs)

    @property
    def there(self) -> list[Path]:
        """Those of them that are there; an empty output beside a packed one is but its lock."""
        packed = any(path.exists() for path in self.names[1:])
        return [
            path
            for path in self.all
            if path.exists() and not (path == self.output and packed and not has_content(path))
        ]

    def beside(self, ending: str) -> Path:
        """A file that has the output's name, but for its ending."""
        return self.output.with_name(stem_of(self.output) + ending)


def output_paths(path: str) -> OutputPaths:
    """The output of this name; a symbolic link stands for the file that it leads to."""
    named = Path(path).expanduser()
    output = named.resolve() if named.is_symlink() and not path.startswith("/dev/") else named
    return OutputPaths(plain_name(output), output) if is_packed(output) else OutputPaths(output)


def check_output(paths: OutputPaths, sources: Iterable[Path]) -> None:
    """Check, without touching anything, that the output can be a file of its own.

    Args:
        sources: the input, and what it was unpacked into.

    Raises:
        OutputError: it is no file, or it, or a file that belongs to it, is the input.
        ConfigError: it is to be packed, and an extra is not installed.
    """
    check_packing(f"output_jsonl_fpath {paths.finished}")
    for path in {paths.output, paths.finished}:
        check_replaceable(path)
    longest = max(len(os.fsencode(path.name)) for path in paths.all) + len(".finishing")
    if longest > _LONGEST_NAME:
        raise OutputError(f"output_jsonl_fpath {paths.output}: the name is too long by {longest - _LONGEST_NAME} bytes")
    for path, source in product(paths.all, sources):
        if path.exists() and source.exists() and path.samefile(source):
            raise OutputError(f"output_jsonl_fpath {paths.finished} would replace the input {source}: name another")


def check_replaceable(output: Path) -> None:
    """Check that an output is a regular file, if it is there.

    Raises:
        OutputError: it is a folder, a device, a pipe.
    """
    if str(output).startswith(("/dev/", "/proc/")):
        raise OutputError(f"output_jsonl_fpath {output} is no file of its own: name a JSONL file")
    if output.is_dir():
        raise OutputError(f"output_jsonl_fpath {output} is a folder: name a JSONL file")
    if output.exists() and not output.is_file():
        raise OutputError(f"output_jsonl_fpath {output} is no regular file: name a JSONL file")


def lock(path: Path) -> int:
    """Open and lock the file that has this name now, made if there is none.

    Raises:
        OutputError: another process has it locked.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"output_jsonl_fpath {path} is being written by {_holder(fd)}: wait for it, or name another"
            os.close(fd)
            raise OutputError(message) from error
        if _has_name(fd, path):
            return fd
        os.close(fd)


def holder_of(fd: int) -> str | None:
    """The process that has a file locked; None if it can be locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(fd)
    fcntl.flock(fd, fcntl.LOCK_UN)
    return None


def _has_name(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _holder(fd: int) -> str:
    """The process that holds a lock on a file, as far as the system tells."""
    inode = f":{os.fstat(fd).st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if "FLOCK" in fields and any(word.endswith(inode) for word in fields):
                return f"process {fields[fields.index('WRITE') + 1]}"
    return "another process"


def has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def remove(paths: OutputPaths) -> None:
    for path in paths.all:
        path.unlink(missing_ok=True)


def move_aside(paths: OutputPaths) -> Path:
    """Rename the output and what belongs to it to the first number that is free for all.

    Returns:
        Where the first of them went.
    """
    moved = paths.there
    for number in itertools.count(1):
        targets = {path: path.with_name(f"{path.name}.{number}") for path in paths.all}
        if not any(target.exists() for target in targets.values()):
            break
    for path in moved:
        path.rename(targets[path])
    if paths.output not in moved:
        paths.output.unlink(missing_ok=True)
    return targets[moved[0]]


def moved_aside(path: Path) -> Path:
    """Rename a file to the first number that is free; where to."""
    aside = next(name for number in itertools.count(1) if not (name := Path(f"{path}.{number}")).exists())
    path.rename(aside)
    return aside


def write_json(path: Path, value: Any) -> None:
    """Put a file in place, whole or not at all.

    Raises:
        OSError: it could not be written.
    """
    temporary = path.with_name(path.name + ".writing")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
