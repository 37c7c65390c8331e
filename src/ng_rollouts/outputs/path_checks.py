"""Check, before anything is sent, that the files of a run can be written and replace nothing of others."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

from ng_rollouts.errors import InputError, OutputError
from ng_rollouts.outputs.paths import OutputPaths, is_stream_name, reason_of
from ng_rollouts.storage.atomic import SUFFIX_BYTES
from ng_rollouts.storage.compression import base_name, check_compression, compressed_names, plain_name

_ENDINGS = (
    "_failures.jsonl",
    "_incomplete.jsonl",
    "_materialized_inputs.jsonl",
    "_manifest.json",
    "_aggregate_metrics.json",
    "_summary.json",
    "_status.json",
    "_rollout_verdicts.jsonl",
    "_quality_summary.json",
    ".html",
    ".parquet",
)
"""Endings of side files and products, which another output could have as well."""

_STANDARD_STREAMS = (0, 1, 2)

_MAX_NAME_BYTES = 255
"""Limit of a file name in bytes: NAME_MAX of ext4, XFS, Btrfs and tmpfs."""


def check_output(paths: OutputPaths, sources: Collection[Path], other_files: Collection[Path] = ()) -> None:
    """Check that the output can be written, and replaces neither the input nor files of another run.

    No file is changed.

    Args:
        sources: the input, and its decompressed copy.
        other_files: further files that the run reads, such as a prompt template.

    Raises:
        OutputError: one of the files cannot be replaced, its name is too long, or it belongs to something else.
        ConfigError: the output is to be compressed, and the extra for that is not installed.
    """
    check_replaceable(paths.finished)
    check_compression(f"output_jsonl_fpath {paths.finished}")
    longest = max(len(os.fsencode(path.name)) for path in paths.all) + SUFFIX_BYTES
    if longest > _MAX_NAME_BYTES:
        raise OutputError(
            f"output_jsonl_fpath {paths.output}: the name is {longest - _MAX_NAME_BYTES} bytes too long: "
            "choose a shorter one"
        )
    for path in paths.all:
        check_replaceable(path)
    for path, source in product(paths.all, (*sources, *other_files)):
        if _is_same(path, source):
            replaced = f"the input {source}" if source in sources else f"{source}, which this run reads"
            raise OutputError(f"output_jsonl_fpath {paths.finished} would replace {replaced}: choose a different name")
    if twin := next((path for path in _twins(paths) if not any(_is_same(path, source) for source in sources)), None):
        raise OutputError(
            f"output_jsonl_fpath {paths.finished} would share its side files with {twin}: choose a different name"
        )
    check_other_runs(paths)


def _is_same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def check_side_files(paths: OutputPaths) -> None:
    """Check that the side files of an output that is read are regular files. A pipe would be waited for.

    Raises:
        InputError: one is not.
    """
    for path in paths.side_files:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a regular file: remove it")


def check_replaceable(path: Path, parameter: str = "output_jsonl_fpath") -> None:
    """Check that a file is one that can be replaced, if it exists.

    Raises:
        OutputError: it is a folder, a device, a pipe, a mount point or where this program prints, or cannot be read.
    """
    try:
        problem = _problem_of(path)
    except (OSError, RuntimeError, ValueError) as error:
        problem = f"cannot be used: {reason_of(error)}"
    if problem:
        raise OutputError(f"{parameter} {path} {problem}: choose the path of a file")


def _problem_of(path: Path) -> str | None:
    """Why a file cannot be replaced; None if it can."""
    # First: /dev/stdout may be redirected to a regular file, which is not to be replaced.
    if is_stream_name(path):
        return "is not a regular file"
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(state.st_mode):
        return "is a folder"
    if not stat.S_ISREG(state.st_mode):
        return "is not a regular file"
    if any(_is_open_as(fd, state) for fd in _STANDARD_STREAMS):
        return "is the file that this program prints to or reads from"
    if str(path.resolve()) in _mount_points():
        return "is a mount point, which cannot be replaced (mount its folder instead)"
    return None


def _is_open_as(fd: int, state: os.stat_result) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(fd), state)
    return False


def _mount_points() -> set[str]:
    """The mount points of this machine, as Linux lists them (proc_pid_mountinfo(5)); empty elsewhere."""
    with suppress(OSError):
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        return {re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[4]) for line in lines}
    return set()


def check_other_runs(paths: OutputPaths, parameter: str = "output_jsonl_fpath") -> None:
    """Check that no file of this run belongs to another run: `r_failures.jsonl` may be a side file, or an output.

    Raises:
        OutputError: one does.
    """
    for ending in _ENDINGS:
        if paths.output.name.endswith(ending):
            owner = OutputPaths(paths.output.with_name(paths.output.name.removesuffix(ending) + ".jsonl"))
            if any(path.exists() for path in (*owner.names, owner.manifest)):
                raise OutputError(
                    f"{parameter} {paths.finished} is the name of a side file of {owner.output}: choose another"
                )
    for side_file in (paths.side_file(ending) for ending in _ENDINGS):
        other = OutputPaths(side_file)
        if side_file.exists() and (found := next((path for path in other.side_files if path.exists()), None)):
            raise OutputError(
                f"{parameter} {paths.finished} would replace {side_file}, which is an output itself (it has "
                f"{found.name}): choose a different name"
            )


def _twins(paths: OutputPaths) -> Iterator[Path]:
    """Existing files that are another output with the same side files: `r` and `r.jsonl`."""
    name = base_name(paths.output)
    for plain in (paths.output.with_name(name), paths.output.with_name(f"{name}.jsonl")):
        for path in (plain, *compressed_names(plain)):
            if path not in paths.names and path.is_file():
                yield path


def check_not_an_output(path: Path, parameter: str) -> None:
    """Check that a file that a command replaces is not the output of a run.

    Raises:
        OutputError: it has side files, so it is one.
    """
    found = next((each for each in OutputPaths(plain_name(path)).side_files if each.exists()), None)
    if path.exists() and found:
        raise OutputError(f"{parameter} {path} is the output of a run (it has {found.name}): choose a different name")


@contextmanager
def writable(target: Path) -> Iterator[None]:
    """Turn an OSError of the block into an OutputError that names the file.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error
