"""`upload_to` copies a run's files to a remote folder, from which the run can be resumed on another machine."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ng_rollouts import collect
from ng_rollouts.errors import OutputError, UploadFailed
from ng_rollouts.outputs import upload as upload_module
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.outputs.upload import Upload, upload_of
from ng_rollouts.storage.remote import Folder
from tests.conftest import (
    EXAMPLE,
    FILES,
    RESUME,
    ROOT,
    Ran,
    ended,
    files_in,
    keys_of,
    read_rows,
    start,
    wait_until,
)
from tests.servers import Served

Command = Callable[..., Ran]
Serve = Callable[..., Served]
Tasks = Callable[..., Path]


@dataclass(frozen=True)
class RemoteFolder:
    """A folder for `upload_to`, on disk or in a bucket."""

    url: str

    def files(self) -> dict[str, bytes]:
        """The current files by name."""
        system, path = fsspec.url_to_fs(self.url, use_listings_cache=False)
        system.invalidate_cache()
        return {Path(file).name: system.cat_file(file) for file in system.find(path)}


@pytest.fixture(params=["file", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteFolder:
    """An empty remote folder, of each kind in turn."""
    if request.param == "file":
        return RemoteFolder(f"file://{tmp_path}/remote/run 1")
    for name, value in request.getfixturevalue("s3").items():
        monkeypatch.setenv(name, value)
    return RemoteFolder(f"s3://bucket/{tmp_path.name}")


def remove_local_files(folder: Path) -> None:
    """Remove the output r.jsonl and its side files."""
    for path in folder.glob("r*"):
        if path.is_file():
            path.unlink()


# Copy and fetch


def test_all_files_are_uploaded_at_the_end_of_a_run(command: Command, tmp_path: Path, remote: RemoteFolder) -> None:
    """The remote folder has every file of a finished run, also after a resume, and files of another run are renamed."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl.zst", f"+upload_to={remote.url}"]
    assert command(*run, "+export=parquet", "+report=true").code == 0
    uploaded = remote.files()
    assert uploaded == files_in(tmp_path)
    assert uploaded.keys() > {"r.jsonl.zst", "r_summary.json", "r_manifest.json", "r.parquet", "r.html"}
    assert command(*run, RESUME, "+num_repeats=2").code == 0
    resumed = remote.files()
    assert resumed == {**files_in(tmp_path), "r.parquet": uploaded["r.parquet"], "r.html": uploaded["r.html"]}
    ran = command(*run)
    assert "has an output: renamed to r.jsonl.zst.1 there" in ran.stderr
    assert remote.files()["r.jsonl.zst.1"] == resumed["r.jsonl.zst"]
    assert remote.files()["r.jsonl.zst"] == (tmp_path / "r.jsonl.zst").read_bytes()


def test_interrupted_run_can_be_resumed_from_its_remote_copy(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, remote: RemoteFolder
) -> None:
    """An interrupted run is uploaded, and a resume without local files fetches it: no rollout is lost or repeated."""
    server = serve(delay=[0.02, 0.04])
    tasks(60)
    run = [*FILES, f"+agent_url={server.url}", f"+upload_to={remote.url}", "+num_repeats=2"]
    process = start(tmp_path, *run, "+num_samples_in_parallel=4")
    wait_until(lambda: len(read_rows(tmp_path / "r.jsonl")) > 20)
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 130
    collected = len(read_rows(tmp_path / "r.jsonl"))
    assert remote.files() == files_in(tmp_path)
    remove_local_files(tmp_path)
    ran = command(*run, "+num_samples_in_parallel=100", RESUME)
    assert ran.code == 0, ran.stderr
    assert f"{collected} of 120 rollouts are collected" in ran.stderr
    assert keys_of(tmp_path / "r.jsonl") == [(task, index) for task in range(60) for index in range(2)]
    assert set(server.stats()["asked"].values()) == {1}
    assert remote.files() == files_in(tmp_path)


def test_upload_removes_remote_side_files_that_no_longer_exist(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, remote: RemoteFolder
) -> None:
    """Once a resume has collected every failed rollout, failures and incomplete groups disappear remotely too."""
    tasks(20)
    run = [*FILES, "+num_repeats=2", f"+upload_to={remote.url}"]
    assert command(*run, f"+agent_url={serve(faults={'400': 0.2}, sticky=True).url}").code == 1
    assert remote.files() == files_in(tmp_path)
    assert remote.files().keys() > {"r_failures.jsonl", "r_incomplete.jsonl"}
    assert command(*run, f"+agent_url={serve().url}", RESUME).code == 0
    assert remote.files() == files_in(tmp_path)
    assert not remote.files().keys() & {"r_failures.jsonl", "r_incomplete.jsonl"}


def test_folder_is_not_written_before_it_is_claimed(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that fails before it has claimed the folder copies nothing to it, and can be resumed."""
    arguments = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl", "+upload_to=copies"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", fail_to_write)
        assert command(*arguments).code == 3
    assert list((tmp_path / "copies").iterdir()) == []
    ran = command(*arguments, RESUME)
    assert ran.code == 0, ran.stderr
    assert (tmp_path / "copies" / "r.jsonl").read_bytes() == (tmp_path / "r.jsonl").read_bytes()


def test_upload_removes_temporary_files_of_a_killed_one(command: Command, tmp_path: Path) -> None:
    """A kill during an upload to a folder leaves a temporary file there, which the next upload removes."""
    (tmp_path / "copies").mkdir()
    for name in ("r.jsonl", "other.jsonl"):
        (tmp_path / "copies" / f"{name}.0123abcd.writing").touch()
    ran = command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl", "+upload_to=copies")
    assert ran.code == 0, ran.stderr
    assert [path.name for path in (tmp_path / "copies").glob("*.writing")] == ["other.jsonl.0123abcd.writing"]


def test_killed_run_leaves_no_old_files_in_an_overwritten_folder(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, remote: RemoteFolder
) -> None:
    """With `overwrite`, remote files are removed before the first request, so a resume does not take old rollouts."""
    tasks(30)
    run = [*FILES, f"+agent_url={serve(delay=[0.05, 0.1]).url}", f"+upload_to={remote.url}"]
    assert command(*run).code == 0
    changed = ["+overwrite=true", "+responses_create_params.temperature=0.9", "+num_samples_in_parallel=4"]
    process = start(tmp_path, *run, *changed)
    wait_until(lambda: 0 < len(read_rows(tmp_path / "r.jsonl")) < 30)
    process.kill()
    ended(process)
    assert remote.files().keys() == {"r_manifest.json", "r_claim"}


@pytest.mark.parametrize("rows_to_take", [3, 100], ids=["some rows", "all rows"])
def test_rows_of_a_python_program_are_uploaded(tmp_path: Path, rows_to_take: int) -> None:
    """`collect()` uploads its files to any folder that fsspec supports, whether a program takes all rows or some."""
    url = f"memory://{tmp_path.name}/{rows_to_take}"
    files: dict[str, Any] = {
        "input_jsonl_fpath": str(ROOT / "examples" / "arithmetic.jsonl"),
        "output_jsonl_fpath": str(tmp_path / "r.jsonl"),
    }

    async def take_rows() -> None:
        rows = collect(agent_name="example_math_agent", limit=50, upload_to=url, **files)
        async with aclosing(rows):
            for _ in range(rows_to_take):
                if await anext(rows, None) is None:
                    return

    asyncio.run(take_rows())
    assert RemoteFolder(url).files() == files_in(tmp_path)


def fail_to_write(*_: object) -> None:
    """Fail as on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_uncompressed_output_is_uploaded_when_compression_fails(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the output cannot be compressed, it is uploaded as it is, and exit code and summary report the error."""
    monkeypatch.setattr("ng_rollouts.outputs.journal.compress", fail_to_write)
    ran = command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl.zst", "+upload_to=remote")
    assert ran.code == 3, ran.stderr
    assert "r.jsonl.zst cannot be written" in ran.stderr
    assert len(read_rows(tmp_path / "remote" / "r.jsonl")) == 10
    assert b'"exit_code": 3' in (tmp_path / "r_summary.json").read_bytes()


# Failed uploads


def test_failed_upload_is_exit_code_1_and_a_resume_repeats_it(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """If an upload fails, the output is complete, exit code and summary report it, and a resume uploads the files."""
    server, remote = serve(delay=[0.05, 0.05]), tmp_path / "remote"
    tasks(60)
    run = [*FILES, f"+agent_url={server.url}", "+num_samples_in_parallel=4", "+upload_to=remote"]

    def replace_folder_by_file() -> None:
        wait_until(lambda: len(read_rows(tmp_path / "r.jsonl")) > 10)
        shutil.rmtree(remote)
        remote.write_text("not a folder")

    with ThreadPoolExecutor(1) as threads:
        replaced = threads.submit(replace_folder_by_file)
        ran = command(*run)
    replaced.result()
    assert ran.code == 1, ran.stderr
    assert "error: upload_to remote failed: " in ran.stderr
    assert len(read_rows(tmp_path / "r.jsonl")) == 60
    assert b'"exit_code": 1' in (tmp_path / "r_summary.json").read_bytes()
    remote.unlink()
    assert command(*run, RESUME).code == 0
    assert files_in(remote) == files_in(tmp_path)
    assert server.stats()["total"] == 60


def test_stalled_upload_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload without progress for `MAX_IDLE_S` fails, although its thread cannot be stopped."""
    monkeypatch.setattr(upload_module, "MAX_IDLE_S", 0.01)
    released = threading.Event()

    class StalledFolder:
        url = "stalled://x"

        def has(self, _: str) -> bool:
            return released.wait(30)

        def put(self, *_: Any) -> None:
            released.wait(30)

    paths = OutputPaths(tmp_path / "r.jsonl")
    paths.output.write_text("")
    with pytest.raises(UploadFailed, match=r"stalled://x failed: no progress for 0\.01 s"):
        asyncio.run(Upload(StalledFolder(), paths).copy(0))  # type: ignore[arg-type]
    released.set()


# Remote folders that are rejected


@pytest.mark.parametrize(
    ("upload_to", "message"),
    [
        ("nosuch://z", "upload_to nosuch://z: Protocol not known: nosuch"),
        ("", "upload_to is empty"),
        (".", "upload_to . is the folder of the output"),
        ("remote/r.jsonl.zst", "upload_to remote/r.jsonl.zst must be a folder"),
        ("tasks.txt/x", "tasks.txt/x cannot be written: "),
    ],
    ids=["unknown protocol", "empty", "folder of the output", "file name", "path below a file"],
)
def test_invalid_upload_to_is_a_usage_error(command: Command, tmp_path: Path, upload_to: str, message: str) -> None:
    """An `upload_to` that cannot be a remote folder is exit code 2 before any rollout is collected."""
    (tmp_path / "tasks.txt").write_text("a file")
    ran = command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl", f"+upload_to={upload_to}")
    assert ran.code == 2
    assert message in ran.stderr
    assert not read_rows(tmp_path / "r.jsonl")


def test_missing_bucket_is_an_error_and_is_not_created(
    command: Command, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket that does not exist is a usage error; it is not created, because its name may be mistyped."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    ran = command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl", "+upload_to=s3://bb/x")
    assert ran.code == 2
    assert "upload_to s3://bb/x cannot be written: The specified bucket does not exist" in ran.stderr
    assert not fsspec.filesystem("s3").exists("bb")


@pytest.mark.parametrize("extra", ["+overwrite=true", "+dry_run=true", RESUME])
@pytest.mark.parametrize("upload_to", ["file.txt", "s3://no-such-bucket/x"], ids=["file", "missing bucket"])
def test_unwritable_remote_folder_is_detected_before_local_files_change(
    command: Command, tmp_path: Path, s3: dict[str, str], upload_to: str, extra: str
) -> None:
    """A remote folder that cannot be written is exit code 2, and every local file stays as it was."""
    (tmp_path / "file.txt").write_text("not a folder")
    assert command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl").code == 0
    before = files_in(tmp_path)
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl", "+num_repeats=2", f"+upload_to={upload_to}", extra]
    ran = command(*run, env=s3)
    assert ran.code == 2
    assert f"{upload_to} cannot be written" in ran.stderr
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("overwrite", ["true", "false"])
def test_upload_must_not_replace_the_input(command: Command, tasks: Tasks, tmp_path: Path, overwrite: str) -> None:
    """A remote folder that has the input under the name of the output is rejected, and the input stays as it was."""
    (tmp_path / "data").mkdir()
    source = tasks(3, "data/r.jsonl")
    text = source.read_text()
    run = ["+agent_name=example_math_agent", "+input_jsonl_fpath=data/r.jsonl", "+output_jsonl_fpath=r.jsonl"]
    ran = command(*run, "+upload_to=data", f"+overwrite={overwrite}")
    assert ran.code == 2
    assert "upload_to data has the input" in ran.stderr
    assert source.read_text() == text


def test_password_of_a_remote_folder_is_masked(tmp_path: Path) -> None:
    """The URL of a remote folder in messages has no password."""
    upload = upload_of("memory://user:hunter22@host/x", OutputPaths(tmp_path / "r.jsonl"), "t.jsonl")
    assert "hunter22" not in upload.folder.url


# Remote copies that a resume must not replace


@pytest.mark.parametrize(
    ("local", "resumed", "message"),
    [
        (
            ["+responses_create_params.temperature=0.5"],
            ["+num_repeats=2", "+responses_create_params.temperature=0.5"],
            "has the output of a different run: responses_create_params",
        ),
        (
            [],
            ["+num_repeats=2"],
            "remote has 20 rollouts of this run, but the local output has 10: move r.jsonl away",
        ),
    ],
    ids=["of another run", "with more rollouts"],
)
def test_resume_does_not_replace_a_copy_of_another_run_or_with_more_rollouts(
    command: Command, tmp_path: Path, local: list[str], resumed: list[str], message: str
) -> None:
    """A resume is rejected if the remote copy is of another run or has more rollouts, and the copy stays as it was."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl"]
    assert command(*run, "+upload_to=remote", "+num_repeats=2").code == 0
    before = files_in(tmp_path / "remote")
    remove_local_files(tmp_path)
    assert command(*run, *local).code == 0
    ran = command(*run, "+upload_to=remote", *resumed, RESUME)
    assert ran.code == 2
    assert message in ran.stderr
    assert files_in(tmp_path / "remote") == before


def test_resume_does_not_replace_a_copy_of_other_tasks(command: Command, tasks: Tasks, tmp_path: Path) -> None:
    """A resume is rejected if the copy is of fewer but other tasks, or has no manifest that says which."""
    other = [{"responses_create_params": {"input": f"other {number}"}} for number in range(9)]
    for name, rows in (("a.jsonl", 5), ("b.jsonl", other)):
        tasks(rows, name)
    run = ["+agent_name=example_math_agent", "+output_jsonl_fpath=r.jsonl"]
    assert command(*run, "+input_jsonl_fpath=a.jsonl", "+upload_to=remote").code == 0
    before = files_in(tmp_path / "remote")
    assert command(*run, "+input_jsonl_fpath=b.jsonl").code == 0
    ran = command(*run, "+input_jsonl_fpath=b.jsonl", "+upload_to=remote", RESUME)
    assert ran.code == 2
    assert "the output of a different run: the first 5 input rows" in ran.stderr
    assert files_in(tmp_path / "remote") == before
    (tmp_path / "remote" / "r_manifest.json").unlink()
    ran = command(*run, "+input_jsonl_fpath=b.jsonl", "+upload_to=remote", RESUME)
    assert ran.code == 2
    assert "has r.jsonl without r_manifest.json" in ran.stderr


@pytest.mark.parametrize(
    "summary", ['{"coll', "[1]", '{"collected": null}', None], ids=["torn", "not an object", "null", "missing"]
)
def test_rows_decide_which_copy_has_more_rollouts_without_a_valid_summary(
    command: Command, tmp_path: Path, summary: str | None
) -> None:
    """If the remote summary is missing or damaged, a copy without more rollouts is replaced, another one is not."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl", "+upload_to=remote"]
    assert command(*run).code == 0
    remote_summary = tmp_path / "remote" / "r_summary.json"
    remote_summary.unlink() if summary is None else remote_summary.write_text(summary)
    ran = command(*run, "+num_repeats=2", RESUME)
    assert ran.code == 0, ran.stderr
    assert files_in(tmp_path / "remote") == files_in(tmp_path)
    remote_summary.unlink()
    rows = (tmp_path / "r.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_bytes(b"".join(rows[:5]))
    ran = command(*run, "+num_repeats=2", RESUME)
    assert ran.code == 2
    assert "remote has 20 rollouts of this run, but the local output has 5: move r.jsonl away" in ran.stderr


def test_resume_after_a_kill_during_an_upload_replaces_what_is_there(command: Command, tmp_path: Path) -> None:
    """A copy that was cut off is replaced, although it has a longer, uncompressed output that is not here any more."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl.gz", "+upload_to=remote"]
    assert command(*run).code == 0
    with gzip.open(tmp_path / "r.jsonl.gz") as rows:
        (tmp_path / "remote" / "r.jsonl").write_bytes(rows.read())
    (tmp_path / "remote" / "r_summary.json").unlink()
    (tmp_path / "remote" / "r.jsonl.gz").unlink()
    ran = command(*run, RESUME)
    assert ran.code == 0, ran.stderr
    assert files_in(tmp_path / "remote") == files_in(tmp_path)


def test_copy_that_is_cut_off_is_not_taken_for_an_older_one(
    command: Command, tmp_path: Path, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an upload ends before the summary, that of an earlier copy is not believed: the rows are counted."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl", f"+upload_to={remote.url}"]
    assert command(*run).code == 0
    few_rows = (tmp_path / "r.jsonl").read_bytes()
    put = Folder.put

    def put_all_but_the_summary(folder: Folder, file: Path, on_progress: Callable[[], None]) -> None:
        if file.name == "r_summary.json":
            raise OSError(errno.EIO, "cut off")
        put(folder, file, on_progress)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "put", put_all_but_the_summary)
        assert command(*run, "+num_repeats=3", RESUME).code == 1
    (tmp_path / "r.jsonl").write_bytes(few_rows)
    ran = command(*run, "+num_repeats=3", RESUME)
    assert (ran.code, "has 30 rollouts of this run, but the local output has 10" in ran.stderr) == (2, True), ran.stderr


def test_resume_fetches_the_output_with_the_most_rollouts(
    command: Command, tmp_path: Path, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A complete compressed copy counts, although a plain one of an interrupted command was not removed yet."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl.gz", f"+upload_to={remote.url}"]
    assert command(*run).code == 0
    with gzip.open(tmp_path / "r.jsonl.gz") as rows:
        part = b"".join(rows.readlines()[:4])
    system, path = fsspec.url_to_fs(remote.url, use_listings_cache=False)
    system.pipe_file(f"{path}/r.jsonl", part)
    remove_local_files(tmp_path)
    ran = command(*run, RESUME)
    assert (ran.code, "10 of 10 rollouts are collected" in ran.stderr) == (0, True), ran.stderr
    assert remote.files().keys() == files_in(tmp_path).keys()


@pytest.mark.parametrize("manifest", ['{"run": 1}', '{"run": 2}'], ids=["same tasks", "other tasks"])
def test_copy_that_would_replace_the_work_of_another_run_fails(tmp_path: Path, manifest: str) -> None:
    """Of two runs with one remote folder, the one that claimed it first replaces nothing, also with equal manifests."""

    async def upload_both() -> None:
        first = upload_from(tmp_path / "a", str(tmp_path / "remote"))
        second = upload_from(tmp_path / "b", str(tmp_path / "remote"), manifest)
        for upload in (first, second):
            await upload.claim(is_resumed=False, overwrite=False)
        await second.copy(10)
        with pytest.raises(UploadFailed, match="has been claimed by another run since: all files are in"):
            await first.copy(10)

    asyncio.run(upload_both())
    assert (tmp_path / "remote" / "r.jsonl").read_text() == "b"


def test_of_two_runs_that_claim_a_folder_at_the_same_moment_one_is_refused(
    tmp_path: Path, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store creates a claim once, also if each run has seen the folder without one."""
    first, second = upload_from(tmp_path / "a", remote.url), upload_from(tmp_path / "b", remote.url)
    asyncio.run(first.claim(is_resumed=False, overwrite=False))
    written = remote.files()
    with monkeypatch.context() as patch:
        patch.setattr(Upload, "_existing", lambda _: [])
        patch.setattr(Upload, "_read_claim", lambda _: None)
        with pytest.raises(OutputError, match="is being claimed by another run at this moment"):
            asyncio.run(second.claim(is_resumed=False, overwrite=False))
    assert remote.files() == written
    assert not second.is_claimed
    asyncio.run(first.copy(10))


def test_folder_claimed_during_an_upload_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim is read again after every file, so that a mix of two runs is never reported as complete."""
    first, second = (upload_from(tmp_path / name, str(tmp_path / "remote")) for name in "ab")
    asyncio.run(first.claim(is_resumed=False, overwrite=False))
    put = Folder.put

    def put_and_lose_the_claim(folder: Folder, file: Path, on_progress: Callable[[], None]) -> None:
        put(folder, file, on_progress)
        if file == first.paths.summary:
            second.folder.write("r_claim", b"second")

    monkeypatch.setattr(Folder, "put", put_and_lose_the_claim)
    with pytest.raises(UploadFailed, match="has been claimed by another run since"):
        asyncio.run(first.copy(10))
    assert (tmp_path / "remote" / "r_claim").read_bytes() == b"second"


def upload_from(folder: Path, url: str, manifest: str = '{"run": 1}') -> Upload:
    """The upload of a finished run in a new local folder; the output is the folder's name."""
    folder.mkdir()
    paths = OutputPaths(folder / "r.jsonl")
    paths.output.write_text(folder.name)
    paths.manifest.write_text(manifest)
    paths.summary.write_text(json.dumps({"collected": 10}))
    return upload_of(url, paths, "t.jsonl")


def test_failed_upload_is_an_error_also_with_stop_ok(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """The end of the wall time is no error with `stop_ok`, but a copy that could not be made is one."""
    server, remote = serve(delay=[0.3, 0.3]), tmp_path / "remote"
    tasks(600)

    def replace() -> None:
        wait_until(lambda: (tmp_path / "r.jsonl").exists() and len(read_rows(tmp_path / "r.jsonl")) > 4)
        shutil.rmtree(remote)
        remote.write_text("not a folder")

    with ThreadPoolExecutor(1) as thread:
        replacing = thread.submit(replace)
        ran = command(
            *FILES, f"+agent_url={server.url}", "+num_samples_in_parallel=4", "+upload_to=remote", "+max_wall_s=5",
            "+stop_ok=true",
        )  # fmt: skip
    replacing.result()
    assert ran.code == 1, ran.stderr
    assert json.loads((tmp_path / "r_summary.json").read_bytes())["exit_code"] == 1
