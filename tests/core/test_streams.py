"""Streams that nobody reads: a run goes through, its messages are kept, and signals end it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ng_rollouts.streams import PatientStream, finish, patient
from tests.conftest import EXAMPLE, SCRIPTS, read_rows, wait_until
from tests.servers import Served


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: its read end and its write end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def fill(end: int) -> int:
    """Fill a pipe; how many bytes it took."""
    filled = 0
    os.set_blocking(end, False)
    for size in (4096, 1):
        try:
            while True:
                filled += os.write(end, b"." * size)
        except BlockingIOError:
            continue
    os.set_blocking(end, True)
    return filled


def over(end: int, encoding: str = "utf-8", *, keeps_all: bool = False) -> PatientStream:
    """A stream that does not block over the write end of a pipe."""
    stream = patient(io.TextIOWrapper(io.FileIO(end, "w", closefd=False), encoding=encoding), keeps_all=keeps_all)
    assert isinstance(stream, PatientStream)
    return stream


def test_texts_for_a_full_pipe_are_kept_in_order(pipe: tuple[int, int]) -> None:
    """What a full pipe does not take is written when there is room, in order, and whole."""
    stream, filled = over(pipe[1]), fill(pipe[1])
    for number in range(100):
        print(number, file=stream, flush=True)
    assert stream.is_stalled
    assert os.read(pipe[0], filled) == b"." * filled
    finish(stream, 5)  # type: ignore[arg-type]
    assert not stream.is_stalled
    assert os.read(pipe[0], 4096) == b"".join(b"%d\n" % number for number in range(100))


def test_results_are_all_kept_and_the_exit_waits_for_a_slow_reader(pipe: tuple[int, int]) -> None:
    """Several megabytes of results arrive whole, although the reader takes some of them only now and then."""
    fill(pipe[1])
    stream = over(pipe[1], keeps_all=True)
    text = "".join(f"{number:08}\n" for number in range(400_000))
    for start in range(0, len(text), 100_000):
        stream.write(text[start : start + 100_000])
    with ThreadPoolExecutor() as pool:
        finished = pool.submit(finish, stream, 5)  # type: ignore[arg-type]
        received = b""
        while not received.endswith(b"00399999\n"):
            received += os.read(pipe[0], 1 << 16)
        assert finished.result() == 0
    assert received.lstrip(b".").decode() == text


def test_exit_does_not_wait_for_a_reader_that_takes_nothing(pipe: tuple[int, int]) -> None:
    """After the given seconds without progress, the number of bytes that were not taken is returned."""
    fill(pipe[1])
    stream = over(pipe[1], keeps_all=True)
    stream.write("x" * 3_000_000)
    assert finish(stream, 0.01) == 3_000_000  # type: ignore[arg-type]


def test_what_is_kept_is_bounded_and_ends_with_the_latest(pipe: tuple[int, int]) -> None:
    """Of more than a megabyte, the oldest texts are dropped, and the last one is kept."""
    stream, filled = over(pipe[1]), fill(pipe[1])
    for number in range(300):
        stream.write(f"{number} " + "x" * 10_000 + "\n")
    stream.write("error: the last\n")
    received = b""
    while len(received) < filled or not received.endswith(b"error: the last\n"):
        received += os.read(pipe[0], 1 << 16)
        stream.flush()
    assert filled < len(received) < filled + 1.2e6


def test_characters_that_the_encoding_lacks_are_escape_sequences(pipe: tuple[int, int]) -> None:
    """A terminal or pipe in ASCII receives every message."""
    over(pipe[1], "ascii").write("Zoë ✓\udcff\n")
    assert os.read(pipe[0], 100) == b"Zo\\xeb \\u2713\\udcff\n"


def test_broken_pipe_is_reported_once() -> None:
    """The first write to a pipe without a reader raises an error; later ones are ignored."""
    reading, writing = os.pipe()
    stream = over(writing)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        stream.write("x")
    assert stream.write("y") == 1
    os.close(writing)


@pytest.mark.parametrize("names", [("stderr",), ("stdout",), ("stdout", "stderr")])
def test_run_finishes_although_nobody_reads_its_pipe(
    pipe: tuple[int, int], tmp_path: Path, names: tuple[str, ...]
) -> None:
    """A full pipe as stdout or stderr delays neither the rollouts nor the exit without end."""
    fill(pipe[1])
    streams = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL) | dict.fromkeys(names, pipe[1])
    command = [str(SCRIPTS / "ng_collect_rollouts"), *EXAMPLE, "+output_jsonl_fpath=r.jsonl"]
    assert subprocess.run(command, cwd=tmp_path, check=False, timeout=300, **streams).returncode == 0  # type: ignore[call-overload]
    assert len(read_rows(tmp_path / "r.jsonl")) == 10


@pytest.mark.parametrize("signals", [2, 3])
def test_signals_end_a_run_whose_pipe_nobody_reads(
    pipe: tuple[int, int], serve: Callable[..., Served], tmp_path: Path, signals: int
) -> None:
    """With a full pipe as stderr, repeated signals end the run as they do otherwise."""
    fill(pipe[1])
    server = serve(delay=[100, 100])
    run = ["+agent_name=a", f"+agent_url={server.url}", *EXAMPLE[1:], "+output_jsonl_fpath=r.jsonl"]
    process = subprocess.Popen(
        [str(SCRIPTS / "ng_collect_rollouts"), *run], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=pipe[1]
    )
    wait_until(lambda: server.stats()["total"] > 0)
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 143


def test_signal_before_the_run_is_ready_does_not_kill_it(tmp_path: Path) -> None:
    """SIGUSR2 during the imports ends the command with a line, as other signals do."""
    process = subprocess.Popen(
        [str(SCRIPTS / "ng_collect_rollouts"), *EXAMPLE, "+output_jsonl_fpath=r.jsonl", "+wait_for_agent_s=30",
         "+agent_url=http://127.0.0.1:9"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stderr
    assert "waiting" in process.stderr.readline()
    process.send_signal(signal.SIGUSR2)
    assert (process.wait(timeout=300), process.stderr.read().endswith("interrupted before anything was sent\n")) == (
        140,
        True,
    )
    process.stderr.close()
