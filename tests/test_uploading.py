"""Outputs that are packed, and copies of them elsewhere: the same rollouts, wherever a run ends or goes on."""

from __future__ import annotations

import asyncio
import gzip
import io
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import fsspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts import collect, read_rollouts
from ng_rollouts.errors import OutputError, UploadFailed
from ng_rollouts.outputs import upload as uploading
from ng_rollouts.outputs.open_journal import open_for_resume, open_new
from ng_rollouts.outputs.paths import OutputPaths, output_paths
from ng_rollouts.outputs.upload import Upload, upload_of
from ng_rollouts.storage.compression import EXTENSIONS, compress_in_place, decompress, open_decompressed

from .conftest import ROOT, Ran, Served, ended, keys_of, read_rows, wait_until
from .test_nothing_lost import start

Command = Callable[..., Ran]
Serve = Callable[..., Served]
Tasks = Callable[..., Path]

EXAMPLE = [
    "+agent_name=example_math_agent",
    f"+input_jsonl_fpath={ROOT / 'examples' / 'arithmetic.jsonl'}",
    "+limit=10",
]
RESUME = "+resume_from_cache=true"


def names(folder: Path) -> set[str]:
    """The names of what a folder holds."""
    return {path.name for path in folder.iterdir()}


def compressed(kind: str, data: bytes) -> bytes:
    """As the command-line tools would."""
    return gzip.compress(data) if kind == ".gz" else zstandard.ZstdCompressor().compress(data)


def unpacked(kind: str, data: bytes) -> bytes:
    plain = io.BytesIO()
    decompress(f"r.jsonl{kind}", io.BytesIO(data), plain)
    return plain.getvalue()


@given(st.sampled_from([".gz", ".zst"]), st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_packed_files_may_have_several_parts(kind: str, parts: list[bytes]) -> None:
    """As those that were put together by `cat`."""
    assert unpacked(kind, b"".join(compressed(kind, part) for part in parts)) == b"".join(parts)


@given(st.sampled_from([".gz", ".zst"]), st.binary(min_size=1, max_size=3000), st.data())
def test_a_packed_file_that_is_cut_off_is_told(kind: str, data: bytes, drawn: st.DataObject) -> None:
    """Wherever: a row that is missing is never taken for the end."""
    whole = compressed(kind, data)
    end = drawn.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(OSError, match=r".") as told:
        unpacked(kind, whole[:end])
    assert told.value.strerror


@pytest.mark.parametrize("kind", [*EXTENSIONS, ""])
def test_what_is_packed_comes_out_again(tmp_path: Path, kind: str) -> None:
    """Byte by byte, with its permissions; a plain name is the plain file."""
    plain, target = tmp_path / "p", tmp_path / f"r.jsonl{kind}"
    plain.write_bytes(b"a row\n" * 100_000)
    plain.chmod(0o640)
    compress_in_place(plain, target)
    plain.replace(target)
    with open_decompressed(target) as file:
        assert file.read() == b"a row\n" * 100_000
    assert (names(tmp_path), target.stat().st_mode & 0o777) == ({target.name}, 0o640)


@pytest.mark.parametrize("kind", [".gz", ".zst"])
def test_an_output_is_packed_if_its_name_says_so(command: Command, tmp_path: Path, kind: str) -> None:
    """It holds what the plain one would, side files have their usual names, and a resume goes on with it."""
    assert command(*EXAMPLE, "+num_repeats=3", "+output_jsonl_fpath=plain.jsonl").code == 0
    packed = f"+output_jsonl_fpath=r.jsonl{kind}"
    assert command(*EXAMPLE, packed).code == 0
    assert names(tmp_path) >= {f"r.jsonl{kind}", "r_summary.json", "r_manifest.json"}
    for extra in ("+num_repeats=1", "+num_repeats=3"):
        ran = command(*EXAMPLE, packed, RESUME, extra)
        assert (ran.code, "10 of" in ran.stderr) == (0, True), ran.stderr
        assert "r.jsonl" not in names(tmp_path)
    assert unpacked(kind, (tmp_path / f"r.jsonl{kind}").read_bytes()) == (tmp_path / "plain.jsonl").read_bytes()


def test_commands_read_what_is_packed(command: Command, tmp_path: Path) -> None:
    """Each as it reads the plain file; merging packs, too."""
    run = [*EXAMPLE, "+num_repeats=2"]
    assert command(*run, "+output_jsonl_fpath=a/r.jsonl").code == 0
    assert command(*run, "+output_jsonl_fpath=b/r.jsonl.zst").code == 0
    told = {}
    for folder, name in (("a", "r.jsonl"), ("b", "r.jsonl.zst")):
        profiled = command(f"+rollouts_jsonl_fpath={folder}/{name}", script="ng_reward_profile")
        rows = [f"+input_jsonl_fpath={folder}/{name}", f"+output_jsonl_fpath={folder}/sft.jsonl", "+recipe=sft"]
        exported = command(*rows, script="ng_export_rollouts")
        page = command(f"+input_jsonl_fpath={folder}/{name}", script="ng_view_rollouts")
        assert (profiled.code, exported.code, page.code) == (0, 0, 0), page.stderr
        told[folder] = (profiled.stdout.replace("b/", "a/"), (tmp_path / folder / "sft.jsonl").read_bytes())
        assert names(tmp_path / folder) >= {"r_reward_profiling.jsonl", "r_agent_metrics.json", "r.html"}
    assert told["a"] == told["b"]
    rows = [
        "+input_jsonl_fpath=a/r.jsonl",
        "+output_jsonl_fpath=a/t.jsonl.zst",
        "+recipe=sft",
        "+validation_fraction=0.2",
    ]
    assert command(*rows, script="ng_export_rollouts").code == 0
    parts = [
        unpacked(".zst", (tmp_path / "a" / name).read_bytes()) for name in ("t.jsonl.zst", "t_validation.jsonl.zst")
    ]
    assert sorted(b"".join(parts).splitlines()) == sorted(told["a"][1].splitlines())
    same = command("+rollouts_jsonl_fpaths=a/r.jsonl,b/r.jsonl.zst", script="ng_compare_rollouts")
    assert '"difference": 0.0' in same.stdout
    merged = ["+input_glob=b/r.jsonl.zst", "+output_jsonl_fpath=c/r.jsonl.gz"]
    assert command(*merged, script="ng_aggregate_rollouts").code == 0
    assert gzip.decompress((tmp_path / "c" / "r.jsonl.gz").read_bytes()) == (tmp_path / "a" / "r.jsonl").read_bytes()
    assert list(read_rollouts(tmp_path / "b" / "r.jsonl.zst")) == list(read_rollouts(tmp_path / "a" / "r.jsonl"))


def test_a_look_at_a_packed_output_changes_nothing(command: Command, tmp_path: Path) -> None:
    """A dry run, and a resume that is refused."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl.zst"]
    assert command(*run).code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert command(*run, RESUME, "+num_repeats=2", "+dry_run=true").code == 0
    assert command(*run, RESUME, "+responses_create_params.temperature=0.5").code == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("kind", [".gz", ".zst"])
@pytest.mark.parametrize("length", [0, 100])
def test_a_damaged_packed_output_is_not_gone_on_with(command: Command, tmp_path: Path, kind: str, length: int) -> None:
    """It is named, and stays; moved away, its copy is fetched."""
    run = [*EXAMPLE, f"+output_jsonl_fpath=r.jsonl{kind}", "+upload_to=away"]
    assert command(*run).code == 0
    output = tmp_path / f"r.jsonl{kind}"
    output.write_bytes(output.read_bytes()[:length])
    before = here(tmp_path)
    for name in (output.name, "r.jsonl"):
        ran = command(*EXAMPLE, f"+output_jsonl_fpath={name}", "+num_repeats=2", RESUME)
        assert (ran.code, f"error: {output.name} cannot be read: " in ran.stderr) == (2, True), ran.stderr
        assert here(tmp_path) == before
    output.unlink()
    ran = command(*run, "+num_repeats=2", RESUME)
    assert (ran.code, "10 of 20 rollouts are collected" in ran.stderr) == (0, True), ran.stderr


def test_a_packed_output_that_was_there_is_moved_aside(command: Command, tmp_path: Path) -> None:
    """As a plain one is, under its own name."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl.zst"]
    assert command(*run).code == 0
    first = (tmp_path / "r.jsonl.zst").read_bytes()
    assert "r.jsonl.zst exists: renamed to r.jsonl.zst.1" in command(*run).stderr
    assert (tmp_path / "r.jsonl.zst.1").read_bytes() == first
    assert not {"r.jsonl", "r.jsonl.1"} & names(tmp_path)


def test_no_packed_input_is_replaced(command: Command, tmp_path: Path) -> None:
    """Whatever it was unpacked into."""
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress((ROOT / "examples" / "arithmetic.jsonl").read_bytes()))
    ran = command("+agent_name=example_math_agent", "+input_jsonl_fpath=t.jsonl.gz", "+output_jsonl_fpath=t.jsonl.gz")
    assert (ran.code, "would replace the input t.jsonl.gz" in ran.stderr) == (2, True)


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """A bucket on this machine; the environment that leads to it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    of_us = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    of_us |= {"AWS_ACCESS_KEY_ID": "one", "AWS_SECRET_ACCESS_KEY": "two"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in of_us.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
    yield of_us
    server.stop()


@pytest.fixture(params=["file", "s3"])
def away(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Callable[[], dict[str, bytes]]]:
    """A folder elsewhere, and what it holds."""
    url = f"file://{tmp_path}/away/run 1"
    if request.param == "s3":
        for name, value in request.getfixturevalue("s3").items():
            monkeypatch.setenv(name, value)
        url = f"s3://bucket/{tmp_path.name}"

    def held() -> dict[str, bytes]:
        system, path = fsspec.url_to_fs(url, use_listings_cache=False)
        system.invalidate_cache()
        files = system.find(path)
        return {Path(file).name: system.cat_file(file) for file in files}

    return url, held


def here(folder: Path) -> dict[str, bytes]:
    """The files of a run's folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and "tasks" not in path.name}


Away = tuple[str, Callable[[], dict[str, bytes]]]


def test_files_are_copied_when_the_run_is_over(command: Command, tmp_path: Path, away: Away) -> None:
    """All of them, as they are here; again after a resume; those of another run are moved aside there."""
    url, held = away
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl.zst", f"+upload_to={url}"]
    assert command(*run, "+export=parquet", "+report=true").code == 0
    assert held() == here(tmp_path)
    assert held().keys() > {"r.jsonl.zst", "r_summary.json", "r_manifest.json", "r.parquet", "r.html"}
    assert command(*run, RESUME, "+num_repeats=2").code == 0
    assert held() == {**here(tmp_path), "r.parquet": held()["r.parquet"], "r.html": held()["r.html"]}
    first = held()["r.jsonl.zst"]
    ran = command(*run)
    assert "has an output: renamed to r.jsonl.zst.1 there" in ran.stderr
    assert held()["r.jsonl.zst.1"] == first
    assert held()["r.jsonl.zst"] == (tmp_path / "r.jsonl.zst").read_bytes()


def test_an_interrupted_run_goes_on_elsewhere(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, away: Away
) -> None:
    """What was collected is copied, and fetched where there is nothing; no rollout is lost or asked for twice."""
    url, held = away
    server = serve(delay=[0.02, 0.04])
    tasks(60)
    run = [f"+agent_url={server.url}", "+num_samples_in_parallel=4", f"+upload_to={url}", "+num_repeats=2"]
    process = start(tmp_path, *run)
    wait_until(lambda: len(read_rows(tmp_path / "r.jsonl")) > 20)
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 130
    collected = len(read_rows(tmp_path / "r.jsonl"))
    assert held() == here(tmp_path)
    for path in tmp_path.glob("r*"):
        path.unlink()
    ran = ended(start(tmp_path, *run, RESUME))
    assert (ran.code, f"{collected} of 120 rollouts are collected" in ran.stderr) == (0, True), ran.stderr
    assert keys_of(tmp_path / "r.jsonl") == [(task, index) for task in range(60) for index in range(2)]
    assert set(server.stats()["asked"].values()) == {1}
    assert held() == here(tmp_path)


def test_what_is_gone_here_goes_there(serve: Serve, tasks: Tasks, tmp_path: Path, away: Away) -> None:
    """Failures and incomplete groups of a run that a resume completed."""
    url, held = away
    faulty = serve(faults={"400": 0.2}, sticky=True)
    tasks(20)
    run = ["+num_repeats=2", f"+upload_to={url}"]
    assert ended(start(tmp_path, *run, f"+agent_url={faulty.url}")).code == 1
    assert held() == here(tmp_path)
    assert held().keys() > {"r_failures.jsonl", "r_incomplete.jsonl"}
    assert ended(start(tmp_path, *run, f"+agent_url={serve().url}", RESUME)).code == 0
    assert held() == here(tmp_path)
    assert not held().keys() & {"r_failures.jsonl", "r_incomplete.jsonl"}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nosuch://z", "upload_to nosuch://z: Protocol not known: nosuch"),
        ("", "upload_to is empty"),
        (".", "upload_to . is the folder of the output"),
        ("away/r.jsonl.zst", "upload_to away/r.jsonl.zst must be a folder"),
        ("tasks.txt/x", "tasks.txt/x cannot be written: "),
    ],
)
def test_places_that_cannot_be(command: Command, tmp_path: Path, where: str, said: str) -> None:
    """Told in a line with exit code 2, before anything is sent."""
    (tmp_path / "tasks.txt").write_text("a file")
    ran = command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl", f"+upload_to={where}")
    assert (ran.code, said in ran.stderr) == (2, True), ran.stderr
    assert not read_rows(tmp_path / "r.jsonl")


def test_a_bucket_that_is_not_there_is_told_and_not_made(
    command: Command, tmp_path: Path, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped name costs a line, not a bucket."""
    ran = command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl", "+upload_to=s3://bb/x", env=s3)
    assert (ran.code, "upload_to s3://bb/x cannot be written: The specified bucket does not exist" in ran.stderr) == (
        2,
        True,
    )
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    assert not fsspec.filesystem("s3").exists("bb")


def test_tasks_from_a_bucket(
    command: Command, tmp_path: Path, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed or not; one that is not there is told in a line."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    text = (ROOT / "examples" / "arithmetic.jsonl").read_bytes()
    fsspec.filesystem("s3").pipe_file("bucket/in/t.jsonl.zst", compressed(".zst", text))
    run = ["+agent_name=example_math_agent", "+output_jsonl_fpath=r.jsonl", "+limit=5"]
    assert command(*run, "+input_jsonl_fpath=s3://bucket/in/t.jsonl.zst").code == 0
    assert len(read_rows(tmp_path / "r.jsonl")) == 5
    ran = command(*run, "+input_jsonl_fpath=s3://bucket/in/none.jsonl")
    assert (ran.code, ran.stderr.count("\n"), "s3://bucket/in/none.jsonl cannot be read: " in ran.stderr) == (
        2,
        1,
        True,
    )


def test_copies_of_something_else_are_left_alone(command: Command, tmp_path: Path) -> None:
    """A resume replaces neither those of another run, nor more than it has itself."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl", "+upload_to=away"]
    assert command(*run, "+num_repeats=2").code == 0
    there = here(tmp_path / "away")
    for extra, said in (
        (
            "+responses_create_params.temperature=0.5",
            "has the output of a different run: responses_create_params",
        ),
        ("+num_repeats=2", "away has 20 rollouts of this run, but the local output has 10: remove r.jsonl"),
    ):
        for path in tmp_path.glob("r*"):
            path.unlink()
        repeats = [] if extra.startswith("+num_repeats") else [extra]
        assert command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl", *repeats).code == 0
        ran = command(*run, "+num_repeats=2", *repeats, RESUME)
        assert (ran.code, said in ran.stderr) == (2, True), ran.stderr
        assert here(tmp_path / "away") == there


def test_a_copy_that_fails_is_an_error_and_costs_nothing(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """Exit code 1, in the summary too; all is here, and the same command with a resume tries again."""
    server, away = serve(delay=[0.02, 0.04]), tmp_path / "away"
    tasks(60)
    run = [f"+agent_url={server.url}", "+num_samples_in_parallel=4", "+upload_to=away"]
    process = start(tmp_path, *run)
    wait_until(lambda: len(read_rows(tmp_path / "r.jsonl")) > 10)
    shutil.rmtree(away)
    away.write_text("in the way")
    ran = ended(process)
    assert (ran.code, "error: upload_to away failed: " in ran.stderr.replace(f"file://{tmp_path}/", "")) == (1, True), (
        ran.stderr
    )
    assert len(read_rows(tmp_path / "r.jsonl")) == 60
    assert b'"exit_code": 1' in (tmp_path / "r_summary.json").read_bytes()
    away.unlink()
    assert ended(start(tmp_path, *run, RESUME)).code == 0
    assert here(away) == here(tmp_path)
    assert server.stats()["total"] == 60


def test_an_upload_that_does_not_move_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for it goes on."""
    monkeypatch.setattr(uploading, "MAX_IDLE_S", 0.01)
    let_go = threading.Event()

    class Stuck:
        url = "stuck://x"

        def has(self, _: str) -> bool:
            return let_go.wait(30)

        def put(self, *_: Any) -> None:
            let_go.wait(30)

    paths = OutputPaths(tmp_path / "r.jsonl")
    paths.output.write_text("")
    with pytest.raises(UploadFailed, match=r"stuck://x failed: no progress for 0\.01 s"):
        asyncio.run(Upload(Stuck(), paths).copy([]))  # type: ignore[arg-type]
    let_go.set()


@pytest.mark.parametrize("taken", [3, 100])
def test_a_program_has_its_copies_however_it_ends(tmp_path: Path, taken: int) -> None:
    """In whatever fsspec knows, by a program that takes all rows, or some."""
    url = f"memory://{tmp_path.name}/{taken}"
    files: dict[str, Any] = {
        "input_jsonl_fpath": str(ROOT / "examples" / "arithmetic.jsonl"),
        "output_jsonl_fpath": str(tmp_path / "r.jsonl"),
    }

    async def run() -> None:
        rows = collect(agent_name="example_math_agent", limit=50, upload_to=url, **files)
        async with aclosing(rows):
            for _ in range(taken):
                if await anext(rows, None) is None:
                    return

    asyncio.run(run())
    system = fsspec.filesystem("memory")
    held = {Path(name).name: system.cat_file(name) for name in system.find(f"/{tmp_path.name}/{taken}")}
    assert held == here(tmp_path)


def test_secrets_of_a_place_are_not_told(tmp_path: Path) -> None:
    """As those of other URLs."""
    upload = upload_of("memory://user:hunter22@host/x", OutputPaths(tmp_path / "r.jsonl"), "t.jsonl")
    assert "hunter22" not in upload.folder.url


def test_a_place_that_is_overwritten_holds_nothing_old(serve: Serve, tasks: Tasks, tmp_path: Path, away: Away) -> None:
    """Or who goes on elsewhere after a kill would take old rollouts for new ones."""
    url, held = away
    tasks(30)
    run = [f"+agent_url={serve(delay=[0.05, 0.1]).url}", f"+upload_to={url}", "+num_samples_in_parallel=8"]
    assert ended(start(tmp_path, *run)).code == 0
    process = start(tmp_path, *run, "+overwrite=true", "+responses_create_params.temperature=0.9")
    wait_until(lambda: 0 < len(read_rows(tmp_path / "r.jsonl")) < 30)
    process.kill()
    ended(process)
    assert held().keys() == {"r_manifest.json"}


def test_an_output_is_locked_until_all_is_done(tmp_path: Path) -> None:
    """While it is put in order, packed, handed on: whoever comes too early is told, and breaks nothing."""
    paths = output_paths(str(tmp_path / "r.jsonl.gz"))
    with open_new(paths, 2, overwrite=False) as journal:
        journal.append(1, b'{"row": 1}')
        journal.append(0, b'{"row": 0}')
        for step in (lambda: journal.finish([True, True]), journal.compress):
            step()
            with pytest.raises(OutputError, match="is being written by"):
                open_for_resume(paths, 2)
        assert gzip.decompress(paths.finished.read_bytes()) == b'{"row": 0}\n{"row": 1}\n'
    assert names(tmp_path) == {"r.jsonl.gz"}


def test_packed_or_not_an_output_is_one(command: Command, tmp_path: Path) -> None:
    """By whatever name it is asked for next: it is gone on with, or moved aside, and its side files with it."""
    assert command(*EXAMPLE, "+num_repeats=2", "+output_jsonl_fpath=r.jsonl.zst").code == 0
    first = (tmp_path / "r.jsonl.zst").read_bytes()
    ran = command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl")
    assert "r.jsonl.zst exists: renamed to r.jsonl.zst.1" in ran.stderr
    assert (tmp_path / "r.jsonl.zst.1").read_bytes() == first
    for name, repeats in (("r.jsonl.gz", 2), ("r.jsonl.zst", 3), ("r.jsonl", 4)):
        ran = command(*EXAMPLE, f"+num_repeats={repeats}", f"+output_jsonl_fpath={name}", RESUME)
        assert (ran.code, f"{10 * (repeats - 1)} of {10 * repeats} rollouts are collected" in ran.stderr) == (
            0,
            True,
        ), ran.stderr
        assert {each for each in names(tmp_path) if each.startswith("r.jsonl") and each[-1] != "1"} == {name}
    assert keys_of(tmp_path / "r.jsonl") == [(task, index) for task in range(10) for index in range(4)]


def test_a_stray_packed_file_is_not_destroyed(command: Command, tmp_path: Path) -> None:
    """One that lies beside a plain output is not what is gone on with: it is moved aside."""
    assert command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl").code == 0
    (tmp_path / "r.jsonl.zst").write_bytes(compressed(".zst", b"something else\n"))
    ran = command(*EXAMPLE, "+num_repeats=2", "+output_jsonl_fpath=r.jsonl.zst", RESUME)
    assert (ran.code, "renamed to r.jsonl.zst.1" in ran.stderr) == (0, True)
    assert unpacked(".zst", (tmp_path / "r.jsonl.zst.1").read_bytes()) == b"something else\n"
    assert unpacked(".zst", (tmp_path / "r.jsonl.zst").read_bytes()).count(b"\n") == 20


@pytest.mark.parametrize("extra", ["+overwrite=true", "+dry_run=true", RESUME])
@pytest.mark.parametrize("where", ["file.txt", "s3://no-such-bucket/x"])
def test_a_place_that_cannot_be_written_costs_nothing_here(
    command: Command, tmp_path: Path, s3: dict[str, str], where: str, extra: str
) -> None:
    """It is tried before anything is touched."""
    (tmp_path / "file.txt").write_text("no folder")
    assert command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl").code == 0
    before = here(tmp_path)
    ran = command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl", "+num_repeats=2", f"+upload_to={where}", extra, env=s3)
    assert (ran.code, f"{where} cannot be written" in ran.stderr) == (2, True), ran.stderr
    assert here(tmp_path) == before


def test_copies_do_not_replace_the_input(command: Command, tasks: Tasks, tmp_path: Path) -> None:
    """Where they would have its name."""
    (tmp_path / "data").mkdir()
    source = tasks(3, "data/r.jsonl")
    text = source.read_text()
    run = ["+agent_name=example_math_agent", "+input_jsonl_fpath=data/r.jsonl", "+output_jsonl_fpath=r.jsonl"]
    for extra in ("+overwrite=true", "+overwrite=false"):
        ran = command(*run, "+upload_to=data", extra)
        assert (ran.code, "upload_to data has the input" in ran.stderr) == (2, True)
    assert source.read_text() == text


def test_a_resume_leaves_copies_of_other_tasks_alone(command: Command, tasks: Tasks, tmp_path: Path) -> None:
    """However many they are; likewise those that do not say what they are of."""
    other = [{"responses_create_params": {"input": f"other {number}"}} for number in range(9)]
    for name, rows in (("a.jsonl", 5), ("b.jsonl", other)):
        tasks(rows, name)
    run = ["+agent_name=example_math_agent", "+output_jsonl_fpath=r.jsonl"]
    assert command(*run, "+input_jsonl_fpath=a.jsonl", "+upload_to=away").code == 0
    there = here(tmp_path / "away")
    assert command(*run, "+input_jsonl_fpath=b.jsonl").code == 0
    ran = command(*run, "+input_jsonl_fpath=b.jsonl", "+upload_to=away", RESUME)
    assert (ran.code, "the output of a different run: the first 5 input rows" in ran.stderr) == (2, True), ran.stderr
    assert here(tmp_path / "away") == there
    (tmp_path / "away" / "r_manifest.json").unlink()
    ran = command(*run, "+input_jsonl_fpath=b.jsonl", "+upload_to=away", RESUME)
    assert (ran.code, "has r.jsonl without r_manifest.json" in ran.stderr) == (2, True), ran.stderr


@pytest.mark.parametrize("text", ['{"coll', "[1]", '{"collected": null}', None])
def test_a_damaged_summary_there_is_no_obstacle(command: Command, tmp_path: Path, text: str | None) -> None:
    """A copy that was cut off: sizes tell whether there is more than here."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl", "+upload_to=away"]
    assert command(*run).code == 0
    summary = tmp_path / "away" / "r_summary.json"
    summary.unlink() if text is None else summary.write_text(text)
    ran = command(*run, "+num_repeats=2", RESUME)
    assert ran.code == 0, ran.stderr
    assert here(tmp_path / "away") == here(tmp_path)
    summary.unlink()
    (tmp_path / "r.jsonl").write_bytes(b"".join((tmp_path / "r.jsonl").read_bytes().splitlines(keepends=True)[:5]))
    ran = command(*run, "+num_repeats=2", RESUME)
    assert (ran.code, "away has more rollouts of this run than the local output" in ran.stderr) == (2, True), ran.stderr


def test_what_cannot_be_packed_is_copied_as_it_is(command: Command, tmp_path: Path) -> None:
    """The rollouts are wherever they were to be, and the exit code says that something is wrong."""
    (tmp_path / "r.jsonl.zst.writing").mkdir()
    ran = command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl.zst", "+upload_to=away")
    assert (ran.code, "r.jsonl.zst cannot be written" in ran.stderr) == (3, True), ran.stderr
    assert len(read_rows(tmp_path / "away" / "r.jsonl")) == 10
    assert b'"exit_code": 3' in (tmp_path / "r_summary.json").read_bytes()


def test_merging_onto_a_sources_other_name_is_refused(command: Command, tmp_path: Path) -> None:
    """They share what lies beside them."""
    assert command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl").code == 0
    before = here(tmp_path)
    merge = ["+input_glob=r.jsonl", "+output_jsonl_fpath=r.jsonl.zst", "+overwrite=true"]
    assert command(*merge, script="ng_aggregate_rollouts").code == 2
    assert here(tmp_path) == before
