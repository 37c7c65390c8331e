"""Faults, kills, full disks, races: what was collected stays, and a resume finishes the job."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ng_rollouts.errors import OutputError, StoppedEarly
from ng_rollouts.jsonl import dumps
from ng_rollouts.outputs.manifest import Manifest, differences
from ng_rollouts.outputs.open_journal import open_for_resume, open_new
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.redaction import display_command, redact, remember_password_of
from ng_rollouts.run.summary import resume_command
from ng_rollouts.scheduling.circuit_breaker import CircuitBreaker

from .agent_server import reward_of
from .conftest import SCRIPTS, Ran, Served, ended, keys_of, read_rows, wait_until
from .conftest import start as start_command
from .servers import ProcessServer

Command = Callable[..., Ran]
Serve = Callable[..., Served]
Tasks = Callable[..., Path]

FILES = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+agent_name=a"]
RESUME = "+resume_from_cache=true"


def start(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command over these files, started in a folder and left running."""
    return start_command(folder, *FILES, *arguments, **options)


def check_complete(folder: Path, tasks: int, repeats: int) -> None:
    """The output is whole, in order, undamaged, and alone."""
    assert keys_of(folder / "r.jsonl") == [(task, rollout) for task in range(tasks) for rollout in range(repeats)]
    for row in read_rows(folder / "r.jsonl"):
        assert row["reward"] == reward_of(row["_ng_task_index"], row["_ng_rollout_index"])
    assert not (folder / "r_incomplete.jsonl").exists()
    assert not (folder / "r_failures.jsonl").exists()


MIXED = {
    "500": 0.01, "503": 0.01, "400": 0.01, "retry_after_0": 0.01, "reset": 0.01, "half": 0.01, "malformed": 0.01,
    "not_object": 0.01, "nan": 0.01, "no_reward": 0.01, "failure_class": 0.005, "terminal": 0.0,
}  # fmt: skip


def test_mixed_faults(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """Each of 5,000 rollouts is in exactly one of output, incomplete and failures; a healed server completes them."""
    tasks(1250)
    server = serve(faults=MIXED, sticky=True, delay=[0, 0.01])
    arguments = [*FILES, "+num_repeats=4", "+num_samples_in_parallel=32", "+max_attempts=2"]
    ran = command(*arguments, f"+agent_url={server.url}")
    assert ran.code == 1, ran.stderr
    files = [tmp_path / name for name in ("r.jsonl", "r_incomplete.jsonl", "r_failures.jsonl")]
    kept, aside, failed = map(keys_of, files)
    assert sorted([*kept, *aside, *failed]) == [(task, rollout) for task in range(1250) for rollout in range(4)]
    assert len(failed) > 300
    missing = {task for task, _ in failed}
    assert kept == [(task, rollout) for task in range(1250) if task not in missing for rollout in range(4)]
    assert aside == sorted(aside)
    classes = {row["failure_class"] for row in read_rows(files[2])}
    assert classes == {
        "http_500", "http_503", "http_400", "http_429", "connection_lost", "truncated", "not_json", "not_object",
        "not_finite", "no_reward", "sandbox_crashed",
    }  # fmt: skip
    assert f"collected {len(kept) + len(aside)} of 5000 planned rollouts, failed {len(failed)}" in ran.stderr
    healed = serve()
    ran = command(*arguments, f"+agent_url={healed.url}", RESUME)
    assert ran.code == 0, ran.stderr
    check_complete(tmp_path, 1250, 4)
    assert healed.stats()["total"] == len(failed)
    rewards = [row["reward"] for row in read_rows(files[0])]
    assert ran.averages["reward"] == pytest.approx(sum(rewards) / 5000, abs=1e-12)


def test_thirty_kills(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """SIGKILL at random moments, rows of 100 kB: every key once, nothing damaged, no more repeated than was in flight."""
    tasks(600)
    server = serve(delay=[0.005, 0.015], pad=100_000)
    in_flight, kills, chance = 4, 0, random.Random(1)
    arguments = [f"+agent_url={server.url}", f"+num_samples_in_parallel={in_flight}", RESUME]
    for _ in range(32):
        before = server.stats()["total"]
        process = start(tmp_path, *arguments)
        wait_until(partial(_has_moved, server, process, before))
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        kills += ended(process).code == -signal.SIGKILL
    assert kills >= 30
    ran = ended(start(tmp_path, *arguments))
    assert ran.code == 0, ran.stderr
    check_complete(tmp_path, 600, 1)
    assert server.stats()["total"] - 600 <= kills * in_flight


def _has_moved(server: Served, process: subprocess.Popen[str], before: int) -> bool:
    return bool(server.stats()["total"] > before) or process.poll() is not None


def test_sigterm_drains_and_resumes(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """What is in flight finishes, nothing new is asked, the exit code tells, a resume repeats nothing."""
    tasks(300)
    server = serve(delay=[0.02, 0.05])
    arguments = [f"+agent_url={server.url}", "+num_samples_in_parallel=8"]
    process = start(tmp_path, *arguments)
    wait_until(lambda: server.stats()["total"] > 50)
    process.send_signal(signal.SIGTERM)
    ran = ended(process)
    assert ran.code == 143
    assert "not done" in ran.stderr
    told = next(line for line in ran.stderr.splitlines() if line.startswith("to resume: "))
    assert told.endswith(f"ng_collect_rollouts {' '.join([*FILES, *arguments])} +resume_from_cache=true")
    assert ran.stdout.splitlines()[-1].startswith("Querying")
    assert len(keys_of(tmp_path / "r.jsonl")) == server.stats()["total"]
    assert command(*FILES, *arguments, RESUME).code == 0
    check_complete(tmp_path, 300, 1)
    assert server.stats()["total"] == 300


def test_a_second_signal_stops_at_once(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """Rollouts that hang do not hold up someone who insists; the journal is readable."""
    tasks(20)
    server = serve(faults={"hang": 0.5}, sticky=True)
    process = start(tmp_path, f"+agent_url={server.url}", "+drain_s=600")
    wait_until(lambda: server.stats()["total"] == 20)
    wait_until(lambda: len((tmp_path / "r.jsonl").read_bytes()) > 0)
    process.send_signal(signal.SIGINT)
    assert process.stderr
    assert "SIGINT: stopping: " in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 130
    assert 0 < len(keys_of(tmp_path / "r.jsonl")) < 20


def test_signals_reach_a_background_job(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """In `cmd &` of a script SIGINT comes ignored; it is heeded all the same. So it is with stdout closed."""
    tasks(500)
    server = serve(delay=[0.05, 0.1])
    line = f"{SCRIPTS}/ng_collect_rollouts {' '.join(FILES)} +agent_url={server.url} +num_samples_in_parallel=4 >&- &\n"
    line += 'pid=$!; while [ "$(wc -l < r.jsonl 2>/dev/null || echo 0)" -lt 20 ]; do sleep 0.05; done; kill -INT $pid; wait $pid'
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert len(keys_of(tmp_path / "r.jsonl")) >= 20


def test_usr1_tells_what_is_in_flight(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """The oldest rollouts with their ages, on stderr; the run goes on."""
    tasks(3)
    server = serve(faults={"hang": 1.0})
    process = start(tmp_path, f"+agent_url={server.url}", "+rollout_timeout_s=1.5", "+max_attempts=1")
    wait_until(lambda: server.stats()["total"] == 3)
    process.send_signal(signal.SIGUSR1)
    ran = ended(process)
    assert "in_flight=3" in ran.stderr
    assert "task 0, rollout 0: " in ran.stderr
    assert "timeout: 3" in ran.stderr
    assert ran.code == 1


def test_a_closed_pipe_is_no_end(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """A reader of stdout that goes away costs the printed averages, nothing else."""
    tasks(50)
    line = f"{SCRIPTS}/ng_collect_rollouts {' '.join(FILES)} +agent_url={serve(delay=[0.01, 0.02]).url} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "stdout cannot be written (Broken pipe)" in done.stderr
    check_complete(tmp_path, 50, 1)


@pytest.mark.parametrize("restart", [True, False])
def test_a_server_that_dies(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, *, restart: bool) -> None:
    """Restarted soon, it costs nothing; gone for good, it stops the run, and a resume elsewhere finishes it."""
    tasks(400)
    server = serve(process=True, die_after=120)
    arguments = [
        f"+agent_url={server.url}",
        "+num_samples_in_parallel=8",
        "+max_attempts=6" if restart else "+max_attempts=2",
    ]
    process = start(tmp_path, *arguments)
    assert cast("ProcessServer", server).process.wait(timeout=30) == 0
    if restart:
        serve(port=server.port)
        assert ended(process).code == 0
    else:
        ran = ended(process)
        assert ran.code == 3
        assert "failed in the same way, so continuing is pointless: connection_refused" in ran.stderr
        assert len(keys_of(tmp_path / "r.jsonl")) >= 110
        arguments[0] = f"+agent_url={serve().url}"
        assert command(*FILES, *arguments, RESUME).code == 0
    check_complete(tmp_path, 400, 1)


def test_a_full_disk(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """One line, exit 3, what was collected intact and in whole lines; with room, a resume finishes."""
    tasks(100)
    server = serve(pad=5000)
    limit = 200_000
    process = start(
        tmp_path,
        f"+agent_url={server.url}",
        "+num_samples_in_parallel=4",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    ran = ended(process)
    assert ran.code == 3, ran.stderr
    assert "error: r.jsonl cannot be written: File too large" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(read_rows(tmp_path / "r.jsonl")) > 10
    assert command(*FILES, f"+agent_url={server.url}", RESUME).code == 0
    check_complete(tmp_path, 100, 1)


def test_a_disk_that_fills_while_finishing(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """The journal stays as it was, with a message that says how to go on; a resume finishes without asking anyone."""
    tasks(40)
    server = serve(pad=5000, delay=[0, 0.05])
    assert command(*FILES, f"+agent_url={server.url}", "+limit=39").code == 0
    (tmp_path / "r_manifest.json").unlink()
    rows = (tmp_path / "r.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_bytes(b"".join(reversed(rows)))
    (tmp_path / "r.jsonl.writing").mkdir()
    ran = command(*FILES, "+agent_url=http://127.0.0.1:9", "+limit=39", RESUME)
    assert ran.code == 3, ran.stderr
    assert "cannot be written: Is a directory; all rows are in it, in completion order" in ran.stderr
    assert "to resume: " in ran.stderr
    assert (tmp_path / "r.jsonl").read_bytes() == b"".join(reversed(rows))
    (tmp_path / "r.jsonl.writing").rmdir()
    assert command(*FILES, "+agent_url=http://127.0.0.1:9", "+limit=39", RESUME).code == 0
    check_complete(tmp_path, 39, 1)


def test_two_collectors_on_one_output(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """The second is told which process has it, exit 2, and disturbs nothing."""
    tasks(60)
    server = serve(delay=[0.5, 0.6])
    first = start(tmp_path, f"+agent_url={server.url}", "+num_samples_in_parallel=8")
    wait_until(lambda: server.stats()["total"] > 5)
    for extra in ((), (RESUME,), ("+overwrite=true",)):
        second = ended(start(tmp_path, f"+agent_url={server.url}", *extra))
        assert second.code == 2
        assert f"r.jsonl is being written by process {first.pid}" in second.stderr
    assert ended(first).code == 0
    check_complete(tmp_path, 60, 1)
    assert server.stats()["total"] == 60


def test_more_repeats_and_rows_top_up(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """`num_repeats` and `limit` may grow; only what is new is asked for, and the order is that of one run."""
    tasks(20)
    server = serve()
    assert command(*FILES, f"+agent_url={server.url}", "+limit=10", "+num_repeats=2").code == 0
    ran = command(*FILES, f"+agent_url={server.url}", "+limit=15", "+num_repeats=3", RESUME)
    assert ran.code == 0, ran.stderr
    check_complete(tmp_path, 15, 3)
    assert server.stats()["total"] == 45
    ran = command(*FILES, "+agent_url=http://127.0.0.1:9", "+limit=15", "+num_repeats=3", RESUME)
    assert (ran.code, ran.averages["reward"] > 0) == (0, True)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["+num_repeats=1"], "num_repeats: 2 then, 1 now"),
        (["+limit=3"], "input rows: 5 then, 3 now"),
        (["+responses_create_params.temperature=0.5"], "responses_create_params.temperature: 0.7 then, 0.5 now"),
        (["+responses_create_params.top_p=0.5"], "responses_create_params.top_p: null then, 0.5 now"),
        (["+agent_name=b"], 'agent_name: "a" then, "b" now'),
        (["+num_repeats_add_seed=true"], "num_repeats_add_seed: false then, true now"),
        (["+training_view=false"], "training_view: true then, false now"),
        (["+input_jsonl_fpath=other.jsonl"], "the first 5 input rows: digest "),
    ],
)
def test_a_resume_of_something_else_is_refused(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, changed: list[str], told: str
) -> None:
    """Exit 2, both values, nothing touched, nothing sent."""
    tasks(5)
    tasks([{"responses_create_params": {"input": "other"}}] * 5, name="other.jsonl")
    server = serve()
    arguments = [*FILES, f"+agent_url={server.url}", "+num_repeats=2", "+responses_create_params.temperature=0.7"]
    assert command(*arguments).code == 0
    before = (tmp_path / "r.jsonl").read_bytes()
    ran = command(*arguments, *changed, RESUME)
    assert ran.code == 2
    assert told in ran.stderr
    assert (tmp_path / "r.jsonl").read_bytes() == before
    assert server.stats()["total"] == 10


def test_failed_rollouts_are_tried_again_unless_that_is_pointless(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """With the attempts behind them as `_ng_attempt_index`; terminal ones are left, `retry_failed=false` leaves all."""
    tasks(30)
    broken = serve(faults={"400": 0.2, "terminal": 0.2}, sticky=True)
    assert command(*FILES, f"+agent_url={broken.url}").code == 1
    failed = {row["_ng_task_index"]: row["terminal"] for row in read_rows(tmp_path / "r_failures.jsonl")}
    assert set(failed.values()) == {True, False}
    assert command(*FILES, "+agent_url=http://127.0.0.1:9", RESUME, "+retry_failed=false").code == 1
    assert {row["_ng_task_index"]: row["terminal"] for row in read_rows(tmp_path / "r_failures.jsonl")} == failed
    healed = serve()
    ran = command(*FILES, f"+agent_url={healed.url}", RESUME)
    assert ran.code == 1
    asked = healed.stats()["last"]
    assert {body["_ng_task_index"] for body in asked} == {task for task, terminal in failed.items() if not terminal}
    assert all(body["_ng_attempt_index"] == 1 for body in asked)
    assert {task for task, _ in keys_of(tmp_path / "r_failures.jsonl")} == {
        t for t, terminal in failed.items() if terminal
    }


def test_what_is_not_to_be_written_down_is_owed(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """`_ng_no_persist`: in no file, counted as failed, tried on a resume."""
    tasks(10)
    server = serve(faults={"no_persist": 1.0})
    ran = command(*FILES, f"+agent_url={server.url}")
    assert ran.code == 1
    assert "failed 10 (no_persist: 10)" in ran.stderr
    assert read_rows(tmp_path / "r.jsonl") == read_rows(tmp_path / "r_failures.jsonl") == []
    assert command(*FILES, f"+agent_url={serve().url}", RESUME).code == 0
    check_complete(tmp_path, 10, 1)


@pytest.mark.parametrize(("allowed", "code"), [("0", 1), ("100", 0), ("0.01", 1), ("0.9", 0)])
def test_failures_that_are_allowed(command: Command, serve: Serve, tasks: Tasks, allowed: str, code: int) -> None:
    """A count or a fraction; more than that is exit 1."""
    tasks(40)
    server = serve(faults={"400": 0.3}, sticky=True)
    assert command(*FILES, f"+agent_url={server.url}", f"+max_failed_rollouts={allowed}").code == code


def test_incomplete_groups_may_be_kept(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """For those who group by `prompt_id`."""
    tasks(40)
    server = serve(faults={"400": 0.2}, sticky=True)
    assert command(*FILES, f"+agent_url={server.url}", "+num_repeats=2", "+incomplete_groups=keep").code == 1
    kept, failed = keys_of(tmp_path / "r.jsonl"), keys_of(tmp_path / "r_failures.jsonl")
    assert kept == [key for key in ((t, r) for t in range(40) for r in range(2)) if key not in failed]
    assert not (tmp_path / "r_incomplete.jsonl").exists()


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_run_that_is_pointless_stops(command: Command, serve: Serve, tasks: Tasks, status: str) -> None:
    """Credentials refused or no such agent: within a few rollouts, exit 3, in the server's own words."""
    tasks(1000)
    server = serve(faults={status: 1.0})
    ran = command(*FILES, f"+agent_url={server.url}", "+num_samples_in_parallel=10")
    assert ran.code == 3
    assert f"http_{status}: " in ran.stderr.splitlines()[-1]
    assert "made up by the test server" in ran.stderr
    assert server.stats()["total"] < 50


def test_breakers() -> None:
    """Alike from the start, or nobody there later on: an end. Failures between successes: none."""
    circuit_breaker = CircuitBreaker("a", 1000)
    for _ in range(19):
        circuit_breaker.record_failure("http_500", "")
    with pytest.raises(StoppedEarly, match="the first 20 rollouts of agent 'a' failed in the same way"):
        circuit_breaker.record_failure("http_500", "")
    mixed = CircuitBreaker("a", 1000)
    for number in range(200):
        mixed.record_failure(f"http_50{number % 2}", "")
    later = CircuitBreaker("a", 1000)
    later.record_success()
    for _ in range(100):
        later.record_failure("http_400", "")
    for _ in range(9):
        later.record_failure("connection_refused", "")
    with pytest.raises(StoppedEarly, match="the last 10 rollouts"):
        later.record_failure("connection_refused", "")
    with pytest.raises(StoppedEarly, match="the rollout of agent"):
        CircuitBreaker("a", 1).record_failure("http_401", "no")


def test_a_server_that_is_late_is_waited_for(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """And one that is not there leaves everything as it was."""
    tasks(5)
    (tmp_path / "r.jsonl").write_text("precious\n")
    gone = ended(start(tmp_path, "+agent_url=http://127.0.0.1:9", "+wait_for_agent_s=0.2"))
    assert gone.code == 3
    assert "http://127.0.0.1:9 cannot be reached (connection_refused" in gone.stderr
    assert (tmp_path / "r.jsonl").read_text() == "precious\n"
    assert len(list(tmp_path.iterdir())) == 2
    reserved = serve()
    port = reserved.port
    reserved.stop()
    process = start(tmp_path, f"+agent_url=http://127.0.0.1:{port}", "+wait_for_agent_s=20")
    assert process.stderr
    assert "waiting up to 20 s for the server" in process.stderr.readline()
    serve(port=port)
    assert ended(process).code == 0
    check_complete(tmp_path, 5, 1)


def nemo_row(task: int, rollout: int, text: str) -> dict[str, Any]:
    """A row as NeMo Gym's own collector writes it."""
    nulls = dict.fromkeys(("background", "instructions", "temperature", "top_p", "user"))
    asked = [{"role": "user", "content": text, "type": "message"}]
    return {
        "responses_create_params": {**nulls, "input": asked, "tools": []},
        "response": {"output": []},
        "reward": reward_of(task, rollout),
        "_ng_task_index": task,
        "_ng_rollout_index": rollout,
        "agent_ref": {"name": "a"},
    }


def test_an_output_of_nemo_gym_is_taken_over(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """Completion order, no manifest, a torn last line: kept where it matches the input, refused where it does not."""
    tasks(6)
    rows = [nemo_row(task, rollout, f"question {task}") for task, rollout in ((3, 1), (0, 0), (0, 1), (5, 0))]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"responses_create_params": {"inp'
    (tmp_path / "r.jsonl").write_text(text)
    (tmp_path / "r_materialized_inputs.jsonl").write_text("{}\n")
    server = serve()
    ran = command(*FILES, f"+agent_url={server.url}", "+num_repeats=2", RESUME)
    assert ran.code == 0, ran.stderr
    check_complete(tmp_path, 6, 2)
    assert server.stats()["total"] == 8
    (tmp_path / "r_manifest.json").unlink()
    for row, told in (
        (nemo_row(2, 0, "another question"), "task 2, rollout 0 has a different prompt than the input"),
        (nemo_row(9, 0, "question 9"), "the output has task 9, rollout 0, which this input does not contain"),
    ):
        (tmp_path / "r.jsonl").write_text(json.dumps(row) + "\n")
        refused = command(*FILES, f"+agent_url={server.url}", "+num_repeats=2", RESUME)
        assert refused.code == 2
        assert told in refused.stderr


def test_planned_rows_for_nemo_gym(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """A row for each rollout, seeds where NeMo Gym has them; kept up to date once they are there."""
    source = tasks(2)
    run = [*FILES, f"+agent_url={serve().url}", "+num_repeats_add_seed=true"]
    planned = tmp_path / "r_materialized_inputs.jsonl"
    assert command(*run).code == 0
    assert not planned.exists()
    for arguments, repeats in ((["+materialized_inputs=true"], 1), ([RESUME, "+num_repeats=2"], 2)):
        assert command(*run, *arguments).code == 0
        rows, asked = read_rows(planned), read_rows(source)
        assert keys_of(planned) == [(task, index) for task in range(2) for index in range(repeats)]
        for row in rows:
            assert row["responses_create_params"]["input"] == [
                {"role": "user", "content": asked[row["_ng_task_index"]]["responses_create_params"]["input"]}
            ]
            extra = row["responses_create_params"]["metadata"]["extra_body"]
            assert json.loads(extra) == {"seed": row["_ng_rollout_index"]}
    assert "renamed to r.jsonl.2" in command(*run).stderr
    assert not planned.exists()


@pytest.mark.parametrize("with_planned_rows", [False, True])
@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        ({"temperature": 0.9}, [], "temperature 0.9, not None"),
        ({}, ["+responses_create_params.temperature=0.3"], "temperature None, not 0.3"),
        ({}, ["+num_repeats_add_seed=true"], "seed None, not 0"),
        ({"metadata": {"extra_body": '{"seed": 7}'}}, ["+responses_create_params.seed=8"], "seed 7, not 8"),
        ({"metadata": {"extra_body": '{"seed": 7}'}}, ["+responses_create_params.seed=7"], None),
        ({"temperature": 0.9}, ["+responses_create_params.temperature=0.9"], None),
    ],
)
def test_what_nemo_gym_sampled_by_is_compared(
    command: Command,
    serve: Serve,
    tasks: Tasks,
    tmp_path: Path,
    then: dict[str, Any],
    now: list[str],
    told: str | None,
    with_planned_rows: bool,  # noqa: FBT001
) -> None:
    """By its rows, which have null for what was left open, or by its planned rows, where they lie beside."""
    tasks(2)
    row = nemo_row(0, 0, "question 0")
    row["responses_create_params"] |= {"metadata": None, **then}
    if with_planned_rows:
        planned = {**row, "responses_create_params": {"input": "question 0", **then}}
        (tmp_path / "r_materialized_inputs.jsonl").write_text(json.dumps(planned) + "\n")
        row["responses_create_params"] = {"input": row["responses_create_params"]["input"]}
    (tmp_path / "r.jsonl").write_text(json.dumps(row) + "\n")
    ran = command(*FILES, f"+agent_url={serve().url}", RESUME, *now)
    assert ran.code == (2 if told else 0), ran.stderr
    assert not told or f"has responses_create_params.{told}" in ran.stderr


@settings(deadline=None)
@given(
    order=st.permutations(range(6)),
    cut=st.integers(0, 400),
    garbage=st.binary(max_size=20).filter(lambda data: b"\n" not in data),
    aside=st.sets(st.integers(0, 5)),
)
def test_any_prefix_of_a_journal_resumes(
    order: list[int], cut: int, garbage: bytes, aside: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No whole line is lost, no torn one kept, and what is appended then is undamaged."""
    paths = OutputPaths(tmp_path_factory.mktemp("j") / "out.jsonl")
    lines = {position: dumps({"p": position, "pad": "x" * position * 5}) for position in range(6)}
    with open_new(paths, 6, overwrite=False) as journal:
        for position in order:
            journal.append(position, lines[position])
    content = paths.output.read_bytes()[:cut]
    paths.output.write_bytes(content + garbage)
    paths.incomplete.write_bytes(b"".join(lines[position] + b"\n" for position in sorted(aside)))
    whole = content.count(b"\n")
    tail = content.rpartition(b"\n")[2] + garbage
    expected = {*order[:whole], *aside}
    if whole < 6 and tail == lines[order[whole]]:
        expected.add(order[whole])
    with open_for_resume(paths, 6) as journal:
        journal.read_back(lambda row: int(row["p"]) if isinstance(row.get("p"), int) else None)
        assert {position for position in range(6) if journal.has(position)} == expected
        assert paths.output.read_bytes() == content + garbage
        journal.open_for_appending()
        for position in set(range(6)) - expected:
            journal.append(position, lines[position])
        assert journal.finish([True] * 6).kept == 6
    assert paths.output.read_bytes() == b"".join(lines[position] + b"\n" for position in range(6))
    assert not paths.incomplete.exists()


SECRET = "sk-verysecretkey1234567890"


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {SECRET}",
        f'{{"error": "invalid api_key={SECRET}"}}',
        f"Authorization: Bearer {SECRET}",
        f"http://user:{SECRET}@host/path refused",
        f'{{"token": "{SECRET}"}}',
        "password=verysecretkey1234567890",
        "key AKIAVERYSECRETKEY1234 is unknown",
        "Incorrect API key provided: verysecretkey1234567890",
        "http://me:pa@verysecretkey@host/run",
        "http://host/run?sig=verysecretkey",
    ],
)
def test_credentials_are_masked(text: str) -> None:
    """In what servers say."""
    masked = redact(text)
    assert "verysecretkey" not in masked.lower()
    assert "***" in masked


def test_a_known_password_is_masked_as_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not cut up the words by which other credentials are known."""
    monkeypatch.setattr("ng_rollouts.redaction._KNOWN_SECRETS", set())
    remember_password_of("http://me:pass@host")
    assert redact("no such user: me/pass") == "no such user: me/***"
    assert redact("password=verysecretkey1234567890") == "password=***"


def test_text_without_credentials_stays() -> None:
    """Masking does not eat what people need to read."""
    for text in (
        "max_tokens must be <= 4096",
        "no such model: token-counter",
        "the keyboard key: enter",
        "r.jsonl, line 3",
        '{"max_tokens": 1000000}',
    ):
        assert redact(text) == text


def test_the_command_that_goes_on_masks_secrets() -> None:
    """A key in a parameter or in a URL's user part; an interpolation may be shown."""
    shown = display_command(
        ["x", f"+policy_api_key={SECRET}", f"+agent_url=http://me:{SECRET}@h:1", "+k_token=${oc.env:T}"]
    )
    assert SECRET not in shown
    assert "${oc.env:T}" in shown
    assert (
        resume_command(["x", "+limit=3", "+overwrite=true", "++resume_from_cache=true"])
        == "x +limit=3 +resume_from_cache=true"
    )


def test_secrets_are_in_no_file_and_no_message(command: Command, tasks: Tasks, serve: Serve, tmp_path: Path) -> None:
    """A key in a URL's user part appears nowhere, whatever happens."""
    tasks(3)
    url = serve(faults={"400": 1.0}).url.replace("http://", f"http://me:{SECRET}@")
    for arguments in (
        [f"+agent_url={url}"],
        ["+agent_url=http://me:" + SECRET + "@127.0.0.1:9", "+wait_for_agent_s=0"],
    ):
        ran = command(*FILES, *arguments, "+num_repeats=20")
        assert ran.code in (1, 3)
        assert SECRET not in ran.stdout + ran.stderr
    assert all(SECRET not in path.read_text() for path in tmp_path.iterdir())


def test_odd_replies_fail_alone(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """A reply that nobody expected costs its own rollout at most, in bounded time, and is told in bounded text."""
    tasks(60)
    kinds = ("null_params", "odd_params", "deep", "deeper", "long_error")
    server = serve(faults=dict.fromkeys(kinds, 0.12), sticky=True)
    ran = command(*FILES, f"+agent_url={server.url}", "+max_attempts=1")
    assert ran.code == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    failures = read_rows(tmp_path / "r_failures.jsonl")
    assert len(keys_of(tmp_path / "r.jsonl")) + len(failures) == 60
    assert {row["failure_class"] for row in failures} >= {"crash"}
    assert all(len(row["message"]) <= 2000 for row in failures)


def test_masking_takes_time_by_the_length_of_the_text() -> None:
    """No pattern runs away on long text of any one kind."""
    for text in (
        "A" * 200_000,
        "a:" * 100_000,
        "api key " * 25_000,
        "http://" * 30_000,
        "bearer " * 30_000,
        "sk-" * 60_000,
    ):
        assert len(redact(text)) <= len(text)


def test_a_resume_is_not_stopped_by_old_failures(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """Rollouts that failed before and fail again, first in order, are no reason to leave the others."""
    tasks(100)
    poisoned = serve(faults={"400": 1.0}, sticky=True)
    fine = serve()
    assert command(*FILES, f"+agent_url={fine.url}", "+limit=60").code == 0
    rows = (tmp_path / "r.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_text("".join(rows[40:]))
    ran = command(*FILES, f"+agent_url={poisoned.url}", RESUME, "+num_samples_in_parallel=1")
    assert ran.code == 1, ran.stderr
    assert "failed 80 (http_400: 80)" in ran.stderr
    assert command(*FILES, f"+agent_url={fine.url}", RESUME).code == 0
    check_complete(tmp_path, 100, 1)


def test_an_interrupted_resume_leaves_each_rollout_in_one_file(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """Rows that were set aside come back into the journal, failures that were made good leave theirs."""
    tasks(40)
    broken = serve(faults={"400": 0.3}, sticky=True)
    assert command(*FILES, f"+agent_url={broken.url}", "+num_repeats=2").code == 1
    failed = len(keys_of(tmp_path / "r_failures.jsonl"))
    server = serve(delay=[0.2, 0.3])
    process = start(tmp_path, f"+agent_url={server.url}", "+num_repeats=2", RESUME, "+num_samples_in_parallel=2")
    wait_until(lambda: server.stats()["total"] > 5)
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 143
    kept, still_failed = keys_of(tmp_path / "r.jsonl"), keys_of(tmp_path / "r_failures.jsonl")
    assert not (tmp_path / "r_incomplete.jsonl").exists()
    assert len(still_failed) < failed
    assert sorted([*kept, *still_failed]) == [(task, rollout) for task in range(40) for rollout in range(2)]


def test_a_signal_ends_a_sweep(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """Even when all that was in flight finished: no further run is started."""
    tasks(4)
    server = serve(delay=[0.8, 0.8])
    sweep = ["-m", f"+agent_url={server.url}", "responses_create_params.temperature=0.2,0.7", "+overwrite=true"]
    process = start(tmp_path, *sweep)
    wait_until(lambda: server.stats()["total"] == 4)
    process.send_signal(signal.SIGINT)
    ran = ended(process)
    assert ran.code == 130, ran.stderr
    assert server.stats()["total"] == 4
    check_complete(tmp_path, 4, 1)


def test_a_signal_while_waiting_for_the_server(tasks: Tasks, tmp_path: Path) -> None:
    """Before anything is sent: told, with the signal's code; SIGUSR1 is no end."""
    tasks(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start(tmp_path, "+agent_url=http://127.0.0.1:9", "+wait_for_agent_s=60")
        assert process.stderr
        assert "waiting up to 60 s" in process.stderr.readline()
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
        process.send_signal(number)
        ran = ended(process)
        assert (ran.code, ran.stderr) == (128 + number, "interrupted before anything was sent\n")
    assert [path.name for path in tmp_path.iterdir()] == ["tasks.jsonl"]


def test_outputs_that_differ_after_a_dot_are_apart(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """Each output has side files of its own."""
    tasks(10)
    server = serve(faults={"400": 0.5}, sticky=True)
    for name in ("out_0.2", "out_0.7"):
        assert command(FILES[0], "+agent_name=a", f"+agent_url={server.url}", f"+output_jsonl_fpath={name}").code == 1
    names = {path.name for path in tmp_path.iterdir()} - {"tasks.jsonl"}
    endings = ("", "_failures.jsonl", "_manifest.json", "_aggregate_metrics.json", "_summary.json")
    assert names == {name + ending for name in ("out_0.2", "out_0.7") for ending in endings}


def test_a_linked_output_stays_a_link(command: Command, tasks: Tasks, serve: Serve, tmp_path: Path) -> None:
    """The file that it leads to is the output."""
    tasks(5)
    (tmp_path / "big").mkdir()
    (tmp_path / "r.jsonl").symlink_to(tmp_path / "big" / "real.jsonl")
    assert command(*FILES, f"+agent_url={serve(delay=[0, 0.05]).url}").code == 0
    assert (tmp_path / "r.jsonl").is_symlink()
    check_complete(tmp_path, 5, 1)


def test_attempts_are_counted_over_sessions(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """`_ng_attempt_index` and `num_attempts` go on where the last session stopped."""
    tasks(1)
    server = serve(faults={"503": 1.0})
    for session in (1, 2, 3):
        command(*FILES, f"+agent_url={server.url}", "+max_attempts=2", RESUME)
        [row] = read_rows(tmp_path / "r_failures.jsonl")
        assert row["num_attempts"] == 2 * session
    assert [body.get("_ng_attempt_index") for body in server.stats()["last"]] == [None, 1, 2, 3, 4, 5]


def test_going_on_is_offered_where_it_helps(command: Command, serve: Serve, tasks: Tasks) -> None:
    """Not when all that failed is terminal; and class names are masked as messages are."""
    tasks(3)
    ran = command(*FILES, f"+agent_url={serve(faults={'secret_class': 1.0}).url}")
    assert ran.code == 1
    assert "to resume" not in ran.stderr
    assert "abcdef123456" not in ran.stderr


def test_without_a_manifest_rows_are_compared(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """By what is asked, images included, by sampling parameters and by agent."""
    image = [{"type": "input_image", "image_url": "data:AAAA"}]
    asked: dict[str, Any] = {"input": [{"role": "user", "content": image}], "temperature": 0.9}
    tasks([{"responses_create_params": asked}])
    server = serve()
    assert command(*FILES, f"+agent_url={server.url}").code == 0
    (tmp_path / "r_manifest.json").unlink()
    other = [{"type": "input_image", "image_url": "data:BBBB"}]
    changes: list[tuple[dict[str, Any], list[str], str]] = [
        ({"input": [{"role": "user", "content": other}]}, [], "has a different prompt than the input"),
        ({"temperature": 0.1}, [], "has responses_create_params.temperature 0.9, not 0.1"),
        ({}, ["+agent_name=b"], "has the agent 'a', not 'b'"),
    ]
    for changed, extra, told in changes:
        tasks([{"responses_create_params": {**asked, **changed}}])
        ran = command(*FILES, f"+agent_url={server.url}", RESUME, *extra)
        assert ran.code == 2
        assert told in ran.stderr


@pytest.mark.parametrize(
    "argument",
    [
        "+max_failed_rollouts=nan",
        "+rollout_timeout_s=inf",
        "+connect_timeout_s=1e15",
        "+drain_s=-1",
        f"+output_jsonl_fpath={'x' * 245}",
    ],
)
def test_values_beyond_reason_are_met_first(command: Command, tasks: Tasks, argument: str) -> None:
    """Exit 2, in one line."""
    tasks(1)
    ran = command(*FILES, argument)
    assert (ran.code, len(ran.stderr.splitlines())) == (2, 1)


def test_damaged_side_files_are_met(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """A failures file of another program is read as far as it goes; a manifest that is none is named."""
    tasks(2)
    (tmp_path / "r.jsonl").touch()
    other = {"_ng_task_index": 0, "_ng_rollout_index": 0, "_ng_attempt_index": None, "_ng_failure_class": "x"}
    (tmp_path / "r_failures.jsonl").write_text(json.dumps(other) + '\n{"torn')
    assert command(*FILES, f"+agent_url={serve().url}", RESUME).code == 0
    check_complete(tmp_path, 2, 1)
    (tmp_path / "r_manifest.json").write_text('{"rows": null}')
    ran = command(*FILES, "+agent_url=http://127.0.0.1:9", RESUME)
    assert ran.code == 2
    assert "r_manifest.json cannot be read" in ran.stderr


def manifest(**changed: Any) -> Manifest:
    same: dict[str, Any] = {
        "rows": 5, "rows_digest": "d", "num_repeats": 2, "agent_name": "a", "responses_create_params": {},
        "num_repeats_add_seed": False, "prompt_template": None, "training_view": True,
    }  # fmt: skip
    return Manifest(**(same | changed))


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        (2, 3, True),
        (3, 2, False),
        ({"a": 2}, {"a": 3, "b": 1}, True),
        ({"a": 2, "b": 2}, {"a": 3}, False),
        (2, {"_default": 2}, True),
        (2, {"a": 2}, False),
        ({"a": 2}, 2, True),
        ({"a": 3}, 2, False),
    ],
)
def test_repeats_may_grow_not_shrink(then: Any, now: Any, *, same: bool) -> None:
    """By number or by agent."""
    assert (list(differences(manifest(num_repeats=then), manifest(num_repeats=now), "d")) == []) is same


def test_a_journal_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Output folders that cannot be made are told."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        open_new(OutputPaths(tmp_path / "file" / "out.jsonl"), 1, overwrite=False)
