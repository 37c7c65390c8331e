"""`ng_control_rollouts` over runs of the real command: what each command does, and what the socket survives."""

from __future__ import annotations

import json
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.control.address import socket_paths
from tests.conftest import RESUME, Ran, assert_complete, ended, keys_of, read_rows, start, wait_until
from tests.control.conftest import Control, status_of, summary_in
from tests.servers import Served


def finish(control: Control) -> None:
    """Let the run have all rollouts in flight, so that it ends soon."""
    assert control("r.jsonl", "set", "num_samples_in_parallel=400").code == 0


def test_paused_run_starts_nothing_until_it_is_resumed(
    started: Callable[..., Any], control: Control, tmp_path: Path
) -> None:
    """After `pause`, rollouts in flight finish and none starts; `resume` and `set` let the run go on, and are logged."""
    process, server = started()
    assert control("r.jsonl", "resume").stdout == "the run is not paused\n"
    assert "and none starts" in control("r.jsonl", "pause").stdout
    assert control("r.jsonl", "pause").stdout == "the run is paused already\n"
    wait_until(lambda: status_of(control)["in_flight"] == 0)
    paused = status_of(control)
    assert paused["paused"]
    assert paused["collected"] == server.stats()["total"] < 400
    text = control("+output_jsonl_fpath=r.jsonl", "status").stdout
    assert f"collected={paused['collected']} failed=0 planned=400" in text
    assert " left=? paused" in text
    assert paused["left_s"] is None
    wait_until(lambda: json.loads((tmp_path / "r_status.json").read_bytes())["paused"])
    assert json.loads((tmp_path / "r_status.json").read_bytes())["left_s"] is None
    assert status_of(control)["collected"] == paused["collected"]
    assert control("r.jsonl", "set", "num_samples_in_parallel=400").stdout == "num_samples_in_parallel is 400\n"
    assert control("r.jsonl", "resume").code == 0
    ran = ended(process)
    assert ran.code == 0, ran.stderr
    assert server.stats()["most_in_flight"] > 2
    assert_complete(tmp_path, 400)
    logged = summary_in(tmp_path)["control"]
    assert [each["command"] for each in logged] == ["pause", "set num_samples_in_parallel=400", "resume"]
    assert {each["by"] for each in logged} == {"socket"}
    assert "resume (by socket): rollouts start again" in ran.stderr


def test_socket_is_for_its_owner_only_and_gone_after_the_run(
    started: Callable[..., Any], control: Control, tmp_path: Path
) -> None:
    """The socket beside the output has mode 0600, and neither it nor another file of the control outlives the run."""
    process, _ = started()
    assert stat.S_IMODE((tmp_path / "r_control.sock").stat().st_mode) == 0o600
    finish(control)
    assert ended(process).code == 0
    assert not (tmp_path / "r_control.sock").exists()
    ran = control("r.jsonl", "status")
    assert ran.code == 2
    assert "no run is writing this output on this machine" in ran.stderr


def test_next_run_replaces_the_socket_that_a_kill_has_left(
    started: Callable[..., Any], control: Control, tmp_path: Path
) -> None:
    """After kill -9, commands say that no run answers; the run that resumes has a socket of the same name."""
    process, server = started()
    process.send_signal(signal.SIGKILL)
    ended(process)
    assert (tmp_path / "r_control.sock").exists()
    assert control("r.jsonl", "status").code == 2
    process = start(tmp_path, f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl",
                    "+num_samples_in_parallel=2", RESUME)  # fmt: skip
    wait_until(lambda: control("r.jsonl", "status").code == 0)
    finish(control)
    assert ended(process).code == 0
    assert_complete(tmp_path, 400)


def test_second_run_of_the_output_leaves_the_socket_of_the_first(
    started: Callable[..., Any], control: Control, tmp_path: Path
) -> None:
    """A second run of the same output ends with 2, and the first one still takes commands."""
    process, server = started()
    second = start(
        tmp_path, f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"
    )
    assert ended(second).code == 2
    assert status_of(control)["pid"] == process.pid
    finish(control)
    assert ended(process).code == 0


def test_garbage_on_the_socket_ends_its_connection_at_most(
    started: Callable[..., Any], control: Control, tmp_path: Path
) -> None:
    """Lines that are no requests, endless lines, and many idle connections change nothing about the run."""
    process, _ = started()
    for garbage in (
        b"\x00\xff\n",
        b"[1]\n",
        b'{"command": 3}\n',
        b'{"command": "fly"}\n',
        b'{"command": "status", "by": "x"}\n',
    ):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / "r_control.sock"))
            connection.sendall(garbage)
            reply = json.loads(connection.recv(65536))
            assert reply["ok"] is False
            assert reply["error"]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "r_control.sock"))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(b"[" * 2**26)
    idle = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for connection in idle:
        connection.connect(str(tmp_path / "r_control.sock"))
    for connection in idle:
        connection.close()
    wait_until(lambda: control("r.jsonl", "status").code == 0)
    finish(control)
    assert ended(process).code == 0
    assert_complete(tmp_path, 400)


def test_drained_run_ends_as_after_ctrl_c_and_can_be_resumed(
    started: Callable[..., Any], control: Control, command: Callable[..., Ran], tmp_path: Path
) -> None:
    """`drain` lets rollouts in flight finish and ends the run with 130, also while it is paused; a resume completes it."""
    process, server = started()
    assert control("r.jsonl", "pause").code == 0
    assert "s to finish" in control("r.jsonl", "drain").stdout
    ran = ended(process)
    assert ran.code == 130, ran.stderr
    assert summary_in(tmp_path)["control"][-1]["command"] == "drain"
    assert len(keys_of(tmp_path / "r.jsonl")) == server.stats()["total"]
    files = [f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    assert command(*files, "+num_samples_in_parallel=400", RESUME).code == 0
    assert_complete(tmp_path, 400)


def test_wait_of_a_drain_ends_with_the_wall_time(started: Callable[..., Any], control: Control) -> None:
    """A drain may take `drain_s`, but the end of the wall time cancels what is in flight, and `drain_s` can change no more."""
    process, _ = started(
        "+num_samples_in_parallel=4", "+max_wall_s=4", "+wall_margin_s=0", "+drain_s=600", delay=[500, 600]
    )
    assert control("r.jsonl", "drain").code == 0
    for setting in ("drain_s=700", "max_attempts=2", "num_samples_in_parallel=9", "max_total_tokens=1"):
        ran = control("r.jsonl", "set", setting)
        assert (ran.code, "the run drains already" in ran.stderr) == (2, True)
    assert " draining " in control("r.jsonl", "status").stdout
    for command in ("pause", "resume", "drain"):
        assert control("r.jsonl", command).stdout == "the run drains already\n"
    assert ended(process).code == 130


def test_end_of_the_wall_time_can_be_moved(started: Callable[..., Any], control: Control) -> None:
    """`set max_wall_s` replaces the end of a run, also of one without a limit; a time that is over is refused."""
    process, _ = started("+num_samples_in_parallel=4", "+max_wall_s=500", "+wall_margin_s=0", delay=[500, 600])
    ran = control("r.jsonl", "set", "max_wall_s=0.1")
    assert (ran.code, "max_wall_s=0.1 is over already" in ran.stderr) == (2, True)
    assert control("r.jsonl", "set", "max_wall_s=null").stdout == "max_wall_s is null\n"
    soon = status_of(control)["elapsed_s"] + 5
    assert control("r.jsonl", "set", f"max_wall_s={soon}").code == 0
    ran = ended(process)
    assert ran.code == 3
    assert "the time is over (max_wall_s=" in ran.stderr


def test_token_budget_can_be_changed(started: Callable[..., Any], control: Control) -> None:
    """`set max_total_tokens` gives a run a budget, after which nothing starts, and the budget changes no more."""
    process, _ = started("+max_failed_rollouts=400", "+require_complete=false", delay=[0.5, 0.5])
    assert control("r.jsonl", "set", "max_total_tokens=5000000").stdout == "max_total_tokens is 5000000\n"
    assert control("r.jsonl", "set", "max_total_tokens=null").stdout == "max_total_tokens is null\n"
    assert control("r.jsonl", "set", "max_total_tokens=1").code == 0
    ran = ended(process)
    assert "the budget max_total_tokens=1 is spent" in ran.stderr


def test_request_rate_can_be_taken_away(started: Callable[..., Any], control: Control) -> None:
    """After `set max_requests_per_minute=null`, a run that would take years ends."""
    process, _ = started("+max_requests_per_minute=100000")
    assert control("r.jsonl", "set", "max_requests_per_minute=0.0001").stdout == "max_requests_per_minute is 0.0001\n"
    assert control("r.jsonl", "set", "max_requests_per_minute=null").stdout == "max_requests_per_minute is null\n"
    finish(control)
    assert ended(process).code == 0


def test_cancelled_canary_does_not_stop_the_run(started: Callable[..., Any], control: Control, tmp_path: Path) -> None:
    """A canary that was cancelled says nothing about the servers, so the rest is sent."""
    process, _ = started("+canary=4", "+num_samples_in_parallel=4", "+max_failed_rollouts=1", count=20, delay=[3, 3])
    assert control("r.jsonl", "cancel", "1").code == 0
    assert ended(process).code == 0
    assert summary_in(tmp_path)["collected"] == 19


def test_rollouts_of_a_cancelled_task_fail_and_the_others_are_collected(
    started: Callable[..., Any], control: Control, tmp_path: Path
) -> None:
    """`cancel` ends the task's rollouts in flight and starts no other; they are failures of the class `cancelled`."""
    process, server = started("+num_repeats=6", "+max_failed_rollouts=12", count=30)
    assert control("r.jsonl", "pause").code == 0
    shown = status_of(control)["collected"] // 6 + 2
    for task in (shown, 29):
        ran = control("r.jsonl", "cancel", str(task))
        assert ran.code == 0, ran.stderr
    assert control("r.jsonl", "cancel", "29").stdout == "task 29 is cancelled already\n"
    assert control("r.jsonl", "cancel", "30").code == 2
    assert control("r.jsonl", "retry", "failed").stdout == "0 failed rollouts will be attempted again\n"
    assert control("r.jsonl", "resume").code == 0
    ran = ended(process)
    assert ran.code == 0, ran.stderr
    failed = read_rows(tmp_path / "r_failures.jsonl")
    assert {row["failure_class"] for row in failed} == {"cancelled"}
    changes = [each["command"] for each in summary_in(tmp_path)["control"]]
    assert changes == ["pause", f"cancel {shown}", "cancel 29", "resume"]
    assert sum(row["_ng_task_index"] == 29 for row in failed) == 6
    assert not any(name.startswith("29/") for name in server.stats()["asked"])
    assert summary_in(tmp_path)["failed_by_class"] == {"cancelled": len(failed)}
    assert {task for task, _ in keys_of(tmp_path / "r.jsonl")} == set(range(30)) - {shown, 29}


def test_cancel_ends_rollouts_in_flight(started: Callable[..., Any], control: Control, tmp_path: Path) -> None:
    """A rollout that would be in flight for minutes fails at once when its task is cancelled."""
    process, _ = started("+max_failed_rollouts=4", "+num_samples_in_parallel=4", count=4, delay=[500, 600])
    shown = json.loads(control("r.jsonl", "show", "2:0", "+json=true").stdout)["shown"]
    assert shown["rollout"] == "2:0"
    assert shown["servers"]
    assert shown["turns"] is None
    for task in range(4):
        assert control("r.jsonl", "cancel", str(task)).code == 0 or task == 3
    ran = ended(process)
    assert summary_in(tmp_path)["failed_by_class"] == {"cancelled": 4}, ran.stderr


def test_show_has_the_turns_so_far_of_an_agent_in_the_command(
    serve_model: Callable[..., Served], tasks: Callable[..., Path], control: Control, tmp_path: Path
) -> None:
    """`show` prints the conversation of a rollout in flight, and says that another one is not in flight."""
    server = serve_model(latency=300)
    tasks(1)
    process = start(tmp_path, f"+policy_base_url={server.url}/v1", "+input_jsonl_fpath=tasks.jsonl",
                    "+output_jsonl_fpath=r.jsonl", "+drain_s=0")  # fmt: skip
    wait_until(lambda: control("r.jsonl", "show", "0:0").code == 0)
    shown = control("r.jsonl", "show", "0:0").stdout
    assert "0:0: " in shown
    assert "  user: question 0" in shown
    ran = control("r.jsonl", "show", "0:1")
    assert ran.code == 2
    assert "rollout 0:1 is not in flight" in ran.stderr
    assert control("r.jsonl", "drain").code == 0
    assert ended(process).code == 130


def test_long_path_has_its_socket_in_a_private_folder(
    serve: Callable[..., Served], tasks: Callable[..., Path], control: Control, tmp_path: Path
) -> None:
    """An output whose path is too long for a socket has it in a folder that only the user enters."""
    server = serve(delay=[0.05, 0.05])
    tasks(400)
    output = "x" * 120 + "/r.jsonl"
    process = start(tmp_path, f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", f"+output_jsonl_fpath={output}",
                    "+num_samples_in_parallel=2")  # fmt: skip
    wait_until(lambda: control(output, "status").code == 0)
    path = next(each for each in socket_paths(tmp_path / ("x" * 120) / "r_control.sock") if each.exists())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert control(output, "set", "num_samples_in_parallel=400").code == 0
    assert ended(process).code == 0
    assert not path.exists()


def test_run_goes_on_without_a_socket_where_another_file_has_its_name(
    serve: Callable[..., Served], tasks: Callable[..., Path], command: Callable[..., Ran], tmp_path: Path
) -> None:
    """A file with the name of the socket is left as it is, and the run is complete."""
    (tmp_path / "r_control.sock").write_text("precious")
    tasks(3)
    files = [f"+agent_url={serve().url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    assert command(*files).code == 0
    assert (tmp_path / "r_control.sock").read_text() == "precious"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "unknown command 'fly'"),
        (["statu"], "did you mean status?"),
        (["set", "num_repeats=3"], "a run can change num_samples_in_parallel"),
        (
            ["set", "num_samples_in_parallel=0"],
            "num_samples_in_parallel must be an integer of at least 1, up to 1e+12, or null, got '0'",
        ),
        (["cancel", "all"], "write cancel TASK"),
        (["show", "3"], "write show TASK:ROLLOUT"),
        (["retry"], "write retry failed"),
        ([], "command is missing"),
        (["status"], "no run is writing this output"),
    ],
)
def test_what_is_no_command_is_an_error_of_one_line(words: list[str], message: str, control: Control) -> None:
    """Unknown commands, wrong arguments, and an output that no run writes: one line and exit code 2."""
    ran = control("r.jsonl", *words)
    assert ran.code == 2
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1
