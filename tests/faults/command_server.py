"""Runs commands of the project, one after another, each in a fork of this process that has imported them already.

A command takes a third of the time that it takes in a new process. Requests are lines of JSON on stdin, and replies are lines
of JSON on stdout; see `serve`.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NoReturn

MODULES = (
    "hydra hydra.core.config_store hydra.core.hydra_config hydra._internal.core_plugins.basic_launcher "
    "hydra._internal.core_plugins.basic_sweeper ng_rollouts.cli.collect ng_rollouts.cli.aggregate ng_rollouts.cli.export "
    "ng_rollouts.run.run ng_rollouts.agents.factory ng_rollouts.agents.example.app ng_rollouts.executors.local uvloop "
    "ng_rollouts.run.status_file ng_rollouts.http.httpx_client ng_rollouts.http.pyreqwest_client httpx zstandard "
    "fsspec.core fsspec.implementations.local"
).split()
"""Modules that commands import when they need them."""

_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""


def serve() -> None:
    """Run the command of each line, and reply when it and the processes that it has left have ended.

    A request has `script`, `arguments`, `folder` (where it runs), `environment` (variables to set), `stdout` and `stderr`
    (files to write) and `seconds` (when it is killed). The reply is its exit code, -9 after SIGKILL, null if it hung.
    """
    for name in MODULES:
        import_module(name)
    # The process of a report outlives a command that is killed. It then becomes a child of this one.
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            _run(request)
        sys.stdout.write(json.dumps(_wait(pid, request["seconds"])) + "\n")
        sys.stdout.flush()


def _run(request: dict[str, Any]) -> NoReturn:
    """Become a command of the project."""
    code = 1
    try:
        os.chdir(request["folder"])
        for number, name in enumerate((os.devnull, request["stdout"], request["stderr"])):
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.dup2(fd, number)
            os.close(fd)
        sys.argv = [request["script"], *request["arguments"]]
        [entry] = [each for each in entry_points(group="console_scripts") if each.name == request["script"]]
        main = entry.load()
        os.environ.update(request["environment"])
        main()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, seconds: int) -> int | None:
    """Wait for a process and those that it has left; the exit code, or None if it was killed because it took too long."""
    pidfd = os.pidfd_open(pid)
    ended, _, _ = select.select([pidfd], [], [], seconds)
    os.close(pidfd)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    signal.alarm(seconds)  # ends this process, and so the test, if a process that was left hangs
    with suppress(ChildProcessError):
        while True:
            os.wait()
    signal.alarm(0)
    return os.waitstatus_to_exitcode(status) if ended else None


if __name__ == "__main__":
    serve()
