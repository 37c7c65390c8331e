"""What `ng_collect_rollouts` loads: every module costs each start some of its time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import Served

SCRIPT = """
import os, sys
before, started, leave = set(sys.modules), [], os._exit
sys.addaudithook(lambda event, _: started.append(event) if event in ("subprocess.Popen", "os.fork") else None)

def report(code):
    print("LOADED", *(set(sys.modules) - before), file=sys.__stderr__)
    print("STARTED", *started, file=sys.__stderr__, flush=True)
    leave(code)

os._exit = report
import ng_rollouts.cli.collect
ng_rollouts.cli.collect.main()
"""
"""Runs the command, and then prints the modules that it has loaded, and an event for each process that it started."""

FILES = ["+input_jsonl_fpath=i", "+output_jsonl_fpath=o"]

UNNEEDED = (
    "httpx tqdm aiohttp numpy pebble multiprocessing.pool http.cookies email.utils statistics fractions difflib "
    "ng_rollouts.verifiers ng_rollouts.agents.model_agent ng_rollouts.agents.server_config "
    "ng_rollouts.agents.head_server ng_rollouts.metrics.repeat_stats ng_rollouts.outputs.upload "
    "ng_rollouts.report.server ng_rollouts.run.dry_run ng_rollouts.unescape ng_rollouts.config.help"
)
"""Modules that a run of an agent server does not need, without repeats, secrets and remote files."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a command in its own process has loaded and started."""

    code: int
    modules: set[str]
    processes: list[str]


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., Loaded]:
    """Run the command with the given arguments; the file `i` has one task."""
    (tmp_path / "i").write_text('{"responses_create_params": {"input": "hi"}}\n')

    def run(*arguments: str) -> Loaded:
        command = [sys.executable, "-c", SCRIPT, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        modules, _, processes = done.stderr.rpartition("LOADED ")[2].partition("\nSTARTED")
        assert "ng_rollouts.cli.collect" in modules.split(), done.stderr
        return Loaded(code=done.returncode, modules=set(modules.split()), processes=processes.split())

    return run


@pytest.mark.parametrize(
    ("arguments", "code", "unneeded"),
    [
        (["+num_repeat=4"], 2, "hydra omegaconf httpx pyreqwest orjson asyncio tqdm yaml uvloop"),
        (["--help"], 0, "hydra omegaconf httpx pyreqwest orjson asyncio tqdm uvloop"),
        (["+agent_url=http://127.0.0.1:9", "+wait_for_agent_s=0", *FILES], 3, UNNEEDED),
    ],
    ids=["typo", "help", "unreachable agent"],
)
def test_command_imports_only_the_modules_it_needs(
    loaded: Callable[..., Loaded], arguments: list[str], code: int, unneeded: str
) -> None:
    """A typo and `--help` are handled before Hydra is imported; a run with an agent's URL imports one HTTP engine."""
    ran = loaded(*arguments)
    assert ran.code == code
    assert ran.modules & set(unneeded.split()) == set()


def test_run_of_an_agent_server_loads_only_what_it_needs(
    loaded: Callable[..., Loaded], serve: Callable[..., Served]
) -> None:
    """A run from start to finish imports one HTTP engine and no module for other runs, and starts no process."""
    ran = loaded(f"+agent_url={serve().url}", *FILES)
    assert ran.code == 0
    assert ran.modules & set(UNNEEDED.split()) == set()
    assert ran.processes == []
