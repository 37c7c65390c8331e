"""What the benchmarks share: a stub agent on a core of its own, tasks, and a client's time and memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLIENT_CORE, STUB_CORE = 0, 1


@dataclass(frozen=True)
class Used:
    """What one client process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float


@contextmanager
def stub(**options: float) -> Iterator[str]:
    """A stub agent with the given options; its URL."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, str(HERE / "stub_agent.py"), "--core", str(STUB_CORE), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def timed(command: list[str], folder: Path) -> Used:
    """Run a client to its end, on its core and in a folder."""
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=client_environment(),
        preexec_fn=to_client_core,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"exit {process.returncode}: {' '.join(command)}")
    return Used(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def to_client_core() -> None:
    os.sched_setaffinity(0, {CLIENT_CORE})


def client_environment() -> dict[str, str]:
    """The environment variables of a client. Without PYTHONPATH, it imports what is installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def often(times: int, measure: Callable[[], Used]) -> list[Used]:
    return [measure() for _ in range(times)]


def write_tasks(folder: Path, count: int, size: int = 2000) -> Path:
    """A file of so many tasks of about so many bytes; made once."""
    path = folder / f"tasks_{count}_{size}.jsonl"
    if not path.exists():
        text = "lorem ipsum dolor sit amet " * (size // 27)
        with path.open("w") as file:
            for number in range(count):
                messages = [{"role": "user", "content": f"Question {number}: {text}"}]
                file.write(json.dumps({"id": number, "responses_create_params": {"input": messages}}) + "\n")
    return path


def median(runs: list[Used], what: str) -> float:
    return statistics.median(getattr(run, what) for run in runs)
