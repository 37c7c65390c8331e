"""Signals drain a run, stop it or ask it for a report."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import (
    FILES,
    RESUME,
    SCRIPTS,
    Ran,
    assert_complete,
    ended,
    keys_of,
    read_rows,
    start,
    wait_until,
)
from tests.servers import Served


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_interrupted_run_keeps_every_completed_row(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path, signal_: signal.Signals
) -> None:
    """After SIGINT, SIGTERM and SIGKILL, every row that was answered is in the output as a complete line."""
    tasks(5000)
    server = serve(delay=[0.01, 0.02])
    arguments = [f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    process = start(tmp_path, *arguments, "+num_samples_in_parallel=8")
    wait_until(lambda: server.stats()["total"] >= 200)
    process.send_signal(signal_)
    ran = ended(process)
    assert len(set(keys_of(tmp_path / "r.jsonl"))) >= server.stats()["total"] - 8
    assert "Traceback" not in ran.stderr


def test_sigusr2_at_the_end_of_a_slurm_job_drains_the_run(
    serve: Callable[..., Served], tasks: Callable[..., Path], command: Callable[..., Ran], tmp_path: Path
) -> None:
    """SIGUSR2, with which Slurm and submitit announce the end of a job, drains the run as SIGTERM does."""
    server = serve(delay=[0.2, 0.3])
    tasks(60)
    run = [f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    process = start(tmp_path, *run, "+num_samples_in_parallel=4")
    wait_until(lambda: bool(read_rows(tmp_path / "r.jsonl")))
    os.kill(process.pid, signal.SIGUSR2)
    ran = ended(process)
    assert ran.code == 128 + signal.SIGUSR2
    assert re.search(r"interrupted by SIGUSR2: [1-4] rollouts? in flight", ran.stderr)
    assert command(*run, "+num_samples_in_parallel=60", "+resume_from_cache=true").code == 0
    assert keys_of(tmp_path / "r.jsonl") == [(task, 0) for task in range(60)]


def test_signal_to_a_launcher_drains_its_jobs(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A signal to the command drains the jobs that its launcher runs on this machine; none sends further requests."""
    server = serve(delay=[0.2, 0.3])
    tasks(200)
    shards = [
        "-m",
        "hydra/launcher=submitit_local",
        "num_shards=2",
        "shard_index=range(2)",
        "num_samples_in_parallel=3",
    ]
    run = [f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    process = start(tmp_path, *shards, *run, start_new_session=True)
    outputs = [tmp_path / f"r_shard_{index}_of_2.jsonl" for index in range(2)]
    wait_until(lambda: all(read_rows(output) for output in outputs), 60)
    os.kill(process.pid, signal.SIGINT)
    ran = ended(process)
    assert ran.code == 128 + signal.SIGINT
    assert "the jobs on this machine drain and stop" in ran.stderr
    summaries = [output.with_name(output.stem + "_summary.json") for output in outputs]
    wait_until(lambda: all(summary.exists() for summary in summaries), 60)
    collected = [json.loads(summary.read_text())["collected"] for summary in summaries]
    assert collected == [len(read_rows(output)) for output in outputs]
    assert server.stats()["total"] == sum(collected) < 200


def test_first_signal_drains_the_run_and_a_resume_repeats_nothing(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """After a signal, rollouts in flight finish, no new ones start, and a resume collects exactly the remaining ones.

    The exit code is 128 plus the number of the signal. The averages so far and the command that resumes the run are
    printed.
    """
    tasks(300)
    server = serve(delay=[0.02, 0.05])
    run = [*FILES, f"+agent_url={server.url}", "+num_samples_in_parallel=8"]
    process = start(tmp_path, *run)
    wait_until(lambda: server.stats()["total"] > 50)
    process.send_signal(signal.SIGTERM)
    ran = ended(process)
    assert ran.code == 143
    assert "not done" in ran.stderr
    resume = next(line for line in ran.stderr.splitlines() if line.startswith("to resume: "))
    assert resume.endswith(f"ng_collect_rollouts {' '.join(run)} +resume_from_cache=true")
    rewards = [row["reward"] for row in read_rows(tmp_path / "r.jsonl")]
    assert ran.averages["reward"] == pytest.approx(sum(rewards) / len(rewards))
    assert len(keys_of(tmp_path / "r.jsonl")) == server.stats()["total"]
    assert command(*run, RESUME, "+num_samples_in_parallel=100").code == 0
    assert_complete(tmp_path, 300)
    assert server.stats()["total"] == 300


def test_second_signal_stops_at_once(serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path) -> None:
    """A second signal cancels rollouts that hang instead of waiting for `drain_s`, and the journal is readable."""
    tasks(20)
    server = serve(faults={"hang": 0.5}, sticky=True)
    process = start(tmp_path, *FILES, f"+agent_url={server.url}", "+drain_s=600")
    wait_until(lambda: server.stats()["total"] == 20)
    wait_until(lambda: len((tmp_path / "r.jsonl").read_bytes()) > 0)
    process.send_signal(signal.SIGINT)
    assert process.stderr
    assert "interrupted by SIGINT: " in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 130
    assert 0 < len(keys_of(tmp_path / "r.jsonl")) < 20


def test_sigint_stops_a_background_job(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """SIGINT stops `cmd &` of a script, which starts with SIGINT ignored, even if stdout is closed."""
    tasks(500)
    server = serve(delay=[0.05, 0.1])
    script = f"""
        {SCRIPTS}/ng_collect_rollouts {" ".join(FILES)} +agent_url={server.url} +num_samples_in_parallel=4 >&- &
        pid=$!
        while [ "$(wc -l < r.jsonl 2>/dev/null || echo 0)" -lt 20 ]; do sleep 0.05; done
        kill -INT $pid
        wait $pid
    """
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert len(keys_of(tmp_path / "r.jsonl")) >= 20


def test_sigusr1_reports_the_rollouts_in_flight(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """SIGUSR1 prints the oldest rollouts in flight with their ages to stderr, and the run continues."""
    tasks(3)
    server = serve(faults={"hang": 1.0})
    run = [*FILES, f"+agent_url={server.url}", "+rollout_timeout_s=1", "+max_attempts=1"]
    process = start(tmp_path, *run)
    wait_until(lambda: server.stats()["total"] == 3)
    process.send_signal(signal.SIGUSR1)
    ran = ended(process)
    assert "in_flight=3" in ran.stderr
    assert "task 0, rollout 0: " in ran.stderr
    assert "  timeout, for example: operation timed out" in ran.stderr
    assert ran.code == 1


def test_signal_ends_a_sweep(serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path) -> None:
    """A signal ends a sweep after the current run, even if all its rollouts finish: no further run starts."""
    tasks(4)
    server = serve(delay=[0.5, 0.5])
    sweep = ["-m", f"+agent_url={server.url}", "responses_create_params.temperature=0.2,0.7"]
    process = start(tmp_path, *FILES, *sweep)
    wait_until(lambda: server.stats()["total"] == 4)
    process.send_signal(signal.SIGINT)
    ran = ended(process)
    assert ran.code == 130, ran.stderr
    assert server.stats()["total"] == 4
    assert_complete(tmp_path, 4)


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_signal_ends_the_wait_for_a_server(tasks: Callable[..., Path], tmp_path: Path, signal_: signal.Signals) -> None:
    """While the command waits for a server, SIGUSR1 is ignored, and another signal ends it without leaving a file."""
    tasks(1)
    process = start(tmp_path, *FILES, "+agent_url=http://127.0.0.1:9", "+wait_for_agent_s=60")
    assert process.stderr
    assert "waiting up to 60 s" in process.stderr.readline()
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal_)
    ran = ended(process)
    assert (ran.code, ran.stderr) == (128 + signal_, "interrupted before anything was sent\n")
    assert [path.name for path in tmp_path.iterdir()] == ["tasks.jsonl"]
