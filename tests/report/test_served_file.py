"""Open pages learn of the end of a run, whoever notices it first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ng_rollouts.outputs.paths import output_paths
from ng_rollouts.report import run_state
from ng_rollouts.report.run_state import is_running
from ng_rollouts.report.served_file import ServedFile
from ng_rollouts.report.server import ServedPage
from ng_rollouts.report.task_index import AgentNumbers
from ng_rollouts.storage.lock import holder_of, lock
from tests.report.helpers import rollout_rows
from tests.rollout_files import write_rows


@contextmanager
def run_that_writes(path: Path) -> Iterator[None]:
    """Hold the lock of an output, as the run that writes it does."""
    fd = lock(path)
    try:
        yield
    finally:
        os.close(fd)


def served(path: Path) -> tuple[ServedFile, ServedPage]:
    """A file behind a page, and the page."""
    agent_numbers = AgentNumbers()
    file = ServedFile(output_paths(str(path)), "reward", agent_numbers)
    return file, ServedPage([file], agent_numbers, "reward")


def put_in_order(path: Path) -> None:
    """Replace an output by its rows in order, as a run does at its end."""
    write_rows(path.with_suffix(".new"), rollout_rows()).replace(path)


def test_end_that_a_request_for_rows_reads_first_is_sent_to_open_pages(tmp_path: Path) -> None:
    """A request for rows reads an output that has moved. Open pages still load the index of the ended run."""
    path = write_rows(tmp_path / "r.jsonl", reversed(rollout_rows()))
    with run_that_writes(path):
        file, page = served(path)
        assert file.data().overview["heading"]["state"] == "running"
    put_in_order(path)
    with page.followed() as events:
        assert file.rows_of(3).count(b"\n") == 2
        assert not file.is_live
        page.poll()
        assert events.get_nowait().startswith(b"event: reload\n")
        page.poll()
        assert events.empty()


def test_order_that_a_request_for_rows_reads_first_is_sent_to_open_pages(tmp_path: Path) -> None:
    """The same for an output that was put in order by a run which goes on; its rows are in the new index alone."""
    path = write_rows(tmp_path / "r.jsonl", reversed(rollout_rows()))
    with run_that_writes(path):
        file, page = served(path)
        with page.followed() as events:
            put_in_order(path)
            with run_that_writes(path):
                assert file.rows_of(3).count(b"\n") == 2
                assert file.is_live
                page.poll()
            names = [events.get_nowait().partition(b"\n")[0] for _ in range(events.qsize())]
            assert names == [b"event: reload", b"event: status"]


def test_run_that_replaces_its_output_while_the_lock_is_tried_is_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run keeps its lock while it puts the output in order, also for who has opened the file before."""
    path = write_rows(tmp_path / "r.jsonl", reversed(rollout_rows()))
    locks = [lock(path)]

    def replaced_before(fd: int) -> str | None:
        monkeypatch.undo()
        new = write_rows(tmp_path / "r.new", rollout_rows())
        locks.append(lock(new))
        new.replace(path)
        os.close(locks.pop(0))
        return holder_of(fd)

    monkeypatch.setattr(run_state, "holder_of", replaced_before)
    assert is_running(output_paths(str(path)))
    os.close(locks.pop())
    assert not is_running(output_paths(str(path)))


def test_run_that_begins_and_ends_while_the_output_is_read_leaves_no_running_heading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of a file that no run writes has the heading of one, although a run locks it in between."""
    path = write_rows(tmp_path / "r.jsonl", rollout_rows())
    locks: list[int] = []
    monkeypatch.setattr(ServedFile, "_place", lambda *_: locks.append(lock(path)) if not locks else None)
    file, page = served(path)
    os.close(locks.pop())
    page.poll()
    assert file.data().overview["heading"]["state"] != "running"
