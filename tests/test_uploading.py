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

from ng_rollouts import collect, read_rollouts, uploading
from ng_rollouts.errors import UploadFailed
from ng_rollouts.outputs import OutputPaths
from ng_rollouts.packed import opened, pack_file, unpack_file
from ng_rollouts.uploading import Upload, upload_of

from .conftest import ROOT, Ran, Served, keys_of, read_rows
from .test_command import wait_until
from .test_nothing_lost import ended, start

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
    unpack_file(f"r.jsonl{kind}", io.BytesIO(data), plain)
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


@pytest.mark.parametrize("kind", [".gz", ".zst", ""])
def test_what_is_packed_comes_out_again(tmp_path: Path, kind: str) -> None:
    """Byte by byte, with its permissions; the plain file is gone."""
    plain, target = tmp_path / "p", tmp_path / f"r.jsonl{kind}"
    plain.write_bytes(b"a row\n" * 100_000)
    plain.chmod(0o640)
    pack_file(plain, target)
    with opened(target) as file:
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
        viewed = command(f"+input_jsonl_fpath={folder}/{name}", script="ng_view_rollouts")
        assert (profiled.code, exported.code, viewed.code) == (0, 0, 0), viewed.stderr
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


def test_a_packed_output_that_was_there_is_moved_aside(command: Command, tmp_path: Path) -> None:
    """As a plain one is, under its own name."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl.zst"]
    assert command(*run).code == 0
    first = (tmp_path / "r.jsonl.zst").read_bytes()
    assert "r.jsonl.zst was there: moved to r.jsonl.zst.1" in command(*run).stderr
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
    assert "had an output: moved to r.jsonl.zst.1 there" in ran.stderr
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
    assert (ran.code, f"{collected} of 120 rollouts are there" in ran.stderr) == (0, True), ran.stderr
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
        (".", "upload_to . is the folder that the output is in"),
        ("away/r.jsonl.zst", "upload_to away/r.jsonl.zst is to be a folder"),
        ("tasks.txt/x", "tasks.txt/x cannot be written: Not a directory"),
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
            "has what was collected for something else: responses_create_params",
        ),
        ("+num_repeats=2", "away has 20 rollouts of this run, and here are 10: remove r.jsonl"),
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
    monkeypatch.setattr(uploading, "LONGEST_IDLE_S", 0.01)
    let_go = threading.Event()

    class Stuck:
        url = "stuck://x"

        def has(self, _: str) -> bool:
            return let_go.wait(30)

        def put(self, *_: Any) -> None:
            let_go.wait(30)

    paths = OutputPaths(tmp_path / "r.jsonl")
    paths.output.write_text("")
    with pytest.raises(UploadFailed, match=r"stuck://x failed: nothing has moved for 0\.01 s"):
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
    upload = upload_of("memory://user:hunter22@host/x", OutputPaths(tmp_path / "r.jsonl"))
    assert "hunter22" not in upload.folder.url
