"""The progress bar."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import signal
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from ng_rollouts.console import colored
from ng_rollouts.run.progress import fitting_line
from tests.conftest import SCRIPTS, wait_until
from tests.servers import Served


def render(form: str, notes: list[str]) -> str:
    """A progress line in a format of tqdm, with the values of a long run."""
    meter: dict[str, Any] = {
        "n": 1800,
        "total": 15_000,
        "elapsed": 83,
        "rate": 16.24,
        "prefix": "Collecting rollouts",
        "postfix": " ".join(notes),
        "bar_format": form,
    }
    return tqdm.format_meter(**meter)


@given(
    columns=st.integers(40, 250),
    failed=st.sampled_from(["", "failed=7", "failed=1234"]),
    notes=st.lists(st.sampled_from(["reward=0.684±0.016", "in_flight=512", "tokens=55915/s", "cost=1.2"]), unique=True),
)
def test_progress_line_fits_from_40_columns_up(columns: int, failed: str, notes: list[str]) -> None:
    """The line is never wider than the terminal, has the failed rollouts and the count, and drops the last notes first."""
    line = fitting_line(render, failed, notes, columns)
    assert len(line) <= columns
    assert failed in line
    assert "1800/15000" in line
    present = [note in line for note in notes]
    if "[" in line:
        assert present[:1] in ([], [True])
    else:
        assert not any(present)


def test_wide_terminal_shows_the_bar_and_every_item() -> None:
    """On a wide terminal, the line begins as the documentation shows it, and has all items in their order."""
    line = fitting_line(render, "failed=7", ["reward=0.684±0.016", "in_flight=512"], 200)
    assert re.fullmatch(
        r"Collecting rollouts:  12%\|█▍ {10}\| 1800/15000 \[01:23<13:32, 16.24it/s, "
        r"failed=7 reward=0.684±0.016 in_flight=512\]",
        line,
    )


@pytest.mark.parametrize(
    ("variables", "is_red"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_color_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], *, is_red: bool
) -> None:
    """A stream that is not a terminal has colors only with FORCE_COLOR, and none with NO_COLOR."""
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (colored("failed=1", "red", io.StringIO()) == "\x1b[31mfailed=1\x1b[0m") is is_red


def test_message_does_not_share_a_line_with_the_bar(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A message erases the bar, ends with a line break, and the bar is drawn again below, in the new width."""
    tasks(20)
    server = serve(faults={"hang": 1.0})
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    arguments = ["+agent_name=a", f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl"]
    process = subprocess.Popen(
        [SCRIPTS / "ng_collect_rollouts", *arguments, "+output_jsonl_fpath=r.jsonl", "+drain_s=0.1"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs,
    )  # fmt: skip
    wait_until(lambda: server.stats()["total"] == 20)
    termios.tcsetwinsize(theirs, (24, 41))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130
    assert process.stdout
    process.stdout.close()
    os.close(theirs)
    drawn = read_terminal(ours).decode()
    assert "\r\x1b[Kinterrupted by SIGINT: " in drawn
    after = drawn.partition("interrupted by SIGINT")[2].partition("\r\n")[2]
    bars = re.split("\r|\x1b\\[K", after.partition("collected 0 of 20")[0])
    assert any("0/20 [" in bar for bar in bars)
    assert all(len(bar) <= 41 for bar in bars)


@pytest.mark.parametrize("terminal", ["dumb", "xterm"])
def test_terminal_that_cannot_move_its_cursor_gets_lines(
    tasks: Callable[..., Path], tmp_path: Path, terminal: str
) -> None:
    """With TERM=dumb, progress is lines without carriage returns."""
    tasks(3)
    arguments = ["+agent_name=example_math_agent", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": terminal}
    command = [str(SCRIPTS / "ng_collect_rollouts"), *arguments]
    subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, check=True, env=environment)
    os.close(theirs)
    drawn = read_terminal(ours).decode().replace("\r\n", "\n")
    assert ("\r" in drawn) is (terminal == "xterm")
    assert ("collected=3" in drawn) is (terminal == "dumb")


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
