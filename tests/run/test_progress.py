"""The progress bar."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SCRIPTS


@pytest.mark.parametrize("size", [(24, 100), (0, 0)], ids=["100 columns", "unknown size"])
def test_progress_bar_is_drawn_on_a_terminal(tasks: Callable[..., Path], tmp_path: Path, size: tuple[int, int]) -> None:
    """On a terminal, stderr has the progress bar of the documentation, also if the size is unknown as in a container."""
    tasks(3)
    arguments = ["+agent_name=example_math_agent", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, size)
    done = subprocess.run(
        [SCRIPTS / "ng_collect_rollouts", *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, check=True
    )
    os.close(theirs)
    assert "Collecting rollouts: 100%|████████████| 3/3 [" in read_terminal(ours).decode()
    assert done.stdout.startswith(b"Found 3 rows!")


def read_terminal(terminal: int) -> bytes:
    """Everything that was written to a pseudo-terminal whose other end is closed."""
    pieces = []
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 100_000):
            pieces.append(piece)
    os.close(terminal)
    return b"".join(pieces)
