"""The worker processes of verifiers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.verifiers.process_pool import ProcessPool
from tests.conftest import Ran, ended, start, wait_until
from tests.servers import Served


def test_workers_end_when_the_command_is_killed(
    serve_model: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A worker ends with the command that started it, even if the command is killed while the worker is busy."""
    (tmp_path / "hang.py").write_text(
        "import os\nfrom pathlib import Path\ndef hang(row, response):\n"
        "    Path('pid').write_text(str(os.getpid()))\n    while True: pass\n"
    )
    tasks([{"responses_create_params": {"input": "1 + 1"}}])
    process = start(
        tmp_path,
        f"+policy_base_url={serve_model().url}/v1",
        "+verifier=python",
        "+verifier.function=hang.py:hang",
        "+verifier.seconds=300",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=rollouts.jsonl",
    )
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    process.kill()
    worker = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_running(worker))
    ended(process)


def is_running(pid: int) -> bool:
    """Whether a process runs. A zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("name", ["socket", "threading", "types", "random"])
def test_modules_of_the_working_folder_do_not_replace_those_of_python(
    process: Callable[..., Ran],
    serve_model: Callable[..., Served],
    tasks: Callable[..., Path],
    tmp_path: Path,
    name: str,
) -> None:
    """A `socket.py` in the working folder is not run by a worker, while the user's own module there is."""
    (tmp_path / f"{name}.py").write_text("import pathlib\npathlib.Path('executed').touch()\nraise SystemExit(3)\n")
    (tmp_path / "mine.py").write_text("def check(row, response):\n    return 1.0\n")
    tasks([{"responses_create_params": {"input": "1 + 1"}}])
    ran = process(
        *[f"+policy_base_url={serve_model().url}/v1", "+verifier=python", "+verifier.function=mine.check"],
        *["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"],
    )
    assert (ran.code, ran.averages.get("reward")) == (0, 1.0), ran.stderr
    assert not (tmp_path / "executed").exists()


def test_check_before_the_run_has_a_time_limit(process_pool: ProcessPool) -> None:
    """`run_now` waits for the result, and ends a call that takes too long."""
    assert process_pool.run_now(len, "abc", seconds=60) == 3
    with pytest.raises(AttemptFailed, match=r"took more than 0\.2 s"):
        process_pool.run_now(time.sleep, 60, seconds=0.2)
