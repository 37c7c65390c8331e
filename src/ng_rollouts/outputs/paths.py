"""The paths of the output and its side files, checks of the output's path, and backups of an existing output."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ng_rollouts.errors import OutputError
from ng_rollouts.storage.compression import base_name, compressed_names, is_compressed, plain_name


@dataclass(frozen=True, slots=True)
class OutputPaths:
    """The output and its side files, all in one folder.

    Attributes:
        output: the journal during a run; after it the finished file, unless that is compressed.
        compressed: the compressed finished file, if the output's name has such an extension.
        products: further files that this run makes from the output, such as its page.
    """

    output: Path
    compressed: Path | None = None
    products: tuple[Path, ...] = ()

    @property
    def finished(self) -> Path:
        """The finished file."""
        return self.compressed or self.output

    @property
    def names(self) -> tuple[Path, ...]:
        """All names of the output, plain and compressed. They have the same side files, so they are one output."""
        names = (self.output, *compressed_names(self.output))
        # An extension in capitals is another name.
        return names if self.finished in names else (*names, self.finished)

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
    def control_socket(self) -> Path:
        """The socket that takes commands for the run, while it runs; see `control/address.py`."""
        return self.side_file("_control.sock")

    @property
    def materialized_inputs(self) -> Path:
        """The planned rows, as NeMo Gym's collector writes them."""
        return self.side_file("_materialized_inputs.jsonl")

    @property
    def rollout_verdicts(self) -> Path:
        """The verdict about the health of each rollout, one per line."""
        return self.side_file("_rollout_verdicts.jsonl")

    @property
    def quality_summary(self) -> Path:
        """The health of the rollouts in numbers, in NeMo Gym's format with additional fields."""
        return self.side_file("_quality_summary.json")

    @property
    def health_files(self) -> tuple[Path, ...]:
        """The files about health, which `ng_health_check` writes."""
        return (self.rollout_verdicts, self.quality_summary)

    @property
    def side_files(self) -> tuple[Path, ...]:
        """The files beside the output that belong to every run. The status file only exists during a run."""
        lines = (self.failures, self.incomplete)
        return (*lines, self.manifest, self.aggregate_metrics, self.summary, self.materialized_inputs)

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file that a run writes, moves or removes: the output under each of its names, then the others.

        The files about health are of the rollouts that they were made from, so they are moved and removed with those.
        """
        return (*self.names, *self.side_files, *self.health_files, *self.products)

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


def output_paths(path: str, products: Iterable[str] = ()) -> OutputPaths:
    """The paths of an output. A symbolic link is resolved, so that its target is replaced and not the link.

    Args:
        products: endings of further files that this run makes from the output, such as `.html`.

    Raises:
        OutputError: the links form a loop, or the path is not one.
    """
    try:
        name = Path(path).expanduser()
        output = name.resolve() if name.is_symlink() and not is_stream_name(name) else name
        if is_compressed(plain_name(output)):
            raise ValueError("it has two compression extensions")
        paths = OutputPaths(plain_name(output), output) if is_compressed(output) else OutputPaths(output)
        return replace(paths, products=tuple(map(paths.side_file, products)))
    except (OSError, RuntimeError, ValueError) as error:
        raise OutputError(f"output_jsonl_fpath {path!r} is not the path of a file: {reason_of(error)}") from error


def is_stream_name(path: Path) -> bool:
    """Whether a path, or the link that it is, names an open file: /dev/stdout, /proc/self/fd/1."""
    names = [str(path)]
    with suppress(OSError):
        names.append(str(path.readlink()))
    return any(name.startswith(("/dev/", "/proc/")) and not name.startswith("/dev/shm/") for name in names)  # noqa: S108


def reason_of(error: Exception) -> str:
    """The reason of an error of the operating system, without its number and file."""
    return getattr(error, "strerror", None) or str(error)


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
    # An empty output only holds the lock.
    existing = [path for path in paths.existing if path != paths.output or has_content(path)]
    # One number for all files, so that an output and its side files stay together.
    for number in itertools.count(1):
        backups = {path: path.with_name(f"{path.name}.{number}") for path in paths.all}
        if not any(map(os.path.lexists, backups.values())):
            break
    for path in existing:
        path.rename(backups[path])
    if paths.output not in existing:
        paths.output.unlink(missing_ok=True)
    return backups[existing[0]]
