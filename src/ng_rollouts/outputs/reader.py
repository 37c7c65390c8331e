"""Read files of rollouts, written by this package or by NeMo Gym, and ATIF trajectories, one group at a time.

A file that is not in order is read twice: first for its keys and offsets, then row by row in order. So one group is in
memory at a time, in any order of the file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, NamedTuple, Self, cast

from ng_rollouts.chat import chat_output, question_of
from ng_rollouts.console import log
from ng_rollouts.errors import InputError
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.metrics.aggregate import by_agent
from ng_rollouts.metrics.result_rows import stats_of
from ng_rollouts.metrics.score_table import ScoreNames
from ng_rollouts.outputs.from_atif import is_trajectory, row_of, single_line
from ng_rollouts.storage.compression import is_compressed, open_decompressed
from ng_rollouts.storage.lock import holder_of
from ng_rollouts.types import Json, RolloutKey, RolloutStats, agent_of, key_of

_TASK_INDEX, _ROLLOUT_INDEX, _AGENT_REF = b'"_ng_task_index"', b'"_ng_rollout_index"', b'"agent_ref"'
_ID_FIELDS = ("prompt_id", "id", "task_id", "uuid")

_NUMBER = re.compile(rb"\s*:\s*(\d+)")
# Printable ASCII without quotes and backslashes, so that the name needs no unescaping.
_AGENT_NAME = re.compile(rb'\s*:\s*\{\s*"name"\s*:\s*"([\x20!#-\[\]-~]+)"')

GROUPINGS = ("auto", "task_index", "prompt_id", "input", "position")
"""Ways to group the rows of a file; see `located_groups`."""


class RowAt(NamedTuple):
    """A row with its line number (0 if it is not known) and the offset of its line in bytes."""

    number: int
    offset: int
    row: Json


@dataclass(slots=True)
class Group:
    """The rollouts of one task, in order.

    Attributes:
        first: row of the first rollout.
        stats, indices, agents: statistics, `_ng_rollout_index` and agent name of each rollout.
        last_messages: content of the last message of each rollout, if it was requested.
    """

    task_index: int
    first: Json
    stats: list[RolloutStats] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    last_messages: list[str | None] = field(default_factory=list)

    def by_agent(self) -> dict[str, list[RolloutStats]]:
        """The rollouts' statistics by agent name."""
        return by_agent(zip(self.agents, self.stats, strict=True))


@dataclass(frozen=True, slots=True)
class FileState:
    """The state of a file: its inode, its size in bytes, and the time of its last modification in ns."""

    inode: int
    size: int
    _modified_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The current state of a file."""
        state = path.stat()
        return cls(state.st_ino, state.st_size, state.st_mtime_ns)

    def check(self, path: Path) -> None:
        """Check that a file is unchanged, or has only grown, as that of a live run does.

        Raises:
            InputError: offsets in the file may be those of other rows now.
        """
        now = FileState.of(path)
        if now != self and not (now.inode == self.inode and now.size > self.size):
            raise InputError(f"{path} was changed while it was read: run the command again")


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of `scan`.

    Attributes:
        in_order: whether each key is larger than the one before, as in a finished file.
        max_repeats: largest `_ng_rollout_index` plus one, by agent.
        state: the file as it was.
    """

    in_order: bool
    max_repeats: dict[str, int]
    state: FileState


def groups_of(
    path: Path, answer_key: str | None = None, scanned: Scan | None = None, *, with_last_messages: bool = False
) -> Iterator[Group]:
    """The groups of a file, by task index; a file without keys is grouped by prompt, in the order of the file.

    Args:
        answer_key: field of the answer for majorities.
        scanned: result of `scan`, if the file has already been scanned.
        with_last_messages: whether to fill `Group.last_messages`.

    Raises:
        InputError: the file cannot be read, or a line is not a rollout.
    """
    group: Group | None = None
    score_names = ScoreNames()
    for key, (_, _, row) in keyed_rows(path, scanned):
        if group is None or group.task_index != key.task_index:
            if group:
                yield group
            group = Group(key.task_index, row)
        stats = score_names.limit(stats_of(row, answer_key))
        # A row without keys has the index that its place in the file gives it.
        if stats.rollout_index != key.rollout_index:
            stats = stats._replace(rollout_index=key.rollout_index)
        group.stats.append(stats)
        group.indices.append(key.rollout_index)
        group.agents.append(agent_of(row))
        if with_last_messages:
            group.last_messages.append(last_message_text(row))
    if group:
        yield group


def keyed_rows(path: Path, scanned: Scan | None = None) -> Iterator[tuple[RolloutKey, RowAt]]:
    """The rows of a file in the order of their keys; a file without keys is grouped by prompt.

    Args:
        scanned: result of `scan`, if the file has already been scanned.

    Raises:
        InputError: the file cannot be read, or a line is not a rollout.
    """
    if lacks_keys(path):
        return _rows_by_value(path, task_value)
    return _rows_by_key(path, scanned or scan(path))


def row_groups(path: Path, group_by: str = "auto", size: int = 0) -> Iterator[list[Json]]:
    """The rows of each group; see `located_groups`."""
    return ([row_at.row for row_at in group] for group in located_groups(path, group_by, size))


def located_groups(path: Path, group_by: str = "auto", size: int = 0) -> Iterator[list[RowAt]]:
    """The rows of each group with their line numbers and offsets.

    Args:
        group_by: one of `GROUPINGS`. `auto` uses the task index if rows have one, else `prompt_id`, else the input.
        size: rows per group, with `group_by="position"`.

    Raises:
        InputError: the file cannot be read, a line is not a rollout, or a row does not have the field to group by.
    """
    if group_by == "position":
        rows = _rows(path)
        while group := list(islice(rows, size)):
            yield group
        return
    if group_by == "task_index" or (group_by == "auto" and not lacks_keys(path)):
        keyed = _rows_by_key(path, scan(path))
    else:
        by_prompt = group_by == "prompt_id" or (group_by == "auto" and _first(path).get("prompt_id") is not None)
        keyed = _rows_by_value(path, _prompt_id if by_prompt else task_value)
    for _, pairs in groupby(keyed, key=lambda pair: pair[0].task_index):
        yield [row_at for _, row_at in pairs]


def scan(path: Path) -> Scan:
    """Read the keys and agent names of a file, without parsing its rows where possible.

    Raises:
        InputError: the file cannot be read.
    """
    in_order, previous, max_repeats = True, (-1, -1), dict[str, int]()
    with open_rollouts(path) as file:
        state = FileState.of(path)
        for number, line in enumerate(file, 1):
            if line.strip():
                key, agent = _match_key(line) or _read_key(parse_row(path, number, line))
                in_order, previous = in_order and key > previous, key
                if key[1] >= max_repeats.get(agent, 0):
                    max_repeats[agent] = key[1] + 1
    return Scan(in_order, max_repeats, state)


def _match_key(line: bytes) -> tuple[tuple[int, int], str] | None:
    """Key and agent of a row that is not parsed; None if they are not certain."""
    # A field name that occurs twice may be nested or part of a string.
    if not line.count(_TASK_INDEX) == line.count(_ROLLOUT_INDEX) == line.count(_AGENT_REF) == 1:
        return None
    task = _NUMBER.match(line, line.index(_TASK_INDEX) + len(_TASK_INDEX))
    rollout = _NUMBER.match(line, line.index(_ROLLOUT_INDEX) + len(_ROLLOUT_INDEX))
    agent = _AGENT_NAME.match(line, line.index(_AGENT_REF) + len(_AGENT_REF))
    return ((int(task[1]), int(rollout[1])), agent[1].decode()) if task and rollout and agent else None


def _read_key(row: Json) -> tuple[tuple[int, int], str]:
    return key_of(row) or (-1, -1), agent_of(row)


def lacks_keys(path: Path) -> bool:
    """Whether the first row has no task and rollout index, as in files of NeMo Gym's first collector."""
    return key_of(_first(path)) is None


def rows_of(paths: Iterable[Path]) -> Iterator[tuple[Path, int, Json]]:
    """The rows of several files, each with its file and line number."""
    for path in paths:
        for number, _, row in _rows(path):
            yield path, number, row


def _first(path: Path) -> Json:
    return next((row_at.row for row_at in _rows(path)), {})


def _rows_by_key(path: Path, scanned: Scan) -> Iterator[tuple[RolloutKey, RowAt]]:
    """The rows of a file with their keys, ordered by key."""
    previous: RolloutKey | None = None
    for row_at in _rows(path, scanned.state) if scanned.in_order else _rows_at(path, *_offsets_by_key(path)):
        key = _key(path, row_at.number, row_at.row)
        if key == previous:
            _report_duplicates(path, path.resolve())
            continue
        previous = key
        yield key, row_at


@lru_cache
def _report_duplicates(path: Path, _absolute: Path) -> None:
    """Report once for each file that rollouts are repeated."""
    log(f"warning: {path} has rollouts more than once: the first row of each counts")


def task_value(row: Json) -> Any:
    """The value by which rows without keys belong to one task: their question, or else an id; None without both."""
    question = question_of(row)
    if question["input"]:
        return question
    ids = (row.get(name) for name in _ID_FIELDS)
    return next((value for value in ids if isinstance(value, (str, int)) and value != ""), None)


def value_digest(value: Any, number: int) -> bytes:
    """A digest of a value. Without a value, the row with this number is a task by itself."""
    return hashlib.blake2b(b"row %d" % number if value is None else dumps(value), digest_size=16).digest()


def _rows_by_value(path: Path, value_of: Callable[[Json], Any]) -> Iterator[tuple[RolloutKey, RowAt]]:
    """The rows of a file without keys, with new ones. Rows with an equal value are one task, in order of appearance."""
    # Digests, because the values are whole prompts.
    offsets: dict[bytes, array[int]] = {}
    offset = 0
    with open_rollouts(path) as file:
        state = FileState.of(path)
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    value = value_of(parse_row(path, number, line))
                except KeyError as error:
                    raise InputError(
                        f"{path}, line {number}: no {error.args[0]} to group by: use another group_by"
                    ) from error
                digest = value_digest(value, number)
                offsets.setdefault(digest, array("q")).append(offset)
            offset += len(line)
    for task_index, group_offsets in enumerate(offsets.values()):
        for rollout_index, row_at in enumerate(_rows_at(path, iter(group_offsets), state)):
            yield RolloutKey(task_index, rollout_index), row_at


def _prompt_id(row: Json) -> Any:
    if row.get("prompt_id") is None:
        raise KeyError("prompt_id")
    return row["prompt_id"]


def check_readable(parameter: str, path: Path, *, follows: bool = False) -> None:
    """Check that a file can be read, without opening it: a pipe can be opened only once.

    Args:
        follows: whether what a live run writes from now on is read as well.

    Raises:
        InputError: it cannot; the message names the parameter.
    """
    if not path.exists():
        problem = errno.ENOENT
    elif path.is_dir():
        problem = errno.EISDIR
    elif not os.access(path, os.R_OK):
        problem = errno.EACCES
    else:
        check_regular(parameter, path)
        if not follows:
            _report_writer(path)
        return
    raise InputError(f"{parameter} {path} cannot be read: {os.strerror(problem)}")


def check_regular(parameter: str, path: Path) -> None:
    """Check that a file is not a pipe or a device.

    Raises:
        InputError: it is.
    """
    if not path.is_file():
        raise InputError(f"{parameter} {path} is not a regular file: copy its content to one, because it is read twice")


def _report_writer(path: Path) -> None:
    with path.open("rb") as file:
        if holder := holder_of(file.fileno()):
            log(f"warning: {path} is being written by {holder}: what is written from now on is left out")


@contextmanager
def open_rollouts(path: Path) -> Iterator[BinaryIO]:
    """Open a file of rollouts, which may be compressed, or one pretty-printed trajectory.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with open_decompressed(path) as file:
            if (line := single_line(file)) is None:
                yield file
            else:
                with TemporaryFile() as copy:  # a real file, because callers look for a lock on it
                    copy.write(line)
                    copy.seek(0)
                    yield cast("BinaryIO", copy)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def holds_trajectory(path: Path) -> bool:
    """Whether a file begins with an ATIF trajectory. False if it cannot be read."""
    with suppress(InputError, ValueError), open_rollouts(path) as file:
        return is_trajectory(loads(file.readline()))
    return False


def _offsets_by_key(path: Path) -> tuple[Iterator[int], FileState]:
    """The offsets of all rows, ordered by key, and the state of the file that they are in."""
    keys: list[tuple[int, int, int]] = []
    offset = 0
    with open_rollouts(path) as file:
        state = FileState.of(path)
        for number, line in enumerate(file, 1):
            if line.strip():
                keys.append((*_key(path, number, parse_row(path, number, line)), offset))
            offset += len(line)
    keys.sort()
    # Only the offsets stay in memory while the rows are read; the list of keys is more than ten times as large.
    return iter(array("q", [row_offset for _, _, row_offset in keys])), state


def _rows_at(path: Path, offsets: Iterator[int], state: FileState) -> Iterator[RowAt]:
    with open_rollouts(path) as file:
        state.check(path)
        for offset in offsets:
            file.seek(offset)
            yield RowAt(0, offset, parse_row(path, 0, file.readline()))


def _rows(path: Path, state: FileState | None = None) -> Iterator[RowAt]:
    """The rows in the order of the file. With a state, only those that the file had then."""
    offset = 0
    with open_rollouts(path) as file:
        if state:
            state.check(path)
        for number, line in enumerate(file, 1):
            if state and offset >= state.size and not is_compressed(path):
                return
            if line.strip():
                yield RowAt(number, offset, parse_row(path, number, line))
            offset += len(line)


def parse_row(path: Path, number: int, line: bytes) -> Json:
    """The JSON object in a line; for a trajectory, its row.

    Raises:
        InputError: the line is neither.
    """
    try:
        row = loads(line)
    except ValueError as error:
        raise InputError(f"{path}, line {number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{path}, line {number}: not a JSON object")
    return _row_of_trajectory(path, number, row) if is_trajectory(row) else row


def _row_of_trajectory(path: Path, number: int, trajectory: Json) -> Json:
    try:
        return row_of(trajectory)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # Trajectories are not validated up front: this program reads only part of their fields.
        message = f"not a valid ATIF trajectory: {type(error).__name__}: {error}"
        raise InputError(f"{path}, line {number}: {message}") from error


def _key(path: Path, number: int, row: Json) -> RolloutKey:
    key = key_of(row)
    if key is None:
        raise InputError(f"{path}, line {number}: not a rollout: _ng_task_index or _ng_rollout_index is missing")
    return key


def last_message_text(row: Json) -> str | None:
    """The content of the last message of a rollout; None if it has none, or its content is not text."""
    output = row.get("output")
    last = output[-1] if isinstance(output, list) and output else None
    # An agent may return its own `output`, whose items need not be chat messages.
    if not (isinstance(last, dict) and "role" in last):
        last = next(reversed(chat_output(row.get("response"))), None)
    content = last.get("content") if last else None
    return content if isinstance(content, str) else None
