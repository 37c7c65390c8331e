"""The journal keeps every row through kills, full disks and torn lines, and puts the output in order at the end."""

from __future__ import annotations

import gzip
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import OutputError, OutputTaken, StorageError
from ng_rollouts.jsonl import dumps
from ng_rollouts.outputs.journal import Finished
from ng_rollouts.outputs.open_journal import open_for_resume, open_new
from ng_rollouts.outputs.paths import OutputPaths, output_paths
from ng_rollouts.storage.compression import open_decompressed
from ng_rollouts.storage.lock import lock
from ng_rollouts.types import Json
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
    ("sizes", "order"), [([10, 70_000, 20_000_000], [2, 0, 1]), ([524_287, 524_288, 524_289], [1, 2, 0])]
)
def test_rows_of_any_size_are_put_in_order(tmp_path: Path, sizes: list[int], order: list[int]) -> None:
    """Rows are read and copied completely when the output is put in order, even if they are longer than a read."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    rows = [b'{"":"%s"}' % (bytes([ord("A") + position]) * (size - 7)) for position, size in enumerate(sizes)]
    with open_new(paths, 3, overwrite=False) as journal:
        for position in order:
            journal.append(position, rows[position])
        assert [len(row[""]) for _, row in journal.rows()] == [size - 7 for size in sizes]
        journal.finish([True] * 3)
    assert paths.output.read_bytes() == b"".join(row + b"\n" for row in rows)


def position_of(row: Json) -> int | None:
    """The position in a row of these tests, of three planned ones; None for any other row."""
    return {0: 0, 1: 1, 2: 2}.get(row.get("p", -1))


def test_last_line_that_lacks_only_its_newline_is_a_row(tmp_path: Path) -> None:
    """A complete last line gets its newline before another row is appended, and is put in order with the others."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    paths.output.write_bytes(b'{"p":1}\n{"p":2}')
    with open_for_resume(paths, 3) as journal:
        journal.read_back(position_of)
        assert list(journal.rows()) == [(1, {"p": 1}), (2, {"p": 2})]
        journal.open_for_appending()
        assert paths.output.read_bytes() == b'{"p":1}\n{"p":2}\n'
        journal.append(0, b'{"p":0}')
        assert journal.finish([True] * 3) == Finished(kept=3, set_aside=0)
    assert paths.output.read_bytes() == b'{"p":0}\n{"p":1}\n{"p":2}\n'


def test_each_rollout_is_counted_once(tmp_path: Path) -> None:
    """The count is that of planned rollouts with a row in the output or in the incomplete file, before and after."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    paths.output.write_bytes(b'{"p":2}\n')
    paths.incomplete.write_bytes(b'{"p":0}\n{"p":2,"again":true}\n{"p":3}\n[]\n')
    with open_for_resume(paths, 3) as journal:
        journal.read_back(position_of)
        assert journal.count == 2
        assert [position for position in range(3) if journal.has(position)] == [0, 2]
        assert list(journal.rows()) == [(2, {"p": 2})]
        journal.open_for_appending()
        assert journal.count == 2
        assert list(journal.rows()) == [(0, {"p": 0}), (2, {"p": 2})]
        journal.append(1, b'{"p":1}')
        assert journal.count == 3
    assert paths.output.read_bytes() == b'{"p":2}\n{"p":0}\n{"p":1}\n'
    assert not paths.incomplete.exists()


@pytest.mark.parametrize(
    ("line", "unreadable"),
    [
        (b"not JSON\n", 1),
        (b"[1]\n", 1),
        (b"\n", 0),
        (b'{"p":0,"again":true}\n', 0),
        (b'{"p":3}\n', 1),
    ],
    ids=["not JSON", "not an object", "blank", "second row", "not planned"],
)
def test_line_that_is_not_the_first_row_of_a_planned_rollout_is_left_out(
    tmp_path: Path, line: bytes, unreadable: int
) -> None:
    """Such a line of the output or of the incomplete file is in no finished file; it is counted if it is no row."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    rows = [b'{"p":0}\n', b'{"p":1}\n', b'{"p":2}\n']
    paths.output.write_bytes(rows[0] + line + rows[1] + rows[2])
    paths.incomplete.write_bytes(line)
    with open_for_resume(paths, 3) as journal:
        journal.read_back(position_of)
        assert journal.unreadable == unreadable
        journal.open_for_appending()
        assert journal.finish([True] * 3) == Finished(kept=3, set_aside=0)
    assert files_in(tmp_path) == {"out.jsonl": b"".join(rows)}


def test_complete_output_in_order_is_not_written_again(tmp_path: Path) -> None:
    """If every planned row is there, in order, the file stays as it is, for a new run and for a resume."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    with open_new(paths, 3, overwrite=False) as journal:
        for position in range(3):
            journal.append(position, dumps({"p": position}))
        written = paths.output.stat()
        assert journal.finish([True] * 3) == Finished(kept=3, set_aside=0)
    with open_for_resume(paths, 3) as journal:
        journal.read_back(position_of)
        journal.open_for_appending()
        assert journal.finish([True] * 3) == Finished(kept=3, set_aside=0)
    assert paths.output.stat().st_ino == written.st_ino


@pytest.mark.parametrize("order", [[0, 2], [2, 0]])
def test_rows_that_are_not_kept_are_set_aside(tmp_path: Path, order: list[int]) -> None:
    """Rows of incomplete groups move to the incomplete file, whether the journal was in order or not."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    for keep, output, incomplete in (
        ([False, False, True], b'{"p":2}\n', b'{"p":0}\n'),
        ([True, False, True], b'{"p":0}\n{"p":2}\n', None),
        ([False, False, False], b"", b'{"p":0}\n{"p":2}\n'),
    ):
        with open_new(paths, 3, overwrite=True) as journal:
            for position in order:
                journal.append(position, dumps({"p": position}))
            assert journal.finish(keep) == Finished(kept=sum(keep[::2]), set_aside=2 - sum(keep[::2]))
        assert paths.output.read_bytes() == output
        assert (paths.incomplete.read_bytes() if paths.incomplete.exists() else None) == incomplete


def test_output_without_a_row_is_finished_empty(tmp_path: Path) -> None:
    """An output that got no row is empty, and has no incomplete file."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    paths.incomplete.write_bytes(b'{"p":3}\n')
    with open_for_resume(paths, 3) as journal:
        journal.read_back(position_of)
        journal.open_for_appending()
        assert journal.finish([False] * 3) == Finished(kept=0, set_aside=0)
    assert files_in(tmp_path) == {"out.jsonl": b""}


def test_finished_output_has_the_permissions_of_the_journal(tmp_path: Path) -> None:
    """The file that replaces the journal has its permissions."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    with open_new(paths, 2, overwrite=False) as journal:
        paths.output.chmod(0o640)
        journal.append(1, b'{"p":1}')
        journal.append(0, b'{"p":0}')
        journal.finish([True] * 2)
    assert paths.output.stat().st_mode & 0o7777 == 0o640


def _without_token(name: str) -> str:
    """A temporary name without its random part."""
    return re.sub(r"\.[0-9a-f]{8}(?=\.writing$)", "", name)


@pytest.fixture
def changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced, cut, replaced and removed in the test's folder, in order."""
    done: list[str] = []
    fsync, truncate, replace, unlink = os.fsync, os.truncate, Path.replace, Path.unlink

    def record_fsync(fd: int) -> None:
        inode = os.fstat(fd).st_ino
        done.extend(f"sync {_without_token(path.name)}" for path in tmp_path.iterdir() if path.stat().st_ino == inode)
        if inode == tmp_path.stat().st_ino:
            done.append("sync the folder")
        fsync(fd)

    def record_truncate(path: Path, length: int) -> None:
        done.append(f"cut {path.name} to {length}")
        truncate(path, length)

    def record_replace(self: Path, target: Path) -> Path:
        done.append(f"replace {target.name}")
        return replace(self, target)

    def record_unlink(self: Path, *, missing_ok: bool = False) -> None:
        if self.exists():
            done.append(f"remove {self.name}")
        unlink(self, missing_ok)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "truncate", record_truncate)
    monkeypatch.setattr(Path, "replace", record_replace)
    monkeypatch.setattr(Path, "unlink", record_unlink)
    return done


def test_files_are_synced_before_they_replace_others(tmp_path: Path, changes: list[str]) -> None:
    """Rows are on the disk in one file before they disappear from another, so a power cut loses none."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    with open_new(paths, 2, overwrite=False) as journal:
        journal.append(1, b'{"p":1}')
        journal.append(0, b'{"p":0}')
        journal.finish([True, False])
    assert changes == [
        "sync out.jsonl",
        "sync out.jsonl.writing",
        "sync out_incomplete.jsonl.writing",
        "replace out_incomplete.jsonl",
        "replace out.jsonl",
        "sync the folder",
    ]
    changes.clear()
    with open_for_resume(paths, 2) as journal:
        journal.read_back(position_of)
        journal.open_for_appending()
        assert changes == ["sync out.jsonl", "remove out_incomplete.jsonl"]


def test_compressed_file_is_synced_before_the_plain_one_is_emptied(tmp_path: Path, changes: list[str]) -> None:
    """The compressed file has its name on the disk before its rows disappear from the journal, which is removed last."""
    with open_new(output_paths(str(tmp_path / "out.jsonl.gz")), 1, overwrite=False) as journal:
        journal.append(0, b'{"p":0}')
        journal.finish([True])
        assert journal.compress() == []
        assert changes == [
            "sync out.jsonl",
            "sync out.jsonl.gz.writing",
            "replace out.jsonl.gz",
            "sync the folder",
            "cut out.jsonl to 0",
            "sync the folder",
        ]
    assert changes[6:] == ["remove out.jsonl"]


def test_finished_file_stays_if_it_cannot_be_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the compressed file cannot get its name, the finished file has all rows, and no other file is left."""
    paths = output_paths(str(tmp_path / "out.jsonl.gz"))

    def fail(*_: Path) -> Path:
        raise OSError(13, "Permission denied")

    with open_new(paths, 2, overwrite=False) as journal:
        journal.append(1, b'{"p":1}')
        journal.append(0, b'{"p":0}')
        journal.finish([True] * 2)
        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(StorageError) as raised:
            journal.compress()
    assert str(raised.value) == (
        f"{paths.finished} cannot be written: Permission denied; all rows are in {paths.output}"
    )
    assert files_in(tmp_path) == {"out.jsonl": b'{"p":0}\n{"p":1}\n'}


def test_names_that_cannot_be_removed_after_the_compression_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk becomes read-only after the compression, the error names the file that has the rows."""
    paths = output_paths(str(tmp_path / "out.jsonl.gz"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with open_new(paths, 1, overwrite=False) as journal:
        journal.append(0, b'{"p":0}')
        journal.finish([True])
        monkeypatch.setattr(Path, "unlink", fail)
        with pytest.raises(StorageError, match=re.escape(f"Read-only file system; all rows are in {paths.finished}")):
            journal.compress()
    assert gzip.decompress(paths.finished.read_bytes()) == b'{"p":0}\n'


def test_incomplete_file_that_cannot_be_removed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished output is in order; if its old incomplete file cannot be removed, the error names that file."""
    paths = OutputPaths(tmp_path / "out.jsonl")

    def fail(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with open_new(paths, 1, overwrite=False) as journal:
        journal.append(0, b'{"p":0}')
        monkeypatch.setattr(Path, "unlink", fail)
        with pytest.raises(StorageError, match=r"out_incomplete\.jsonl cannot be removed: Read-only file system"):
            journal.finish([True])
    assert paths.output.read_bytes() == b'{"p":0}\n'


def test_resume_whose_incomplete_file_cannot_be_removed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If rows were moved back to the output but their file stays, the error names it, and the next resume has each once."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    paths.output.write_bytes(b'{"p":1}\n')
    paths.incomplete.write_bytes(b'{"p":0}\n')

    def fail(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with open_for_resume(paths, 2) as journal, monkeypatch.context() as patch:
        journal.read_back(position_of)
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(StorageError, match=r"out_incomplete\.jsonl cannot be removed: Read-only file system"):
            journal.open_for_appending()
    with open_for_resume(paths, 2) as journal:
        journal.read_back(position_of)
        journal.open_for_appending()
        journal.finish([True] * 2)
    assert files_in(tmp_path) == {"out.jsonl": b'{"p":0}\n{"p":1}\n'}


def test_nothing_is_synced_twice(tmp_path: Path, changes: list[str]) -> None:
    """A sync without a new row does nothing."""
    with open_new(OutputPaths(tmp_path / "out.jsonl"), 2, overwrite=False) as journal:
        journal.append(0, b'{"p":0}')
        journal.sync()
        journal.sync()
    assert changes == ["sync out.jsonl"]


def test_error_of_the_disk_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a sync that failed, nothing is written or finished: the kernel reports a lost write only once."""
    errors, synced = [OSError(5, "Input/output error")], 0

    def fail_once(fd: int) -> None:
        nonlocal synced
        if errors:
            raise errors.pop()
        synced += 1

    with open_new(OutputPaths(tmp_path / "out.jsonl"), 2, overwrite=False) as journal:
        monkeypatch.setattr(os, "fsync", fail_once)
        journal.sync()
        journal.append(0, b'{"p":0}')
        for act in (
            journal.sync,
            journal.sync,
            lambda: journal.append(1, b'{"p":1}'),
            lambda: journal.finish([True] * 2),
        ):
            with pytest.raises(StorageError, match=r"out.jsonl may not be on the disk: Input/output error"):
                act()
        assert synced == 0


def test_torn_tail_that_cannot_be_cut_off_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that cannot be changed is an error with its path and the reason, before a row is appended."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    paths.output.write_bytes(b'{"p":1}\n{"p":')

    def fail(*_: int) -> None:
        raise OSError(30, "Read-only file system")

    with open_for_resume(paths, 3) as journal:
        journal.read_back(position_of)
        monkeypatch.setattr(os, "ftruncate", fail)
        with pytest.raises(StorageError, match=r"out.jsonl cannot be written: Read-only file system"):
            journal.open_for_appending()


def identity(status: os.stat_result) -> tuple[int, int]:
    """What tells a file from all others, even after its name has gone."""
    return status.st_dev, status.st_ino


def open_files() -> set[tuple[int, int]]:
    """The identities of the files that this process has open."""
    files = set()
    for path in Path("/dev/fd").iterdir():
        with suppress(OSError):  # closed in the meantime, as is the one that lists the folder
            files.add(identity(os.fstat(int(path.name))))
    return files


def test_journal_is_unchanged_and_usable_if_the_finished_file_cannot_replace_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a file cannot be renamed, the rows stay where they are, no other file is left, and `finish` can be repeated.

    No file stays open: a journal that has lost its name would otherwise still take its room on the disk.
    """
    paths = OutputPaths(tmp_path / "out.jsonl")
    used: set[tuple[int, int]] = set()

    def fail(self: Path, _: Path) -> Path:
        used.add(identity(self.stat()))
        raise OSError(13, "Permission denied")

    with open_new(paths, 2, overwrite=False) as journal:
        journal.append(1, b'{"p":1}')
        journal.append(0, b'{"p":0}')
        used.add(identity(paths.output.stat()))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fail)
            with pytest.raises(StorageError, match="Permission denied; all rows are in it, in completion order"):
                journal.finish([True] * 2)
        assert files_in(tmp_path) == {"out.jsonl": b'{"p":1}\n{"p":0}\n'}
        assert used & open_files() == {identity(paths.output.stat())}
        assert journal.finish([True] * 2) == Finished(kept=2, set_aside=0)
        used.add(identity(paths.output.stat()))
    assert files_in(tmp_path) == {"out.jsonl": b'{"p":0}\n{"p":1}\n'}
    assert not used & open_files()


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


# The output's name


def test_output_of_another_run_in_the_meantime_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another run takes the name and finishes while a new run renames the old output, both are renamed."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    paths.output.write_bytes(b"old\n")
    locked: list[Path] = []

    def lock_late(path: Path) -> int:
        if len(locked) == 1:
            path.write_bytes(b"theirs\n")
        locked.append(path)
        return lock(path)

    monkeypatch.setattr("ng_rollouts.outputs.open_journal.lock", lock_late)
    with open_new(paths, 1, overwrite=False) as journal:
        journal.append(0, b'{"p":0}')
        journal.finish([True])
    contents = [(tmp_path / name).read_bytes() for name in ("out.jsonl.1", "out.jsonl.2", "out.jsonl")]
    assert contents == [b"old\n", b"theirs\n", b'{"p":0}\n']


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("is_moved", [True, False], ids=["moved", "removed"])
def test_output_that_lost_its_name_is_written_again(tmp_path: Path, order: tuple[int, int], is_moved: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """After `rm` or `mv` of the output during a run, the finished output has all rows, in order, under its name."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    with open_new(paths, 2, overwrite=False) as journal:
        for position in order:
            journal.append(position, b'{"p":%d}' % position)
        if is_moved:
            paths.output.rename(tmp_path / "elsewhere")
        else:
            paths.output.unlink()
        assert not journal.is_named
        assert journal.finish([True] * 2) == Finished(kept=2, set_aside=0)
    assert paths.output.read_bytes() == b'{"p":0}\n{"p":1}\n'


@pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "interrupted"])
def test_output_whose_folder_was_removed_is_written_again(tmp_path: Path, *, is_finished: bool) -> None:
    """After `rm -r` of the folder, the output has all rows at the end of a finished and of an interrupted run."""
    paths = OutputPaths(tmp_path / "deep" / "folder" / "out.jsonl")
    with open_new(paths, 2, overwrite=False) as journal:
        for position in (1, 0):
            journal.append(position, b'{"p":%d}' % position)
        shutil.rmtree(tmp_path / "deep")
        if is_finished:
            assert journal.finish([True] * 2) == Finished(kept=2, set_aside=0)
    assert sorted(paths.output.read_bytes().splitlines()) == [b'{"p":0}', b'{"p":1}']


@pytest.mark.parametrize("foreign", [b'{"note": "from elsewhere"}\n', b"x"])
def test_output_that_another_program_appends_to_keeps_every_row(tmp_path: Path, foreign: bytes) -> None:
    """The run ends with an error and leaves the file as it is; a resume finds all rows, and leaves out the others."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    with open_new(paths, 2, overwrite=False) as journal:
        journal.append(1, b'{"p":1}')
        with paths.output.open("ab") as file:
            file.write(foreign if foreign.endswith(b"\n") else b"\n" + foreign + b"\n")
        journal.append(0, b'{"p":0}')
        with pytest.raises(StorageError, match="another program has changed it"):
            journal.finish([True] * 2)
    with open_for_resume(paths, 2) as journal:
        journal.read_back(lambda row: row.get("p"))
        journal.open_for_appending()
        assert journal.finish([True] * 2) == Finished(kept=2, set_aside=0)
    assert paths.output.read_bytes() == b'{"p":0}\n{"p":1}\n'


def test_output_that_another_program_cuts_off_is_an_error(tmp_path: Path) -> None:
    """A file that is shorter than what the run wrote is not put in order; the message says how to collect the rest."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    with open_new(paths, 2, overwrite=False) as journal:
        for position in (1, 0):
            journal.append(position, b'{"p":%d}' % position)
        os.truncate(paths.output, 8)
        with pytest.raises(StorageError, match=r"has 8 bytes instead of 16.*resume_from_cache=true"):
            journal.finish([True] * 2)
    assert paths.output.read_bytes() == b'{"p":1}\n'


def test_file_that_took_the_outputs_name_is_left_alone(tmp_path: Path) -> None:
    """If another file has the output's name at the end, the rows are saved under a new name, which the error states."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    with open_new(paths, 2, overwrite=False) as journal:
        journal.append(1, b'{"p":1}')
        paths.output.unlink()
        paths.output.write_bytes(b"theirs\n")
        with pytest.raises(OutputTaken, match=r"its 1 row is in .*out.jsonl.saved.1"):
            journal.finish([True] * 2)
    assert paths.output.read_bytes() == b"theirs\n"
    assert (tmp_path / "out.jsonl.saved.1").read_bytes() == b'{"p":1}\n'


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("ng_aggregate_rollouts", ["+input_glob=a.jsonl", "+output_jsonl_fpath=r.jsonl"]),
        ("ng_export_rollouts", ["+recipe=sft", "+input_jsonl_fpath=a.jsonl", "+output_jsonl_fpath=r.jsonl"]),
        ("ng_view_rollouts", ["+input_jsonl_fpath=a.jsonl", "+output_html_fpath=r.html"]),
    ],
)
def test_no_command_replaces_a_file_that_another_process_writes(
    command: Command, tmp_path: Path, script: str, arguments: list[str]
) -> None:
    """Merges, exports and pages take the lock of the file that they replace, and are rejected if it is taken."""
    assert command(*EXAMPLE, "+output_jsonl_fpath=a.jsonl").code == 0
    target = tmp_path / arguments[-1].partition("=")[2]
    fd = lock(target)
    os.write(fd, b"theirs\n")
    before = files_in(tmp_path)
    ran = command(*arguments, "+overwrite=true", script=script)
    os.close(fd)
    assert (ran.code, "is being written by" in ran.stderr) == (2, True), ran.stderr
    assert files_in(tmp_path) == before
    assert command(*arguments, "+overwrite=true", script=script).code == 0


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
    resume = [*FILES, "+agent_url=http://127.0.0.1:9", RESUME]
    with limited_file_size(100_000):
        ran = command(*resume)
    assert ran.code == 3, ran.stderr
    assert "cannot be written: File too large; all rows are in it, in completion order" in ran.stderr
    assert "to resume: " in ran.stderr
    assert (tmp_path / "r.jsonl").read_bytes() == b"".join(reversed(rows))
    assert not list(tmp_path.glob("*.writing"))
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
