"""Where results go: the output's name and those of its side files, its lock, and moving an old one aside."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from ng_rollouts.errors import OutputError
from ng_rollouts.storage.atomic import TEMPORARY_SUFFIX
from ng_rollouts.storage.compression import base_name, check_compression, compressed_names, is_compressed, plain_name

_LONGEST_NAME = 255
"""Bytes, on the file systems in use."""


@dataclass(frozen=True, slots=True)
class OutputPaths:
    """The output and the files that belong to it, all in its folder.

    Attributes:
        output: the journal while a run goes on, and the finished file, unless that is packed.
        compressed: what the finished file is packed into, if its name asks for it.
    """

    output: Path
    compressed: Path | None = None

    @property
    def finished(self) -> Path:
        """The finished file."""
        return self.compressed or self.output

    @property
    def names(self) -> tuple[Path, ...]:
        """All that an output may be called, packed or not: they share the files beside them, and are one output."""
        return (self.output, *compressed_names(self.output))

    @property
    def failures(self) -> Path:
        """Rollouts that failed, one a line."""
        return self.side_file("_failures.jsonl")

    @property
    def incomplete(self) -> Path:
        """Rollouts whose group is not complete, one a line."""
        return self.side_file("_incomplete.jsonl")

    @property
    def manifest(self) -> Path:
        """What the output was collected for."""
        return self.side_file("_manifest.json")

    @property
    def aggregate_metrics(self) -> Path:
        """Figures by agent, as NeMo Gym writes them, and more."""
        return self.side_file("_aggregate_metrics.json")

    @property
    def summary(self) -> Path:
        """What became of the run."""
        return self.side_file("_summary.json")

    @property
    def status(self) -> Path:
        """How far a run is, while it runs."""
        return self.side_file("_status.json")

    @property
    def materialized_inputs(self) -> Path:
        """The planned rows, as NeMo Gym's collector writes them."""
        return self.side_file("_materialized_inputs.jsonl")

    @property
    def all(self) -> tuple[Path, ...]:
        """The output first, by each of its names, then what belongs to it."""
        beside = (self.failures, self.incomplete, self.manifest, self.aggregate_metrics, self.summary)
        return (*self.names, *beside, self.materialized_inputs)

    @property
    def existing(self) -> list[Path]:
        """Those of them that are there; an empty output beside a packed one is but its lock."""
        packed = any(path.exists() for path in self.names[1:])
        return [
            path
            for path in self.all
            if path.exists() and not (path == self.output and packed and not has_content(path))
        ]

    def side_file(self, ending: str) -> Path:
        """A file that has the output's name, but for its ending."""
        return self.output.with_name(base_name(self.output) + ending)


def output_paths(path: str) -> OutputPaths:
    """The output of this name; a symbolic link stands for the file that it leads to."""
    named = Path(path).expanduser()
    output = named.resolve() if named.is_symlink() and not path.startswith("/dev/") else named
    return OutputPaths(plain_name(output), output) if is_compressed(output) else OutputPaths(output)


def check_output(paths: OutputPaths, sources: Iterable[Path]) -> None:
    """Check, without touching anything, that the output can be a file of its own.

    Args:
        sources: the input, and what it was unpacked into.

    Raises:
        OutputError: it is no file, or it, or a file that belongs to it, is the input.
        ConfigError: it is to be packed, and an extra is not installed.
    """
    check_compression(f"output_jsonl_fpath {paths.finished}")
    for path in {paths.output, paths.finished}:
        check_replaceable(path)
    longest = max(len(os.fsencode(path.name)) for path in paths.all) + len(TEMPORARY_SUFFIX)
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


def has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def remove(paths: OutputPaths) -> None:
    for path in paths.all:
        path.unlink(missing_ok=True)


def back_up_output(paths: OutputPaths) -> Path:
    """Rename the output and what belongs to it to the first number that is free for all.

    Returns:
        Where the first of them went.
    """
    moved = paths.existing
    for number in itertools.count(1):
        targets = {path: path.with_name(f"{path.name}.{number}") for path in paths.all}
        if not any(target.exists() for target in targets.values()):
            break
    for path in moved:
        path.rename(targets[path])
    if paths.output not in moved:
        paths.output.unlink(missing_ok=True)
    return targets[moved[0]]
