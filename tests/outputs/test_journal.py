"""The journal keeps every row through kills, full disks and torn lines, and puts the output in order at the end."""

from __future__ import annotations

import gzip
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ng_rollouts.errors import OutputError, StorageError
from ng_rollouts.jsonl import dumps
from ng_rollouts.outputs.open_journal import open_for_resume, open_new
from ng_rollouts.outputs.paths import OutputPaths, output_paths
from ng_rollouts.storage.compression import open_decompressed
from tests.conftest import (
    EXAMPLE,
    FILES,
    RESUME,
    Ran,
    assert_complete,
    ended,
    files_in,
    read_rows,
    start,
    wait_until,
)
from tests.servers import Served

Command = Callable[..., Ran]
Serve = Callable[..., Served]
Tasks = Callable[..., Path]


@settings(deadline=None)
@given(
    order=st.permutations(range(6)),
    cut=st.integers(0, 400),
    garbage=st.binary(max_size=20).filter(lambda data: b"\n" not in data),
    set_aside=st.sets(st.integers(0, 5)),
)
def test_any_prefix_of_a_journal_can_be_resumed(
    order: list[int], cut: int, garbage: bytes, set_aside: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After a crash at any byte, every complete line counts, a torn last line does not, and new rows are undamaged."""
    paths = OutputPaths(tmp_path_factory.mktemp("j") / "out.jsonl")
    lines = {position: dumps({"p": position, "pad": "x" * position * 5}) for position in range(6)}
    with open_new(paths, 6, overwrite=False) as journal:
        for position in order:
            journal.append(position, lines[position])
    content = paths.output.read_bytes()[:cut]
    paths.output.write_bytes(content + garbage)
    paths.incomplete.write_bytes(b"".join(lines[position] + b"\n" for position in sorted(set_aside)))
    complete_lines = content.count(b"\n")
    tail = content.rpartition(b"\n")[2] + garbage
    expected = {*order[:complete_lines], *set_aside}
    # A last line of which only the newline is missing is complete.
    if complete_lines < 6 and tail == lines[order[complete_lines]]:
        expected.add(order[complete_lines])
    with open_for_resume(paths, 6) as journal:
        journal.read_back(lambda row: int(row["p"]) if isinstance(row.get("p"), int) else None)
        assert {position for position in range(6) if journal.has(position)} == expected
        assert paths.output.read_bytes() == content + garbage
        journal.open_for_appending()
        for position in set(range(6)) - expected:
            journal.append(position, lines[position])
        assert journal.finish([True] * 6).kept == 6
    assert paths.output.read_bytes() == b"".join(lines[position] + b"\n" for position in range(6))
    assert not paths.incomplete.exists()


@pytest.mark.parametrize(
    ("sizes", "order"), [([10, 70_000, 20_000_000], [2, 0, 1]), ([65_535, 65_536, 65_537], [1, 2, 0])]
)
def test_rows_of_any_size_are_put_in_order(tmp_path: Path, sizes: list[int], order: list[int]) -> None:
    """Rows are copied completely when the output is put in order, even if they are longer than a read."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    rows = [bytes([ord("A") + position]) * size for position, size in enumerate(sizes)]
    with open_new(paths, 3, overwrite=False) as journal:
        for position in order:
            journal.append(position, rows[position])
        journal.finish([True] * 3)
    assert paths.output.read_bytes() == b"".join(row + b"\n" for row in rows)


def test_row_that_is_written_partly_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a full disk takes only a part of a row, that part is removed, and only complete lines remain."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    with open_new(paths, 3, overwrite=False) as journal:
        journal.append(0, b'{"whole":1}')

        def write_half(fd: int, data: memoryview) -> int:
            if len(data) < 9:
                raise OSError(28, "No space left on device")
            return write(fd, data[: len(data) // 2])

        write = os.write
        monkeypatch.setattr(os, "write", write_half)
        with pytest.raises(StorageError, match=r"out.jsonl cannot be written: No space left on device"):
            journal.append(1, b'{"torn":1}')
    assert paths.output.read_bytes() == b'{"whole":1}\n'


def test_journal_stays_locked_while_the_finished_file_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other process can lock the output between the release of the old lock and the rename of the new file."""
    paths = OutputPaths(tmp_path / "r.jsonl")
    refused: list[bool] = []
    replace = Path.replace

    def replace_and_try_to_lock(self: Path, target: Path) -> Path:
        with pytest.raises(OutputError, match="is being written by"):
            open_new(paths, 2, overwrite=False)
        refused.append(True)
        return replace(self, target)

    with open_new(paths, 2, overwrite=False) as journal:
        journal.append(1, b'{"row": 1}')
        journal.append(0, b'{"row": 0}')
        monkeypatch.setattr(Path, "replace", replace_and_try_to_lock)
        journal.finish([True, True])
    assert refused
    assert paths.output.read_bytes() == b'{"row": 0}\n{"row": 1}\n'


def test_journal_stays_locked_until_the_compressed_file_exists(tmp_path: Path) -> None:
    """The output is locked while it is put in order and compressed; the file that holds the lock is removed last."""
    paths = output_paths(str(tmp_path / "r.jsonl.gz"))
    with open_new(paths, 2, overwrite=False) as journal:
        journal.append(1, b'{"row": 1}')
        journal.append(0, b'{"row": 0}')
        for step in (lambda: journal.finish([True, True]), journal.compress):
            step()
            with pytest.raises(OutputError, match="is being written by"):
                open_for_resume(paths, 2)
        assert gzip.decompress(paths.finished.read_bytes()) == b'{"row": 0}\n{"row": 1}\n'
    assert files_in(tmp_path).keys() == {"r.jsonl.gz"}


@pytest.mark.parametrize("extension", [".gz", ".zst"])
def test_output_is_compressed_if_its_name_has_a_compression_extension(
    command: Command, tmp_path: Path, extension: str
) -> None:
    """A compressed output has the content of a plain one and the usual side files, and it can be resumed."""
    assert command(*EXAMPLE, "+num_repeats=3", "+output_jsonl_fpath=plain.jsonl").code == 0
    output = f"+output_jsonl_fpath=r.jsonl{extension}"
    assert command(*EXAMPLE, output).code == 0
    assert files_in(tmp_path).keys() >= {f"r.jsonl{extension}", "r_summary.json", "r_manifest.json"}
    for repeats in (1, 3):
        ran = command(*EXAMPLE, output, RESUME, f"+num_repeats={repeats}")
        assert ran.code == 0, ran.stderr
        assert "10 of" in ran.stderr
        assert "r.jsonl" not in files_in(tmp_path)
    with open_decompressed(tmp_path / f"r.jsonl{extension}") as file:
        assert file.read() == (tmp_path / "plain.jsonl").read_bytes()


def test_full_disk_ends_the_run_and_a_resume_completes_it(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """A row that cannot be written ends the run with exit code 3 and one line; all earlier rows can be resumed."""
    tasks(100)
    run = [*FILES, f"+agent_url={serve(pad=5000).url}", "+num_samples_in_parallel=4"]
    with limited_file_size(200_000):
        ran = command(*run)
    assert ran.code == 3, ran.stderr
    assert "error: r.jsonl cannot be written: File too large" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(read_rows(tmp_path / "r.jsonl")) > 10
    assert command(*run, RESUME).code == 0
    assert_complete(tmp_path, 100)


@contextmanager
def limited_file_size(limit: int) -> Iterator[None]:
    """Let writes of this process fail beyond a file size in bytes, as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_output_that_cannot_be_put_in_order_stays_a_journal(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """If the output cannot be put in order, the journal stays unchanged, and a resume finishes it without a request."""
    tasks(39)
    assert command(*FILES, f"+agent_url={serve(pad=5000).url}").code == 0
    (tmp_path / "r_manifest.json").unlink()
    rows = (tmp_path / "r.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_bytes(b"".join(reversed(rows)))
    (tmp_path / "r.jsonl.writing").mkdir()
    resume = [*FILES, "+agent_url=http://127.0.0.1:9", RESUME]
    ran = command(*resume)
    assert ran.code == 3, ran.stderr
    assert "cannot be written: Is a directory; all rows are in it, in completion order" in ran.stderr
    assert "to resume: " in ran.stderr
    assert (tmp_path / "r.jsonl").read_bytes() == b"".join(reversed(rows))
    (tmp_path / "r.jsonl.writing").rmdir()
    assert command(*resume).code == 0
    assert_complete(tmp_path, 39)


@pytest.mark.slow
def test_kills_at_random_moments_lose_no_rollout(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """After 30 SIGKILLs, every rollout is in the output once, undamaged, and only those in flight were repeated."""
    tasks(600)
    server = serve(delay=[0.005, 0.015], pad=100_000)
    slots, kills, chance = 4, 0, random.Random(1)
    run = [*FILES, f"+agent_url={server.url}", f"+num_samples_in_parallel={slots}", RESUME]
    for _ in range(32):
        requests = server.stats()["total"]
        process = start(tmp_path, *run)
        wait_until(partial(has_sent_or_ended, server, process, requests))
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        kills += ended(process).code == -signal.SIGKILL
    assert kills >= 30
    ran = ended(start(tmp_path, *run))
    assert ran.code == 0, ran.stderr
    assert_complete(tmp_path, 600)
    assert server.stats()["total"] - 600 <= kills * slots


def has_sent_or_ended(server: Served, process: subprocess.Popen[str], requests: int) -> bool:
    """Whether a command has sent a request after the first `requests`, or has ended."""
    return bool(server.stats()["total"] > requests) or process.poll() is not None
