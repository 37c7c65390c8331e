"""Files of rollouts, ours or NeMo Gym's -> groups, one at a time."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ng_rollouts.errors import InputError
from ng_rollouts.jsonlines import dumps, loads
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
    if _lacks_keys(path):
        rows = _rows_by_input(path)
    else:
        rows = _rows(path) if _lies_together(path) else _rows_at(path, _order(path))
    group: Group | None = None
    for number, row in rows:
        key = _key(path, number, row)
        if group is None or group.task_index != key.task_index:
            if group:
                yield group
            group = Group(key.task_index, _agent(row), row, [], [])
        elif group.indices[-1] == key.rollout_index:
            raise InputError(f"{path}: task {key.task_index} rollout {key.rollout_index} occurs more than once")
        group.facts.append(facts_of(row, answer_key))
        group.indices.append(key.rollout_index)
    if group:
        yield group


def rows_of(paths: Iterable[Path]) -> Iterator[tuple[Path, int, Json]]:
    """The rows of several files with their line numbers."""
    for path in paths:
        for number, row in _rows(path):
            yield path, number, row


def _lacks_keys(path: Path) -> bool:
    """Whether rows do not say which rollout they are, as those of NeMo Gym's first collector."""
    return all(key_of(row) is None for _, row in islice(_rows(path), 1))


def _rows_by_input(path: Path) -> Iterator[tuple[int, Json]]:
    """Rows with keys of ours: those that ask the same are a task's, in first-seen order."""
    offsets: dict[bytes, list[int]] = {}
    offset = 0
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                asked = dumps(_parsed(path, number, line).get("responses_create_params"))
                offsets.setdefault(hashlib.blake2b(asked, digest_size=16).digest(), []).append(offset)
            offset += len(line)
    for task_index, places in enumerate(offsets.values()):
        for rollout_index, (number, row) in enumerate(_rows_at(path, iter(places))):
            yield number, {**row, "_ng_task_index": task_index, "_ng_rollout_index": rollout_index}


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
