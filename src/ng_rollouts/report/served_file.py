"""One file of rollouts behind a served page: its index, where its rows are, and what a live run adds to it."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ng_rollouts.control.client import send_command
from ng_rollouts.errors import InputError, NgRolloutsError
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.outputs.reader import open_rollouts, parse_row
from ng_rollouts.report.html import NOT_IN_PAGE
from ng_rollouts.report.live_index import LiveIndex
from ng_rollouts.report.overview import listed_changes, live_overview
from ng_rollouts.report.page import FileData, read_file
from ng_rollouts.report.row_view import row_view, searchable_text
from ng_rollouts.report.run_state import heading_of, is_running
from ng_rollouts.report.task_index import FAILED, FINISHED, INCOMPLETE, AgentNumbers, Entry, TaskIndex, source_of
from ng_rollouts.types import Json

_KIND_BITS = 2
"""Bits of a place for the kind of the row; the others are its offset."""

Addition = list[Any]
"""A row that a live run has added, as `LiveIndex.add` describes it."""


class ServedFile:
    """A file of rollouts, finished or written at this moment. Threads of the server share it."""

    def __init__(self, paths: OutputPaths, score: str, agent_numbers: AgentNumbers) -> None:
        self._paths = paths
        self._score = score
        self._agent_numbers = agent_numbers
        self._lock = threading.RLock()
        self._live: LiveIndex | None = None
        self._finished: FileData | None = None
        # By task index: for each row its offset and kind, in the order of the index.
        self._places: dict[int, array[int]] = {}
        self._files: dict[int, Path] = {}
        # By file: its inode, and how many bytes of it are read.
        self._read: dict[Path, tuple[int, int]] = {}
        self.load()
        self._was_read = False  # no page has an earlier index

    def load(self) -> None:
        """Read the file from its beginning. After an error, everything is as it was.

        Raises:
            InputError: it cannot be read, or has no rollouts.
            ConfigError: no rollout has the score.
        """
        with self._lock:
            before = self._live, self._finished, self._places, self._files, self._read
            try:
                self._load()
            except BaseException:
                self._live, self._finished, self._places, self._files, self._read = before
                raise
            self._was_read = True

    def _load(self) -> None:
        running = is_running(self._paths)
        # While a run writes it, the output is the plain file, also if its final name is that of a compressed one.
        source = self._paths.output if running else source_of(self._paths)
        self._files = {FINISHED: source, INCOMPLETE: self._paths.incomplete, FAILED: self._paths.failures}
        self._places, self._read = {}, {}
        if running:
            self._live, self._finished = LiveIndex(self._agent_numbers, self._score), None
            list(self._additions())
            return
        # Before the rows: what is appended or replaced while they are read is noticed by the next `poll`.
        states = {path: _state(path) for path in self._files.values()}
        # The heading as well is of the file without a run. One that begins meanwhile is noticed by the next `poll`.
        self._finished = read_file(self._paths, self._score, self._agent_numbers, self._store, running=False)
        self._live = None
        self._read = states

    @property
    def is_live(self) -> bool:
        """Whether a run was writing the file when it was read."""
        return self._live is not None

    def data(self) -> FileData:
        """Index and overview."""
        with self._lock:
            if self._live is None:
                assert self._finished is not None  # noqa: S101 - a file that is not live has been read as a whole
                return self._finished
            heading = self._heading(self._live)
            return FileData(self._live.columns(), {"heading": heading, **live_overview(self._paths, self._live)})

    def poll(self) -> tuple[bool, list[Addition]]:
        """Read what was added since the last call.

        Returns:
            Whether the file was read anew, because a run has begun, ended or put it in order; and the rows that a live
            run has added.
        """
        with self._lock:
            if is_running(self._paths) is not self.is_live or any(map(self._is_rewritten, self._files.values())):
                self.load()
            # Also by a request for rows since the last call: open pages do not have the new index yet.
            was_read, self._was_read = self._was_read, False
            return was_read, list(self._additions()) if self._live and not was_read else []

    def control(self, command: str) -> Json:
        """Send a command to the run that writes the file, and return its reply.

        Raises:
            UsageError: no run answers, or it refuses the command.
        """
        return send_command(self._paths.control_socket, command, by="page")

    def status(self) -> Json:
        """Heading, cards, problems and changes of a live run at this moment; empty for a finished file."""
        with self._lock:
            if self._live is None:
                return {}
            heading = self._heading(self._live)
            return {
                "heading": heading,
                "cards": list(self._live.cards()),
                "problems": self._live.problems.listed(),
                "changes": listed_changes(self._live.changes),
            }

    def rows_of(self, task_index: int) -> bytes:
        """The rows of a task: for each a line with its kind, its rollout index, and its view.

        A row is never that of another task: its key is compared, and the file read anew if it has moved.
        """
        with self._lock:
            for _ in range(2):
                with suppress(InputError, OSError, ValueError):
                    return b"\n".join(self._lines_of(task_index))
                with suppress(NgRolloutsError):  # such as a file that is being replaced
                    self.load()
            return b""

    def search(self, text: str) -> list[int]:
        """The indices of the tasks with a message that contains a text, ignoring case."""
        found = []
        for task_index in list(self._places):
            with self._lock, suppress(InputError, OSError, ValueError):
                # One matching row is enough: the other rows of its task are not read.
                if any(text.lower() in searchable_text(row) for _, row in self._rows_of(task_index)):
                    found.append(task_index)
        return found

    def _store(self, index: TaskIndex, entry: Entry) -> None:
        index.blocks.append(NOT_IN_PAGE)
        index.lines.append(NOT_IN_PAGE)
        self._place(entry.task_index, entry.kind, entry.row_at.offset)

    def _heading(self, live: LiveIndex) -> Json:
        rollouts, failed = live.counts[FINISHED], live.counts[FAILED]
        return heading_of(self._paths, rollouts, failed, list(live.agents), running=is_running(self._paths))

    def _place(self, task_index: int, kind: int, offset: int) -> None:
        places = self._places.get(task_index)
        if places is None:
            places = self._places[task_index] = array("q")
        places.append(offset << _KIND_BITS | kind)

    def _is_rewritten(self, path: Path) -> bool:
        inode, size = self._read.get(path, (0, 0))
        now = _state(path)
        return now != (inode, size) and (not self.is_live or (inode != 0 and (now[0] != inode or now[1] < size)))

    def _additions(self) -> Iterator[Addition]:
        """The complete lines that were appended to the files of a live run."""
        assert self._live is not None  # noqa: S101
        for kind, path in self._files.items():
            with suppress(FileNotFoundError), path.open("rb") as file:
                offset = self._read.get(path, (0, 0))[1]
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):  # a row that is being written
                        break
                    if (addition := self._addition(kind, line, offset)) is not None:
                        yield addition
                    offset += len(line)
                self._read[path] = _state(path)[0], offset

    def _addition(self, kind: int, line: bytes, offset: int) -> Addition | None:
        """Add one line; None if it is not a row with a task index."""
        assert self._live is not None  # noqa: S101
        try:
            row = loads(line)
        except ValueError:
            return None
        task_index = row.get("_ng_task_index") if isinstance(row, dict) else None
        if not isinstance(task_index, int):
            return None
        self._place(task_index, kind, offset)
        return self._live.add(task_index, kind, row)

    def _rows_of(self, task_index: int) -> Iterator[tuple[int, Json]]:
        """Kind and row of each rollout of a task.

        Raises:
            InputError, OSError, ValueError: the file has changed.
        """
        for place in self._places.get(task_index, ()):
            kind, offset = place & ((1 << _KIND_BITS) - 1), place >> _KIND_BITS
            path = self._files[kind]
            with open_rollouts(path) as file:
                file.seek(offset)
                row = parse_row(path, 0, file.readline())
            if row.get("_ng_task_index", task_index) != task_index:
                raise ValueError("the row is that of another task")
            yield kind, row

    def _lines_of(self, task_index: int) -> Iterator[bytes]:
        for kind, row in self._rows_of(task_index):
            yield b"%d\t%s\t%s" % (kind, dumps(row.get("_ng_rollout_index")), row_view(row))


def _state(path: Path) -> tuple[int, int]:
    """Inode and size of a file; zeros if it does not exist."""
    with suppress(OSError):
        state = path.stat()
        return state.st_ino, state.st_size
    return 0, 0
