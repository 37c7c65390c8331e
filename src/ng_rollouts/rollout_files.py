"""Files of rollouts, ours or NeMo Gym's -> groups, one at a time."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ng_rollouts.errors import InputError
from ng_rollouts.jsonlines import loads
from ng_rollouts.records import Facts, Json, Key, key_of
from ng_rollouts.rows import facts_of

_TASK, _ROLLOUT = re.compile(rb'"_ng_task_index": ?(\d+)'), re.compile(rb'"_ng_rollout_index": ?(\d+)')


@dataclass(slots=True)
class Group:
    """The rollouts of one task, in order.

    Attributes:
        first: the row of its first rollout.
        indices: of its rollouts, `_ng_rollout_index`.
    """

    task_index: int
    agent: str
    first: Json
    facts: list[Facts]
    indices: list[int]


def groups_of(path: Path, answer_key: str | None = None) -> Iterator[Group]:
    """The groups of a file, in its order if their rollouts lie together, else by task index.

    Raises:
        InputError: the file cannot be read, or a line is no rollout.
    """
    rows = _rows(path) if _lies_together(path) else _rows_at(path, _order(path))
    group: Group | None = None
    for number, row in rows:
        key = _key(path, number, row)
        if group is None or group.task_index != key.task_index:
            if group:
                yield group
            group = Group(key.task_index, _agent(row), row, [], [])
        group.facts.append(facts_of(row, answer_key))
        group.indices.append(key.rollout_index)
    if group:
        yield group


def rows_of(paths: Iterable[Path]) -> Iterator[tuple[Path, int, Json]]:
    """The rows of several files with their line numbers."""
    for path in paths:
        for number, row in _rows(path):
            yield path, number, row


def _lies_together(path: Path) -> bool:
    """Whether keys only grow, as in a finished file; told by where they stand, without parsing rows."""
    before = (-1, -1)
    with _opened(path) as file:
        for line in file:
            found = _TASK.findall(line), _ROLLOUT.findall(line)
            key = (int(found[0][-1]) if found[0] else -1, int(found[1][-1]) if found[1] else -1)
            if line.strip() and key <= before:
                return False
            before = key
    return True


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _order(path: Path) -> Iterator[int]:
    keys: list[tuple[int, int, int]] = []
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                keys.append((*_key(path, number, _parsed(path, number, line)), offset))
            offset += len(line)
    keys.sort()
    return iter(array("q", [place for _, _, place in keys]))


def _rows_at(path: Path, offsets: Iterator[int]) -> Iterator[tuple[int, Json]]:
    with _opened(path) as file:
        for offset in offsets:
            file.seek(offset)
            yield 0, _parsed(path, 0, file.readline())


def _rows(path: Path) -> Iterator[tuple[int, Json]]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _parsed(path, number, line)


def _parsed(path: Path, number: int, line: bytes) -> Json:
    try:
        row = loads(line)
    except ValueError as error:
        raise InputError(f"{path}, line {number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{path}, line {number}: not a JSON object")
    return row


def _key(path: Path, number: int, row: Json) -> Key:
    key = key_of(row)
    if key is None:
        raise InputError(f"{path}, line {number}: no _ng_task_index and _ng_rollout_index, so this is no rollout")
    return key


def _agent(row: Json) -> str:
    reference = row.get("agent_ref")
    name = reference.get("name") if isinstance(reference, dict) else None
    return str(name) if name else "agent"
