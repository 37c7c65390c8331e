"""Files of rollouts, ours or NeMo Gym's -> groups, one at a time."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ng_rollouts.chat import chat_output, question_of
from ng_rollouts.errors import InputError
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.metrics.aggregate import by_agent
from ng_rollouts.metrics.result_rows import stats_of
from ng_rollouts.storage.compression import open_decompressed
from ng_rollouts.types import Json, RolloutKey, RolloutStats, agent_of, key_of

_TASK_INDEX, _ROLLOUT_INDEX, _AGENT_REF = b'"_ng_task_index"', b'"_ng_rollout_index"', b'"agent_ref"'
_NUMBER = re.compile(rb"\s*:\s*(\d+)")
_NAMED = re.compile(rb'\s*:\s*\{\s*"name"\s*:\s*"([\x20!#-\[\]-~]+)"')

GROUPINGS = ("auto", "task_index", "prompt_id", "input", "position")


class RowAt(NamedTuple):
    """A row, the number of its line (0 if that is not known), and where in the file the line begins."""

    number: int
    offset: int
    row: Json


@dataclass(slots=True)
class Group:
    """The rollouts of one task, in order.

    Attributes:
        first: the row of its first rollout.
        facts, indices, agents: of each rollout, what figures are made of, its `_ng_rollout_index`, who answered.
        said: of each, its last words, where they were asked for.
    """

    task_index: int
    first: Json
    stats: list[RolloutStats] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    last_messages: list[str | None] = field(default_factory=list)

    def by_agent(self) -> dict[str, list[RolloutStats]]:
        """Its rollouts by the agent that answered."""
        return by_agent(zip(self.agents, self.stats, strict=True))


@dataclass(frozen=True, slots=True)
class Scan:
    """What a look at the keys of a file tells, without parsing its rows.

    Attributes:
        in_order: whether keys only grow, as in a finished file.
        most: by agent, the largest `_ng_rollout_index`, and one.
    """

    in_order: bool
    most: dict[str, int]


def groups_of(
    path: Path, answer_key: str | None = None, scanned: Scan | None = None, *, with_texts: bool = False
) -> Iterator[Group]:
    """The groups of a file, in its order if their rollouts lie together, else by task index.

    Args:
        with_texts: whether groups are to have what was said.

    Raises:
        InputError: the file cannot be read, or a line is no rollout.
    """
    group: Group | None = None
    rows = _rows_by(path, question_of) if lacks_keys(path) else _rows_by_key(path, scanned or scan(path))
    for key, (_, _, row) in rows:
        if group is None or group.task_index != key.task_index:
            if group:
                yield group
            group = Group(key.task_index, row)
        group.stats.append(stats_of(row, answer_key))
        group.indices.append(key.rollout_index)
        group.agents.append(agent_of(row))
        if with_texts:
            group.last_messages.append(last_message_text(row))
    if group:
        yield group


def row_groups(path: Path, group_by: str = "auto", size: int = 0) -> Iterator[list[Json]]:
    """The rows of each group, whole; see `located_groups`."""
    return ([row_at.row for row_at in group] for group in located_groups(path, group_by, size))


def located_groups(path: Path, group_by: str = "auto", size: int = 0) -> Iterator[list[RowAt]]:
    """The rows of each group, and where in the file they are.

    Args:
        group_by: one of `GROUPINGS`; `auto` is by task index where rows have one, else by prompt_id, else by input.
        size: rows of a group by position.

    Raises:
        InputError: the file cannot be read, or a line is no rollout, or lacks what is grouped by.
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
        keyed = _rows_by(path, _prompt_id if by_prompt else question_of)
    for _, pairs in groupby(keyed, key=lambda pair: pair[0].task_index):
        yield [row_at for _, row_at in pairs]


def scan(path: Path) -> Scan:
    """Look at the keys of a file.

    Raises:
        InputError: it cannot be read.
    """
    in_order, before, most = True, (-1, -1), dict[str, int]()
    with open_rollouts(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                key, agent = _glanced(line) or _looked(_parsed(path, number, line))
                in_order, before = in_order and key > before, key
                if key[1] >= most.get(agent, 0):
                    most[agent] = key[1] + 1
    return Scan(in_order, most)


def _glanced(line: bytes) -> tuple[tuple[int, int], str] | None:
    """Key and agent of a row that is not parsed; None if there is any doubt about them."""
    if not line.count(_TASK_INDEX) == line.count(_ROLLOUT_INDEX) == line.count(_AGENT_REF) == 1:
        return None
    task = _NUMBER.match(line, line.index(_TASK_INDEX) + len(_TASK_INDEX))
    rollout = _NUMBER.match(line, line.index(_ROLLOUT_INDEX) + len(_ROLLOUT_INDEX))
    named = _NAMED.match(line, line.index(_AGENT_REF) + len(_AGENT_REF))
    return ((int(task[1]), int(rollout[1])), named[1].decode()) if task and rollout and named else None


def _looked(row: Json) -> tuple[tuple[int, int], str]:
    return key_of(row) or (-1, -1), agent_of(row)


def lacks_keys(path: Path) -> bool:
    """Whether rows do not say which rollout they are, as those of NeMo Gym's first collector."""
    return key_of(_first(path)) is None


def rows_of(paths: Iterable[Path]) -> Iterator[tuple[Path, int, Json]]:
    """The rows of several files with their line numbers."""
    for path in paths:
        for number, _, row in _rows(path):
            yield path, number, row


def _first(path: Path) -> Json:
    return next((row_at.row for row_at in _rows(path)), {})


def _rows_by_key(path: Path, scanned: Scan) -> Iterator[tuple[RolloutKey, RowAt]]:
    """Rows by task and rollout index."""
    before: RolloutKey | None = None
    for row_at in _rows(path) if scanned.in_order else _rows_at(path, _order(path)):
        key = _key(path, row_at.number, row_at.row)
        if key == before:
            raise InputError(f"{path}: task {key.task_index} rollout {key.rollout_index} occurs more than once")
        before = key
        yield key, row_at


def _rows_by(path: Path, what: Callable[[Json], Any]) -> Iterator[tuple[RolloutKey, RowAt]]:
    """Rows with keys of ours: those that are alike in something are a task's, in first-seen order."""
    offsets: dict[bytes, array[int]] = {}
    offset = 0
    with open_rollouts(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    digest = hashlib.blake2b(dumps(what(_parsed(path, number, line))), digest_size=16).digest()
                except KeyError as error:
                    raise InputError(f"{path}, line {number}: no {error.args[0]} to group by") from error
                offsets.setdefault(digest, array("q")).append(offset)
            offset += len(line)
    for task_index, places in enumerate(offsets.values()):
        for rollout_index, row_at in enumerate(_rows_at(path, iter(places))):
            yield RolloutKey(task_index, rollout_index), row_at


def _prompt_id(row: Json) -> Any:
    if row.get("prompt_id") is None:
        raise KeyError("prompt_id")
    return row["prompt_id"]


@contextmanager
def open_rollouts(path: Path) -> Iterator[BinaryIO]:
    """A file of rollouts to read from, packed or not.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open_decompressed(path) as file:
            yield file
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _order(path: Path) -> Iterator[int]:
    keys: list[tuple[int, int, int]] = []
    offset = 0
    with open_rollouts(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                keys.append((*_key(path, number, _parsed(path, number, line)), offset))
            offset += len(line)
    keys.sort()
    return iter(array("q", [place for _, _, place in keys]))


def _rows_at(path: Path, offsets: Iterator[int]) -> Iterator[RowAt]:
    with open_rollouts(path) as file:
        for offset in offsets:
            file.seek(offset)
            yield RowAt(0, offset, _parsed(path, 0, file.readline()))


def _rows(path: Path) -> Iterator[RowAt]:
    offset = 0
    with open_rollouts(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield RowAt(number, offset, _parsed(path, number, line))
            offset += len(line)


def _parsed(path: Path, number: int, line: bytes) -> Json:
    try:
        row = loads(line)
    except ValueError as error:
        raise InputError(f"{path}, line {number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{path}, line {number}: not a JSON object")
    return row


def _key(path: Path, number: int, row: Json) -> RolloutKey:
    key = key_of(row)
    if key is None:
        raise InputError(f"{path}, line {number}: no _ng_task_index and _ng_rollout_index, so this is no rollout")
    return key


def last_message_text(row: Json) -> str | None:
    """The content of the last message of a rollout; None if there is none."""
    last_messages = row.get("output")
    last = last_messages[-1] if isinstance(last_messages, list) and last_messages else None
    if not (isinstance(last, dict) and "role" in last):
        last = next(reversed(chat_output(row.get("response"))), None)
    content = last.get("content") if last else None
    return content if isinstance(content, str) else None
