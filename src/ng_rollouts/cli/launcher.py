"""Runs of a sweep as jobs of one of Hydra's launchers, such as Slurm's: their folder, their failures, their end."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from ng_rollouts.errors import ConfigError
from ng_rollouts.redaction import redact

_JOBS_FOLDER = "ng_rollouts_jobs"
"""Folder for the logs of a launcher's jobs, in the working folder. On a cluster, all nodes have to see it."""

_CHOICE = "hydra/launcher="


class JobFailedError(Exception):
    """A job of a launcher ended with an exit code other than 0.

    Args:
        job: executor and overrides of the job.
    """

    def __init__(self, job: str, code: int) -> None:
        # The launcher sends the exception as a pickle, which is made from these arguments.
        super().__init__(job, code)
        self.code = code

    def __str__(self) -> str:
        return f"a job of the sweep ended with exit code {self.code} ({self.args[0]})"


def has_launcher(arguments: Sequence[str]) -> bool:
    """True if the runs of the sweep are jobs of a launcher, and not runs of this process."""
    return any(argument.lstrip("+").startswith(_CHOICE) for argument in arguments)


def without_launcher(arguments: Sequence[str]) -> list[str]:
    """The arguments of the same sweep in this process."""
    return [argument for argument in arguments if not argument.lstrip("+").startswith((_CHOICE, "hydra.launcher."))]


def sweep_folder(arguments: Sequence[str]) -> AbstractContextManager[str]:
    """The folder for the files that Hydra writes during a sweep: temporary, unless jobs of a launcher need it."""
    return _jobs_folder() if has_launcher(arguments) else tempfile.TemporaryDirectory(prefix="ng_rollouts_")


@contextmanager
def _jobs_folder() -> Iterator[str]:
    from ng_rollouts.user_code import SAFE_PATH  # noqa: PLC0415 - loads asyncio

    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"  # a `random.py` in the working folder must not be run by a job's interpreter
    try:
        with _private_folder(Path(_JOBS_FOLDER)) as folder:
            yield folder
    finally:
        if before is None:
            os.environ.pop(SAFE_PATH, None)


@contextmanager
def _private_folder(folder: Path) -> Iterator[str]:
    """A folder that only its owner can read: jobs, their results and logs contain the typed parameters.

    Raises:
        ConfigError: it cannot be made private.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be used: {error.strerror}: remove it") from error
    try:
        yield str(folder)
    finally:
        # Hydra writes the configuration of a sweep there. It is not read again.
        _mask_file(folder / "multirun.yaml")


def _mask_file(path: Path) -> None:
    with suppress(OSError):
        path.write_text(redact(path.read_text(encoding="utf-8")), encoding="utf-8")


def run_as_job(action: Callable[[], int], job: Callable[[], str]) -> None:
    """Run an action in the process of a job, and pass a failure to the command as an exception.

    Args:
        action: the run; returns its exit code.
        job: executor and overrides of the job, for the message.

    Raises:
        JobFailedError: the exit code is not 0.
    """
    from ng_rollouts.user_code import SAFE_PATH  # noqa: PLC0415 - loads asyncio

    os.environ.pop(SAFE_PATH, None)  # programs that the user's code starts behave as usual
    # The launcher's handler puts the job back into the queue. The run replaces it with its own, which drains.
    requeue = signal.getsignal(signal.SIGUSR2)
    code = action()
    sys.stdout.flush()
    sys.stderr.flush()
    # Slurm sends SIGUSR2 before it ends a job at its time limit. The run has drained, so the job can be requeued.
    if code == 128 + signal.SIGUSR2 and callable(requeue):
        requeue(signal.SIGUSR2, None)
    if code:
        raise JobFailedError(job(), code)


def interrupt_jobs() -> str:
    """Send SIGTERM to the jobs on this machine, which then drain; a message that says so."""
    # Hydra does not expose the jobs of a launcher. Jobs on other machines are not children of this process.
    children = [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    if children:
        return f"interrupted: the jobs on this machine drain and stop; their logs are in {_JOBS_FOLDER}"
    return f"interrupted: submitted jobs keep running; their logs are in {_JOBS_FOLDER}"
