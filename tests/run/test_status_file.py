"""The status file of a run must not replace another file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran


@pytest.mark.parametrize("path", ["tasks.jsonl", "r.jsonl", "r_manifest.json", "nowhere/status.json", "."])
def test_status_file_must_not_be_a_file_of_the_run(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path, path: str
) -> None:
    """A status file at the path of an input or output, of a folder, or in no folder ends with exit code 2."""
    before = tasks(3).read_text()
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    ran = command("+agent_name=example_math_agent", *files, f"+status_file={path}")
    assert ran.code == 2
    assert "status_file" in ran.stderr
    assert (tmp_path / "tasks.jsonl").read_text() == before
