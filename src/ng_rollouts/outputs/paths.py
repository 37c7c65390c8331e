"""The paths of the output and its side files, checks of the output's path, and backups of an existing output."""

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

_MAX_NAME_BYTES = 255
"""Limit of a file name in bytes: NAME_MAX of ext4, XFS, Btrfs and tmpfs."""


@dataclass(frozen=True, slots=True)
class OutputPaths:
    """The output and its side files, all in one folder.

    Attributes:
        output: the journal during a run; after it the finished file, unless that is compressed.
        compressed: the compressed finished file, if the output's name has such an extension.
    """

    output: Path
    compressed: Path | None = None

    @property
    def finished(self) -> Path:
        """The finished file."""
        return self.compressed or self.output

    @property
    def names(self) -> tuple[Path, ...]:
        """All names of the output, plain and compressed. They have the same side files, so they are one output."""
        return (self.output, *compressed_names(self.output))

    @property
    def failures(self) -> Path:
        """Failed rollouts, one per line."""
        return self.side_file("_failures.jsonl")

    @property
    def incomplete(self) -> Path:
        """Rollouts of incomplete groups, one per line."""
        return self.side_file("_incomplete.jsonl")

    @property
    def manifest(self) -> Path:
        """The settings that the output was collected with."""
        return self.side_file("_manifest.json")

    @property
    def aggregate_metrics(self) -> Path:
        """Metrics by agent, in NeMo Gym's format with additional fields."""
        return self.side_file("_aggregate_metrics.json")

    @property
    def summary(self) -> Path:
        """The outcome of the run."""
        return self.side_file("_summary.json")

    @property
    def status(self) -> Path:
        """The progress of the run, while it runs."""
        return self.side_file("_status.json")

    @property
    def materialized_inputs(self) -> Path:
        """The planned rows, as NeMo Gym's collector writes them."""
        return self.side_file("_materialized_inputs.jsonl")

    @property
    def all(self) -> tuple[Path, ...]:
        """The output under each of its names, then its side files. The status file only exists during a run."""
        side_files = (self.failures, self.incomplete, self.manifest, self.aggregate_metrics, self.summary)
        return (*self.names, *side_files, self.materialized_inputs)

    @property
    def existing(self) -> list[Path]:
        """Those of `all` that exist, without an empty output next to a compressed one: that only holds the lock."""
        is_compressed = any(path.exists() for path in self.names[1:])
        return [
            path
            for path in self.all
            if path.exists() and not (path == self.output and is_compressed and not has_content(path))
        ]

    def side_file(self, ending: str) -> Path:
        """The side file with this ending: `out.jsonl` and `_x.json` give `out_x.json`."""
        return self.output.with_name(base_name(self.output) + ending)


def output_paths(path: str) -> OutputPaths:
    """The paths of an output. A symbolic link is resolved, so that its target is replaced and not the link."""
    name = Path(path).expanduser()
    output = name.resolve() if name.is_symlink() and not path.startswith("/dev/") else name
    return OutputPaths(plain_name(output), output) if is_compressed(output) else OutputPaths(output)


def check_output(paths: OutputPaths, sources: Iterable[Path]) -> None:
    """Check that the output can be written and would not replace the input; no file is changed.

    Args:
        sources: the input, and its decompressed copy.

    Raises:
        OutputError: the output is not a regular file, its name is too long, or it or a side file is the input.
        ConfigError: the output is to be compressed, and the extra for that is not installed.
    """
    check_compression(f"output_jsonl_fpath {paths.finished}")
    for path in {paths.output, paths.finished}:
        check_replaceable(path)
    longest = max(len(os.fsencode(path.name)) for path in paths.all) + len(TEMPORARY_SUFFIX)
    if longest > _MAX_NAME_BYTES:
        raise OutputError(
            f"output_jsonl_fpath {paths.output}: the name is {longest - _MAX_NAME_BYTES} bytes too long: "
            "choose a shorter one"
        )
    for path, source in product(paths.all, sources):
        if path.exists() and source.exists() and path.samefile(source):
            raise OutputError(
                f"output_jsonl_fpath {paths.finished} would replace the input {source}: choose a different name"
            )


def check_replaceable(output: Path) -> None:
    """Check that an output is a regular file, if it exists.

    Raises:
        OutputError: it is a folder, a device or a pipe.
    """
    # Before the other checks: /dev/stdout may be redirected to a regular file, which is not to be replaced.
    if str(output).startswith(("/dev/", "/proc/")):
        raise OutputError(f"output_jsonl_fpath {output} is not a regular file: use the path of a JSONL file")
    if output.is_dir():
        raise OutputError(f"output_jsonl_fpath {output} is a folder: use the path of a JSONL file")
    if output.exists() and not output.is_file():
        raise OutputError(f"output_jsonl_fpath {output} is not a regular file: use the path of a JSONL file")


def has_content(path: Path) -> bool:
    """Whether a file exists and is not empty."""
    return path.exists() and path.stat().st_size > 0


def remove(paths: OutputPaths) -> None:
    """Remove the output and its side files."""
    for path in paths.all:
        path.unlink(missing_ok=True)


def back_up_output(paths: OutputPaths) -> Path:
    """Rename the output and its side files to `<name>.1`, or the first number that is free for all of them.

    Returns:
        The new name of the first of the files.
    """
    existing = paths.existing
    # One number for all files, so that an output and its side files stay together.
    for number in itertools.count(1):
        backups = {path: path.with_name(f"{path.name}.{number}") for path in paths.all}
        if not any(backup.exists() for backup in backups.values()):
            break
    for path in existing:
        path.rename(backups[path])
    if paths.output not in existing:
        paths.output.unlink(missing_ok=True)
    return backups[existing[0]]
