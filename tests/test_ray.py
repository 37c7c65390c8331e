"""Ray: attempts by actors on the nodes of a real cluster, some of which are taken away."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import SCRIPTS, Ran, Served, keys_of, read_rows

pytestmark = pytest.mark.extras

RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_health_check_failure_threshold": "3", "RAY_health_check_period_ms": "500"}
TASKS = 120


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head and two nodes, with one CPU each."""
    for name, value in RAY.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.others = [made.add_node(num_cpus=1) for _ in range(2)]
    made.wait_for_nodes()
    yield made
    made.shutdown()


def arguments(server: Served, cluster: Any = None) -> list[str]:
    run = [f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+executor=ray"]
    return [*run, *([f"+executor.address={cluster.address}"] if cluster else [])]


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A run that has some of its rollouts."""
    process = subprocess.Popen(
        [str(SCRIPTS / "ng_collect_rollouts"), *words],
        cwd=folder,
        env={**os.environ, **RAY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 100
    while len(read_rows(folder / "r.jsonl")) < 10 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def workers_under(pid: int) -> list[int]:
    """The processes of our actors that descend from this one."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    parents = {int(row[0]): int(row[1]) for row in rows}

    def descends(process: int) -> bool:
        while process := parents.get(process, 0):
            if process == pid:
                return True
        return False

    return [int(row[0]) for row in rows if row[2].startswith("ray::RayWorker") and descends(int(row[0]))]


def test_the_same_file_comes_of_it(command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path) -> None:
    """By actors of a cluster of its own as in this process; nothing is left running."""
    tasks([{"responses_create_params": {"input": f"What is {n} + 4?"}} for n in range(40)])
    run = ["+agent_name=example_math_agent", "+num_repeats=3", "+input_jsonl_fpath=tasks.jsonl"]
    ran = command(*run, "+output_jsonl_fpath=r.jsonl", "+executor=ray", "+executor.num_actors=2", env=RAY)
    assert ran.code == 0, ran.stderr
    assert "Ray: 2 actors on 1 nodes" in ran.stderr
    assert command(*run, "+output_jsonl_fpath=l.jsonl").code == 0
    assert (tmp_path / "r.jsonl").read_bytes() == (tmp_path / "l.jsonl").read_bytes()


def test_failures_are_those_of_the_agent(
    serve: Callable[..., Served], command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path, cluster: Any
) -> None:
    """With class, status and attempts, wherever they were made."""
    server = serve(faults={"400": 0.2, "503": 0.2}, sticky=True)
    tasks(60)
    ran = command(*arguments(server, cluster), "+max_attempts=2", env=RAY)
    assert ran.code == 1
    assert "Ray: 3 actors on 3 nodes" in ran.stderr
    failed = read_rows(tmp_path / "r_failures.jsonl")
    assert {(row["failure_class"], row["status"], row["num_attempts"]) for row in failed} == {
        ("http_400", 400, 1),
        ("http_503", 503, 2),
    }
    assert len(failed) + len(read_rows(tmp_path / "r.jsonl")) == 60


def test_a_killed_actor_costs_a_repeat(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """What it held is asked again, once; the file is whole and in order, and the summary tells."""
    server = serve(delay=[0.2, 0.4])
    tasks(TASKS)
    process = started(tmp_path, *arguments(server), "+executor.num_actors=2", "+num_samples_in_parallel=8")
    os.kill(workers_under(process.pid)[0], signal.SIGKILL)
    _, told = process.communicate(timeout=100)
    assert process.returncode == 0, told
    assert "Ray: 1 actors were lost" in told
    assert keys_of(tmp_path / "r.jsonl") == [(task, 0) for task in range(TASKS)]
    assert TASKS < server.stats()["total"] <= TASKS + 8


def test_a_removed_node_costs_a_repeat(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path, cluster: Any
) -> None:
    """The others go on."""
    server = serve(delay=[0.8, 1.2])
    tasks(TASKS)
    process = started(tmp_path, *arguments(server, cluster), "+num_samples_in_parallel=9")
    cluster.remove_node(cluster.others[0], allow_graceful=False)
    _, told = process.communicate(timeout=100)
    assert process.returncode == 0, told
    assert "actors were lost" in told
    assert keys_of(tmp_path / "r.jsonl") == [(task, 0) for task in range(TASKS)]


def test_a_killed_driver_is_resumed(
    serve: Callable[..., Served], command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Exactly once, in order; its actors do not live on."""
    server = serve(delay=[0.2, 0.4])
    tasks(TASKS)
    words = [*arguments(server), "+executor.num_actors=2", "+num_samples_in_parallel=8"]
    process = started(tmp_path, *words)
    actors = workers_under(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    there = len(read_rows(tmp_path / "r.jsonl"))
    ran = command(*words, "+resume_from_cache=true", env=RAY)
    assert ran.code == 0, ran.stderr
    assert f"{there} of {TASKS} rollouts are collected" in ran.stderr
    assert keys_of(tmp_path / "r.jsonl") == [(task, 0) for task in range(TASKS)]
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in actors) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in actors if Path(f"/proc/{pid}").exists()]


def test_a_rollout_that_ends_its_actors_is_a_failure(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """After a few of them; the others are collected."""
    (tmp_path / "poison.py").write_text(
        "import os\n\nasync def answer(row, client):\n"
        "    if row['_ng_task_index'] == 5:\n        os._exit(1)\n    return {'reward': 1.0}\n"
    )
    tasks(30)
    run = ["+agents.mine._target_=poison.py:answer", "+agent_name=mine", "+input_jsonl_fpath=tasks.jsonl"]
    options = ["+executor=ray", "+executor.num_actors=2", "+num_samples_in_parallel=1", "+output_jsonl_fpath=r.jsonl"]
    ran = command(*run, *options, env=RAY)
    assert ran.code == 1, ran.stderr
    (failed,) = read_rows(tmp_path / "r_failures.jsonl")
    assert (failed["_ng_task_index"], failed["failure_class"]) == (5, "actor_lost")
    assert "Ray: 3 actors were lost" in ran.stderr
    assert "Ray: 3 actors were lost" in (tmp_path / "r_summary.json").read_text()
    assert len(read_rows(tmp_path / "r.jsonl")) == 29


def test_actors_without_room_are_told(
    serve: Callable[..., Served], command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """And the others do all there is to do."""
    server = serve()
    tasks(12)
    ran = command(
        *arguments(server), "+executor.num_actors=8", "+executor.num_cpus=1", "+max_requests_per_minute=240", env=RAY
    )
    assert ran.code == 0, ran.stderr
    assert re.search(r"Ray: \d of 8 actors on 1 nodes", ran.stderr) or (os.cpu_count() or 1) >= 8
    assert len(read_rows(tmp_path / "r.jsonl")) == 12


def test_a_signal_drains(serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path) -> None:
    """As in this process."""
    server = serve(delay=[0.3, 0.5])
    tasks(TASKS)
    process = started(tmp_path, *arguments(server), "+executor.num_actors=1", "+num_samples_in_parallel=4")
    os.kill(process.pid, signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "no new rollouts; the 4 in flight" in told
    assert server.stats()["total"] == len(read_rows(tmp_path / "r.jsonl")) < TASKS


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["+executor.address=127.0.0.1:9"], 3, "executor.address=127.0.0.1:9"),
        (["+executor.num_actors=0"], 2, "executor.num_actors must be a positive integer, got 0"),
        (["+executor.actors=2"], 2, "executor has no 'actors'"),
        (["+executor.num_cpus=-1"], 2, "executor.num_cpus must be a number >= 0, got -1"),
        (["+executor.resources={gpuz: abc}"], 2, "executor.resources.gpuz must be a number"),
        (["+executor.runtime_env=abc"], 2, "executor.runtime_env cannot be 'abc'"),
        (["+executor.resources={gpuz: 1}"], 3, "executor.resources.gpuz=1: the cluster has 0"),
    ],
)
def test_what_cannot_be(
    command: Callable[..., Ran], tasks: Callable[..., Path], options: list[str], code: int, said: str
) -> None:
    """Told in a line."""
    tasks(3)
    run = ["+agent_name=example_math_agent", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    ran = command(*run, "+executor=ray", *options, env=RAY)
    assert (ran.code, said in ran.stderr) == (code, True), ran.stderr
    assert "Traceback" not in ran.stderr
