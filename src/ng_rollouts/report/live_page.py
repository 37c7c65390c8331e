"""Starts the page that follows a run, in another process: reading rows must not delay the rollouts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ng_rollouts.console import log, only_json
from ng_rollouts.threads import run_in_thread


@contextmanager
def live_page(output: Path) -> Iterator[None]:
    """Serve the page of an output while the block runs, and afterwards as long as it is open in a browser."""
    # -P: a module in the working folder must not be run in place of Python's own.
    command = [sys.executable, "-P", "-m", "ng_rollouts.report", str(output)]
    # In its own session, so that Ctrl-C ends the run and not the page that shows its end.
    process = subprocess.Popen(  # noqa: S603 - this interpreter, and a path that is not run
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin  # noqa: S101 - both are pipes
    assert process.stdout  # noqa: S101
    announced = run_in_thread(process.stdout.readline)
    announced.add_done_callback(lambda line: _announce(line.result()))
    try:
        yield
    finally:
        with suppress(OSError):
            process.stdin.close()


def _announce(line: str) -> None:
    url = line.partition(" ")[0].strip()
    with only_json(wanted=False):  # asked for, so it is printed with quiet=true as well
        log(
            f"page: {url} (also after the run, until it is closed in the browser)"
            if url
            else "warning: the page of serve=true could not be started"
        )
