"""The worker processes of verifiers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ended, start, wait_until
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
