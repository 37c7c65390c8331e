"""Attempts in the actors of a real Ray cluster, some of which are lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ran, keys_of, read_rows, start, wait_until
from tests.servers import Served

pytestmark = pytest.mark.extras

RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_health_check_failure_threshold": "3", "RAY_health_check_period_ms": "500"}
TASKS = 120


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of three nodes with one CPU each; `others` are the nodes without the head."""
    for name, value in RAY.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    started.others = [started.add_node(num_cpus=1) for _ in range(2)]
    started.wait_for_nodes()
    yield started
    started.shutdown()


def arguments(server: Served, cluster: Any = None) -> list[str]:
    """The arguments of a run with Ray; without a cluster, the run starts its own."""
    run = [f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+executor=ray"]
    return [*run, *([f"+executor.address={cluster.address}"] if cluster else [])]


def start_and_collect_some(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a run, and wait until it has collected 10 rollouts."""
    process = start(folder, *words, env={**os.environ, **RAY}, start_new_session=True)
    wait_until(lambda: len(read_rows(folder / "r.jsonl")) >= 10 or process.poll() is not None, seconds=100)
    return process


def actor_pids(pid: int) -> list[int]:
    """The processes of actors that descend from a process."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    parents = {int(row[0]): int(row[1]) for row in rows}

    def descends(process: int) -> bool:
        while process := parents.get(process, 0):
            if process == pid:
                return True
        return False

    return [int(row[0]) for row in rows if row[2].startswith("ray::RayWorker") and descends(int(row[0]))]


def test_output_is_the_same_as_with_the_local_executor(
    process: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A run with Ray writes the same bytes as a run in one process."""
    tasks([{"responses_create_params": {"input": f"What is {n} + 4?"}} for n in range(40)])
    run = ["+agent_name=example_math_agent", "+num_repeats=3", "+input_jsonl_fpath=tasks.jsonl"]
    ran = process(*run, "+output_jsonl_fpath=r.jsonl", "+executor=ray", "+executor.num_actors=2", env=RAY)
    assert ran.code == 0, ran.stderr
    assert "Ray: 2 actors on 1 nodes" in ran.stderr
    assert process(*run, "+output_jsonl_fpath=l.jsonl").code == 0
    assert (tmp_path / "r.jsonl").read_bytes() == (tmp_path / "l.jsonl").read_bytes()


def test_failures_have_the_class_and_status_of_the_agent(
    serve: Callable[..., Served], process: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path, cluster: Any
) -> None:
    """A failure has the same class, status and number of attempts as without Ray."""
    server = serve(faults={"400": 0.2, "500": 0.2}, sticky=True)
    tasks(60)
    ran = process(*arguments(server, cluster), "+max_attempts=2", env=RAY)
    assert ran.code == 1
    assert "Ray: 3 actors on 3 nodes" in ran.stderr
    failed = read_rows(tmp_path / "r_failures.jsonl")
    assert {(row["failure_class"], row["status"], row["num_attempts"]) for row in failed} == {
        ("http_400", 400, 1),
        ("http_500", 500, 2),
    }
    assert len(failed) + len(read_rows(tmp_path / "r.jsonl")) == 60


def test_attempts_of_a_killed_actor_are_repeated(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """The attempts of a killed actor are repeated once; the output is complete, and the summary counts the loss."""
    server = serve(delay=[0.2, 0.4])
    tasks(TASKS)
    process = start_and_collect_some(
        tmp_path, *arguments(server), "+executor.num_actors=2", "+num_samples_in_parallel=8"
    )
    os.kill(actor_pids(process.pid)[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    assert "Ray: 1 actors were lost" in stderr
    assert keys_of(tmp_path / "r.jsonl") == [(task, 0) for task in range(TASKS)]
    assert TASKS < server.stats()["total"] <= TASKS + 8


def test_attempts_of_a_removed_node_are_repeated(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path, cluster: Any
) -> None:
    """The actors of the other nodes repeat the attempts of a removed node, and the output is complete."""
    server = serve(delay=[0.8, 1.2])
    tasks(TASKS)
    process = start_and_collect_some(tmp_path, *arguments(server, cluster), "+num_samples_in_parallel=9")
    cluster.remove_node(cluster.others[0], allow_graceful=False)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    assert "actors were lost" in stderr
    assert keys_of(tmp_path / "r.jsonl") == [(task, 0) for task in range(TASKS)]


def test_killed_driver_is_resumed(
    serve: Callable[..., Served], process: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A resume after the driver was killed completes the output in order, and the actors of the driver have ended."""
    server = serve(delay=[0.2, 0.4])
    tasks(TASKS)
    words = [*arguments(server), "+executor.num_actors=2", "+num_samples_in_parallel=8"]
    driver = start_and_collect_some(tmp_path, *words)
    actors = actor_pids(driver.pid)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate(timeout=300)
    collected = len(read_rows(tmp_path / "r.jsonl"))
    ran = process(*words, "+resume_from_cache=true", env=RAY)
    assert ran.code == 0, ran.stderr
    assert f"{collected} of {TASKS} rollouts are collected" in ran.stderr
    assert keys_of(tmp_path / "r.jsonl") == [(task, 0) for task in range(TASKS)]
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in actors), seconds=60)


def test_rollout_that_ends_its_actors_fails(
    process: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A rollout fails after it has ended three actors, and the others are collected."""
    (tmp_path / "poison.py").write_text(
        "import os\n\nasync def answer(row, client):\n"
        "    if row['_ng_task_index'] == 5:\n        os._exit(1)\n    return {'reward': 1.0}\n"
    )
    tasks(30)
    run = ["+agents.mine._target_=poison.py:answer", "+agent_name=mine", "+input_jsonl_fpath=tasks.jsonl"]
    options = ["+executor=ray", "+executor.num_actors=2", "+num_samples_in_parallel=1", "+output_jsonl_fpath=r.jsonl"]
    ran = process(*run, *options, env=RAY)
    assert ran.code == 1, ran.stderr
    (failed,) = read_rows(tmp_path / "r_failures.jsonl")
    assert (failed["_ng_task_index"], failed["failure_class"]) == (5, "actor_lost")
    assert "Ray: 3 actors were lost" in ran.stderr
    assert "Ray: 3 actors were lost" in (tmp_path / "r_summary.json").read_text()
    assert len(read_rows(tmp_path / "r.jsonl")) == 29


def test_run_continues_with_the_actors_that_fit_the_cluster(
    serve: Callable[..., Served], process: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """If the cluster has too few CPUs for all actors, a message says how many started, and these do all the work."""
    server = serve()
    tasks(12)
    ran = process(
        *arguments(server), "+executor.num_actors=8", "+executor.num_cpus=1", "+max_requests_per_minute=240", env=RAY
    )
    assert ran.code == 0, ran.stderr
    assert re.search(r"Ray: \d of 8 actors on 1 nodes", ran.stderr) or (os.cpu_count() or 1) >= 8
    assert len(read_rows(tmp_path / "r.jsonl")) == 12


def test_sigterm_drains_the_rollouts_in_flight(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """After SIGTERM, the rollouts in flight are finished and no other is sent, as without Ray."""
    server = serve(delay=[0.3, 0.5])
    tasks(TASKS)
    process = start_and_collect_some(
        tmp_path, *arguments(server), "+executor.num_actors=1", "+num_samples_in_parallel=4"
    )
    os.kill(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert "interrupted by SIGTERM: 4 rollouts in flight have 10 s to finish" in stderr
    assert server.stats()["total"] == len(read_rows(tmp_path / "r.jsonl")) < TASKS


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["+executor.address=127.0.0.1:9"], 3, "executor.address=127.0.0.1:9"),
        (["+executor.num_actors=0"], 2, "executor.num_actors must be a positive integer, got 0"),
        (["+executor.actors=2"], 2, "executor has no option 'actors'"),
        (["+executor.num_cpus=-1"], 2, "executor.num_cpus must be a number >= 0, got -1"),
        (["+executor.resources={gpuz: abc}"], 2, "executor.resources.gpuz must be a number"),
        (["+executor.runtime_env=abc"], 2, "executor.runtime_env must be a dict or null, got 'abc'"),
        (["+executor.resources={gpuz: 1}"], 3, "executor.resources.gpuz=1: the cluster has 0"),
    ],
    ids=[
        "unreachable address",
        "no actors",
        "unknown option",
        "negative number of CPUs",
        "resource that is not a number",
        "runtime_env that is not a dict",
        "resource that the cluster does not have",
    ],
)
def test_invalid_executor_option_is_reported_without_a_traceback(
    process: Callable[..., Ran], tasks: Callable[..., Path], options: list[str], code: int, message: str
) -> None:
    """An option that is not valid exits with 2, and a cluster that cannot be used exits with 3."""
    tasks(3)
    run = ["+agent_name=example_math_agent", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    ran = process(*run, "+executor=ray", *options, env=RAY)
    assert (ran.code, message in ran.stderr) == (code, True), ran.stderr
    assert "Traceback" not in ran.stderr
