"""Integrations run in their own process, and their errors do not change a finished run."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Ran, ended, start, wait_until

FILES = [f"+input_jsonl_fpath={ROOT / 'examples' / 'arithmetic.jsonl'}", "+output_jsonl_fpath=r.jsonl"]
RUN = ["+agent_name=example_math_agent", "+limit=5", "+num_repeats=2", *FILES]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('no key, sorry')", "warning: export=wandb failed: RuntimeError: no key, sorry"),
        ("import os\nos._exit(9)", "warning: export=wandb failed"),
        ("def init(**_): raise ValueError('two\\nlines')", "warning: export=wandb failed: ValueError: two lines"),
    ],
    ids=["import fails", "process exits", "message of two lines"],
)
def test_failed_integration_is_a_warning(
    command: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    """An integration that fails leaves exit code and averages as they are, and its prints do not reach stdout."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(f"print('chatter')\n{code}\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    ran = command(*RUN, "+export=wandb", env={"PYTHONPATH": str(tmp_path / "modules")})
    assert ran.code == 0
    assert message in ran.stderr
    assert "chatter" not in ran.stdout
    assert json.loads(ran.stdout[ran.stdout.rindex("\n{") :])


def test_signal_ends_an_integration_that_hangs(tmp_path: Path) -> None:
    """SIGINT ends the integration's process, and the averages are printed."""
    (tmp_path / "wandb.py").write_text(
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    process = start(tmp_path, *RUN, "+export=wandb", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and bool(pid.read_text()))
    process.send_signal(signal.SIGINT)
    ran = ended(process)
    assert json.loads(ran.stdout[ran.stdout.rindex("\n{") :])
    assert "interrupted by SIGINT: all rollouts are collected; remaining steps are skipped" in ran.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandbb", "export must be one of wandb, mlflow, trackio, parquet, or a list of them, got 'wandbb'"),
        ("mlflow", "export=mlflow needs mlflow: pip install 'ng_rollouts[mlflow]'"),
    ],
    ids=["unknown", "not installed"],
)
def test_unavailable_integration_is_an_error_before_the_first_request(
    command: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    """An integration that is unknown or not installed ends with exit code 2 before any rollout is collected."""
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it was not installed
    ran = command(*RUN, f"+export={name}")
    assert (ran.code, message in ran.stderr) == (2, True), ran.stderr
    assert not (tmp_path / "r.jsonl").exists()
