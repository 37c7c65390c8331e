"""Experiment trackers receive running figures, and their errors do not disturb a run."""

from __future__ import annotations

import asyncio
import errno
import json
import math
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ng_rollouts.integrations.live import LiveTrackers, RunningFigures, _Live
from ng_rollouts.integrations.runner import limit_s, run_integrations
from ng_rollouts.scheduling.counters import RunCounters
from tests.conftest import Ran, read_rows
from tests.servers import Served

TRACKER = """
import json, pathlib

def note(**what):
    with open("logged.jsonl", "a") as file:
        file.write(json.dumps(what) + "\\n")

class Artifact:
    def __init__(self, name, type): self.files = []
    def add_file(self, path): self.files.append(pathlib.Path(path).name)

class Run:
    url = "http://tracker"
    def __init__(self, config): self.config = dict(config)
    def log(self, metrics, step=None): note(step=step, **metrics)
    def log_artifact(self, artifact): note(files=artifact.files)
    def finish(self): note(finished=True)

class Config(dict):
    def update(self, values, allow_val_change=False): super().update(values)

def init(project, name, config, job_type):
    note(project=project, rows=config["input_rows"])
    run = Run(config)
    run.config = Config(config)
    return run
"""
"""Stands in for wandb."""


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Ran]) -> Callable[..., Ran]:
    """Collect five sums with code in place of wandb."""
    (tmp_path / "modules").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "modules")

    def run(code: str, url: str, *arguments: str) -> Ran:
        (tmp_path / "modules" / "wandb.py").write_text(code)
        files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=rollouts.jsonl", "+verifier=none"]
        env = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")])}
        return command(f"+policy_base_url={url}/v1", "+export=wandb", *files, *arguments, env=env)

    return run


@pytest.fixture
def url(serve_model: Callable[..., Served], tasks: Callable[..., Path]) -> str:
    """A model server, and tasks for it."""
    tasks([{"responses_create_params": {"input": f"{n} + 1"}} for n in range(5)])
    return serve_model(latency=0.3).url


def test_tracker_receives_running_figures_and_then_the_finished_run(
    tracked: Callable[..., Ran], url: str, tmp_path: Path
) -> None:
    """One run of the tracker has figures by step, whose last ones are those of the end, then metrics and files."""
    ran = tracked(TRACKER, url, "+num_samples_in_parallel=1", "+export_every_s=0.1", "+export_project=mine")
    assert ran.code == 0, ran.stderr
    assert "wandb: http://tracker" in ran.stderr
    begun, *figures, metrics, files, finished = read_rows(tmp_path / "logged.jsonl")
    assert begun == {"project": "mine", "rows": 5}
    steps = [each["step"] for each in figures]
    assert steps == sorted(set(steps))
    collected = [each["running/collected"] for each in figures]
    assert collected == sorted(collected)
    assert figures[-1]["running/collected"] == 5
    assert figures[-1]["running/in_flight"] == 0
    assert len(figures) >= 2
    assert metrics["collected"] == 5
    assert "rollouts.jsonl" in files["files"]
    assert finished == {"finished": True}


@pytest.mark.parametrize(
    "code",
    ["raise RuntimeError('no key')", "import os\nos._exit(9)", TRACKER.replace("note(step=step", "raise OSError(step")],
    ids=["import fails", "process exits", "figures are refused"],
)
def test_tracker_that_fails_costs_one_warning(tracked: Callable[..., Ran], url: str, code: str) -> None:
    """The exit code stays 0, all rollouts are collected, and one warning is about running figures."""
    ran = tracked(code, url, "+num_samples_in_parallel=1", "+export_every_s=0.1")
    assert ran.code == 0, ran.stderr
    assert ran.stderr.count("no more running figures") <= 1
    assert "collected 5 of 5" in ran.stderr
    assert json.loads(ran.stdout[ran.stdout.rindex("\n{") :]) is not None


def test_tracker_that_does_not_read_delays_nothing(tracked: Callable[..., Ran], url: str) -> None:
    """A run of a tracker that hangs in its first call ends; figures that it does not read take bounded memory."""
    code = "import time, pathlib\npathlib.Path('began').touch()\ntime.sleep(3)\nraise RuntimeError('slow')"
    ran = tracked(code, url, "+export_every_s=0.1")
    assert ran.code == 0, ran.stderr


def test_run_that_is_not_finished_ends_the_trackers_run(tracked: Callable[..., Ran], url: str, tmp_path: Path) -> None:
    """After a run that stopped early, the tracker has the figures, and its run is ended."""
    ran = tracked(TRACKER, url + "/wrong", "+export_every_s=0.1", "+policy_model_name=m", "+max_attempts=1")
    assert ran.code != 0
    rows = read_rows(tmp_path / "logged.jsonl")
    assert not rows or rows[-1] == {"finished": True}


def test_tracker_whose_process_cannot_start_costs_warnings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on without it, and so do the integrations of the finished run."""

    async def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    async def follow() -> None:
        trackers = LiveTrackers(["wandb"], tmp_path / "rollouts.jsonl", "project")
        async with trackers.following(RunCounters(planned=1), 1.0):
            pass
        assert await trackers.finish(lambda: 9.0) == set()
        await run_integrations(["wandb"], tmp_path / "rollouts.jsonl", "project", lambda: 9.0)
        await trackers.close(1.0)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    asyncio.run(follow())
    printed = capsys.readouterr().err
    assert "warning: export=wandb: no running figures: its process cannot start: no more processes" in printed
    assert "warning: export=wandb failed: its process cannot start: no more processes" in printed


def test_end_of_the_time_bounds_the_end_of_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not end is ended after the seconds that are left, not after those that it may take."""
    monkeypatch.setattr("ng_rollouts.integrations.live._CLOSE_S", 300.0)

    async def close() -> int | None:
        async with asyncio.timeout(60), silent_tracker() as (tracker, child, _):
            await tracker.close(0.0)
        return child.returncode

    assert asyncio.run(close()) == -signal.SIGKILL


@asynccontextmanager
async def silent_tracker() -> AsyncIterator[tuple[_Live, asyncio.subprocess.Process, socket.socket]]:
    """A tracker, its process, which does nothing, and the other end of its socket, from which the test reads."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(0)
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(300)", stdout=PIPE)
    with theirs:
        tracker = _Live("wandb", child, *await asyncio.open_unix_connection(sock=ours))
        yield tracker, child, theirs
        await tracker.close(0.0)


def test_newest_figures_alone_wait_for_a_slow_tracker(capsys: pytest.CaptureFixture[str]) -> None:
    """While a tracker logs a line, newer figures replace those that wait, with one warning."""

    async def follow() -> None:
        async with silent_tracker() as (tracker, _, theirs):
            loop = asyncio.get_running_loop()
            for line in (b"1\n", b"2\n", b"3\n", b"4\n"):
                tracker.send(line)
                if line == b"1\n":
                    assert await loop.sock_recv(theirs, 99) == b"1\n"
            await loop.sock_sendall(theirs, b".")
            assert await loop.sock_recv(theirs, 99) == b"4\n"

    asyncio.run(follow())
    assert capsys.readouterr().err == "warning: export=wandb is slow: running figures are left out\n"


def test_end_of_a_run_leaves_out_figures_that_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tracker that does not log a line in time gets the finished run next, and is ended after its seconds."""
    monkeypatch.setattr("ng_rollouts.integrations.live._CATCH_UP_S", 0.01)

    async def follow() -> bytes:
        async with silent_tracker() as (tracker, child, theirs):
            tracker.send(b"1\n")
            received = await asyncio.get_running_loop().sock_recv(theirs, 99)
            tracker.send(b"2\n")
            assert await tracker.finish(0.2)
            assert await child.wait() == -signal.SIGKILL
            return received + await asyncio.get_running_loop().sock_recv(theirs, 99)

    assert asyncio.run(follow()) == b"1\nfinish\n"
    printed = capsys.readouterr().err
    assert printed.count("warning: export=wandb is slow: running figures are left out") == 1
    assert "warning: export=wandb did not finish within 0 s and was stopped" in printed


def test_slow_tracker_misses_figures_and_gets_the_finished_run(
    tracked: Callable[..., Ran], url: str, tmp_path: Path
) -> None:
    """A tracker that takes a second for each line logs a few lines, whose steps have gaps, and then the finished run."""
    slow = TRACKER.replace("note(step=step, **metrics)", "note(step=step, **metrics), __import__('time').sleep(1)")
    ran = tracked(slow, url, "+num_samples_in_parallel=1", "+export_every_s=0.1")
    assert ran.code == 0, ran.stderr
    assert ran.stderr.count("warning: export=wandb is slow: running figures are left out") == 1
    _, *figures, metrics, _, finished = read_rows(tmp_path / "logged.jsonl")
    steps = [each["step"] for each in figures]
    assert steps == sorted(set(steps))
    assert len(steps) <= steps[-1]
    assert metrics["collected"] == 5
    assert finished == {"finished": True}


@pytest.mark.parametrize("option", ["+export_every_s=1", "+quiet=false"])
def test_end_of_the_time_bounds_the_export_of_a_finished_run(
    tracked: Callable[..., Ran], url: str, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """A tracker that hangs is ended when the time of the command is over, and not after the time without a limit."""
    monkeypatch.setattr("ng_rollouts.integrations.runner._LEAST_S", 1.0)
    ran = tracked("import time\ntime.sleep(300)", url, "+max_wall_s=4", option)
    assert ran.code == 0, ran.stderr
    assert re.search(r"warning: export=wandb did not finish within [1-4] s and was stopped", ran.stderr), ran.stderr
    assert "collected 5 of 5" in ran.stderr


def test_seconds_of_an_integration_are_those_that_are_left() -> None:
    """It has a few seconds in any case, and at most 15 minutes."""
    assert [limit_s(left) for left in (0.0, 60.0, math.inf)] == [5.0, 60.0, 900.0]


def test_figures_need_a_tracker(tracked: Callable[..., Ran], url: str) -> None:
    """`export_every_s` without a tracker is an error."""
    ran = tracked(TRACKER, url, "+export_every_s=1", "export=parquet")
    assert (ran.code, "export_every_s has no effect without a tracker" in ran.stderr) == (2, True), ran.stderr


def test_rates_are_those_since_the_figures_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst shows in the figures after it, and not in later ones."""
    now = 10.0
    monkeypatch.setattr("ng_rollouts.integrations.live.time.monotonic", lambda: now)
    counters = RunCounters(planned=100, collected=20)
    figures = RunningFigures(counters)
    counters.collected, counters.output_tokens, now = 30, 500, 15.0
    assert figures.next() == {
        "running/collected": 30,
        "running/failed": 0,
        "running/in_flight": 0,
        "running/waiting": 0,
        "running/elapsed_s": 5.0,
        "running/rollouts_per_s": 2.0,
        "running/output_tokens_per_s": 100.0,
    }
    now = 20.0
    assert figures.next()["running/rollouts_per_s"] == 0.0
    assert figures.step == 2
