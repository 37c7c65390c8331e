"""Runs of the real command that `ng_control_rollouts` changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ran, start, wait_until
from tests.servers import Served

Control = Callable[..., Ran]


@pytest.fixture
def control(tmp_path: Path) -> Control:
    """Send a command to the run of `r.jsonl` in the test's folder."""

    def run(*words: str) -> Ran:
        command = [sys.executable, "-m", "ng_rollouts.cli.control", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def started(serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Start a slow run of an agent server, and return its process and server once it collects rollouts."""

    def begin(*arguments: str, count: int = 400, **options: Any) -> tuple[subprocess.Popen[str], Served]:
        server = serve(**{"delay": [0.05, 0.05], **options})
        tasks(count)
        files = [f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
        process = start(tmp_path, *files, "+num_samples_in_parallel=2", *arguments)
        wait_until(lambda: server.stats()["total"] >= 4)
        return process, server

    return begin


def status_of(control: Control) -> Any:
    """The numbers of `status`."""
    ran = control("r.jsonl", "status", "+json=true")
    assert ran.code == 0, ran.stderr
    return json.loads(ran.stdout)["status"]


def summary_in(folder: Path) -> Any:
    """The summary of the run."""
    return json.loads((folder / "r_summary.json").read_bytes())
