"""Fixtures: live servers, the commands as a user types them, and files of tasks."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.cli import collect

from .servers import ProcessServer, ThreadServer
from .servers import Served as Served

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data" / "nemo_gym"
SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True)
class Ran:
    """What a finished command left."""

    code: int
    stdout: str
    stderr: str

    @property
    def averages(self) -> Any:
        return json.loads(self.stdout[self.stdout.index("{\n") if "{\n" in self.stdout else self.stdout.index("{}") :])


@pytest.fixture(autouse=True)
def plain_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx on its own transport, which respx can stand in for, whatever is installed."""
    monkeypatch.setitem(sys.modules, "httpx_aiohttp", None)


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start agent servers with the given options; they are stopped after the test."""
    yield from _starting("agent")


@pytest.fixture
def serve_model() -> Iterator[Callable[..., Served]]:
    """Start OpenAI-compatible model servers with the given options; they are stopped after the test."""
    yield from _starting("model")


def _starting(kind: str) -> Iterator[Callable[..., Served]]:
    servers: list[Served] = []

    def start(*, process: bool = False, **options: Any) -> Served:
        """Start a server in a thread, or in a process that can die."""
        servers.append(ProcessServer(kind, options) if process else ThreadServer(kind, options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., Ran]:
    """Run a command as a process in the test's folder, to its end: for tests about the process itself."""

    def run(*arguments: str, script: str = "ng_collect_rollouts", env: dict[str, str] | None = None) -> Ran:
        done = subprocess.run(
            [str(SCRIPTS / script), *arguments],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run a command in this process, in the test's folder, to its end: what a user types and what they see."""

    def run(*arguments: str, script: str = "ng_collect_rollouts", env: dict[str, str] | None = None) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", [str(SCRIPTS / script), *arguments])
            patch.setattr(sys, "path", list(sys.path))
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            code = run_in_process(script)
        return Ran(code, out.getvalue(), err.getvalue())

    return run


def run_in_process(script: str) -> int:
    """Run a console script with `sys.argv` as it is; its exit code."""
    if script in ("ng_collect_rollouts", "nemo_gym_collect_rollouts"):
        return collect._guarded(lambda: collect._main(sys.argv[1:]))
    [entry] = [each for each in entry_points(group="console_scripts") if each.name == script]
    with pytest.raises(SystemExit) as left:
        entry.load()()
    return int(left.value.code or 0)


@pytest.fixture
def tasks(tmp_path: Path) -> Callable[..., Path]:
    """Write a file of tasks: so many plain ones, or these rows."""

    def write(rows: int | list[Any], name: str = "tasks.jsonl") -> Path:
        if isinstance(rows, int):
            rows = [
                {"id": f"t{number}", "responses_create_params": {"input": f"question {number}"}}
                for number in range(rows)
            ]
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def read_rows(path: Path) -> list[Any]:
    """The rows of a JSONL file; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keys_of(path: Path) -> list[tuple[int, int]]:
    """The keys of a file's rows, in its order."""
    return [(row["_ng_task_index"], row["_ng_rollout_index"]) for row in read_rows(path)]


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Poll a condition; fail if it does not become true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition was not true after {seconds} s"
        time.sleep(0.02)


def start(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start `ng_collect_rollouts` as a process in a folder, and leave it running; `options` go to Popen."""
    return subprocess.Popen(
        [str(SCRIPTS / "ng_collect_rollouts"), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        **options,
    )


def ended(process: subprocess.Popen[str]) -> Ran:
    """Wait for a started command to end; its exit code and output."""
    stdout, stderr = process.communicate(timeout=60)
    return Ran(process.returncode, stdout, stderr)
