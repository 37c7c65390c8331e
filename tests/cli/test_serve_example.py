"""`ng_serve_example` and the served page say which parameter chooses a port that is taken."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran
from tests.report.helpers import rollout_rows
from tests.rollout_files import write_rows


@pytest.mark.parametrize(
    ("script", "parameter", "arguments"),
    [
        ("ng_serve_example", "head_port", ["+port=0"]),
        ("ng_serve_example", "port", ["+head_port=0"]),
        ("ng_view_rollouts", "port", ["+input_jsonl_fpath=r.jsonl", "+serve=true"]),
    ],
)
def test_taken_port_is_reported_with_its_parameter(
    command: Callable[..., Ran], tmp_path: Path, script: str, parameter: str, arguments: list[str]
) -> None:
    """A port that another program listens on is a usage error that names the parameter."""
    write_rows(tmp_path / "r.jsonl", rollout_rows())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = command(*arguments, f"+{parameter}={port}", script=script)
    fix = f"choose another port with +{parameter}=, or 0 for any free one"
    assert (ran.code, ran.stderr.startswith(f"error: cannot listen on 127.0.0.1:{port}: ")) == (2, True), ran.stderr
    assert ran.stderr.endswith(f": {fix}\n")
