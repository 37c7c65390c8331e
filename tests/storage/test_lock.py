"""One process writes an output at a time."""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ng_rollouts.errors import OutputError
from ng_rollouts.outputs.open_journal import open_new
from ng_rollouts.outputs.paths import OutputPaths
from tests.conftest import FILES, RESUME, Ran, assert_complete, ended, start, wait_until
from tests.servers import Served


def test_locked_output_cannot_be_opened(tmp_path: Path) -> None:
    """An output that is being written cannot be opened a second time, not even to overwrite it."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    with (
        open_new(paths, 1, overwrite=False),
        pytest.raises(OutputError, match=r"is being written by (another )?process"),
    ):
        open_new(paths, 1, overwrite=True)


def test_look_of_a_reader_at_the_lock_does_not_refuse_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that reads the file holds a shared lock for a moment: a run that begins then tries again."""
    refused: list[int] = []

    def flock(fd: int, operation: int) -> None:
        if len(refused) < 2:
            refused.append(fd)
            raise BlockingIOError
        fcntl.flock(fd, operation)

    monkeypatch.setattr("ng_rollouts.storage.lock.fcntl", SimpleNamespace(**{**vars(fcntl), "flock": flock}))
    with open_new(OutputPaths(tmp_path / "out.jsonl"), 1, overwrite=False) as journal:
        assert journal.is_named
    assert len(refused) == 2


def test_second_collector_on_an_output_is_rejected(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A second command on the same output exits with 2, names the process that writes it, and changes nothing."""
    tasks(60)
    server = serve(delay=[0.4, 0.4])
    first = start(tmp_path, *FILES, f"+agent_url={server.url}", "+num_samples_in_parallel=30")
    wait_until(lambda: server.stats()["total"] > 5)
    first.send_signal(signal.SIGSTOP)  # so that it cannot finish before the other commands begin
    try:
        for extra in ((), (RESUME,), ("+overwrite=true",)):
            second = command(*FILES, f"+agent_url={server.url}", *extra)
            assert second.code == 2
            assert f"r.jsonl is being written by process {first.pid}" in second.stderr
    finally:
        first.send_signal(signal.SIGCONT)
    assert ended(first).code == 0
    assert_complete(tmp_path, 60)
    assert server.stats()["total"] == 60
