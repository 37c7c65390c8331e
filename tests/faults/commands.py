"""Run commands with faults: the compiled shim, the command server, and the calls of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

KINDS = ("enospc", "eio", "erofs", "kill_before", "kill_after", "half", "torn")
"""The faults of fail_calls.c."""

KILLS = ("kill_before", "kill_after", "torn")
"""Faults that end the process."""

_WRITES = ("half", "torn")
"""Faults of calls that write. Other calls have a fault like them: `enospc` and `kill_before`."""

KILLED = -9

_HANGS_AFTER_S = 60
"""A command takes less than a second."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that changes a file.

    Attributes:
        number: its number in the run, from 1.
        label: its name and path, such as `write ./r.jsonl`.
    """

    number: int
    label: str

    @property
    def kinds(self) -> list[str]:
        """The faults that differ for this call."""
        is_write = self.label.startswith(("write", "pwrite", "sendfile", "copy_file_range"))
        return [kind for kind in KINDS if is_write or kind not in _WRITES]


@dataclass(frozen=True, slots=True)
class Fault:
    """A call, and how it fails."""

    call: Call
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} at call {self.call.number}, {self.call.label}"


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended: its exit code (-9 after SIGKILL, None if it hung), output and calls."""

    code: int | None
    stdout: str
    stderr: str
    calls: list[Call]


class Commands:
    """Runs commands of the project with faults.

    Args:
        server: the process of command_server.py, with the compiled fail_calls.c in LD_PRELOAD.
        folder: a folder for files of this class.
    """

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self._server = server
        self._folder = folder

    def run(self, script: str, arguments: Sequence[str], folder: Path, fault: Fault | None = None) -> Ended:
        """Run a command in a folder, to its end."""
        state, log = self._folder / "state", self._folder / "log"
        stdout, stderr = self._folder / "stdout", self._folder / "stderr"
        state.write_bytes(bytes(8))
        log.write_text("")
        environment = {"FAULT_FOLDER": str(folder.resolve()), "FAULT_STATE": str(state), "FAULT_LOG": str(log)}
        if fault:
            environment |= {"FAULT_CALL": str(fault.call.number), "FAULT_KIND": fault.kind}
        request = {
            "script": script,
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": environment,
            "stdout": str(stdout),
            "stderr": str(stderr),
            "seconds": _HANGS_AFTER_S,
        }
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code = json.loads(self._server.stdout.readline())
        numbered = (line.split(" ", 1) for line in log.read_text(errors="replace").splitlines())
        calls = sorted((Call(int(number), label) for number, label in numbered), key=lambda call: call.number)
        return Ended(code, stdout.read_text(errors="replace"), stderr.read_text(errors="replace"), calls)


@contextmanager
def start_commands(compiler: str, folder: Path) -> Iterator[Commands]:
    """Compile the shim and start the server of commands with it."""
    shim = folder / "fail_calls.so"
    source = HERE / "fail_calls.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
    # Without the measurement of coverage, which would write a file for each of thousands of commands.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    with subprocess.Popen(
        [sys.executable, str(HERE / "command_server.py")],
        env={**environment, "LD_PRELOAD": str(shim)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            yield Commands(server, folder)
        finally:
            assert server.stdin
            server.stdin.close()  # the server ends at the end of its input
