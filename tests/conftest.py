"""What tests share: a live agent server, the console script as a user types it, and tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data" / "nemo_gym"
SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True)
class Served:
    """A running agent server."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stats(self) -> Any:
        with urllib.request.urlopen(f"{self.url}/stats", timeout=10) as reply:
            return json.load(reply)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


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
    yield from starting("agent_server.py")


@pytest.fixture
def serve_model() -> Iterator[Callable[..., Served]]:
    """Start OpenAI-compatible model servers with the given options; likewise."""
    yield from starting("model_server.py")


def starting(script: str) -> Iterator[Callable[..., Served]]:
    """Start servers of a script; they are stopped at the end."""
    servers: list[Served] = []

    def start(**options: Any) -> Served:
        command = [sys.executable, str(ROOT / "tests" / script), json.dumps(options)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        served = Served(process, int(process.stdout.readline()))
        servers.append(served)
        return served

    yield start
    for served in servers:
        served.stop()


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Ran]:
    """Run `ng_collect_rollouts` with these arguments in the test's own folder, to its end."""

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
