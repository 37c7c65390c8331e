"""A resume continues the same run, repeats no collected rollout, and rejects an output of a different run."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.agent_server import reward_of
from tests.conftest import (
    FILES,
    RESUME,
    Ran,
    assert_complete,
    ended,
    keys_of,
    read_rows,
    start,
    wait_until,
)
from tests.servers import Served

Command = Callable[..., Ran]
Serve = Callable[..., Served]
Tasks = Callable[..., Path]


def test_resume_collects_only_new_repeats_and_rows(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """`num_repeats` and `limit` may grow: only new rollouts are requested, and the output has the order of one run."""
    tasks(20)
    server = serve()
    assert command(*FILES, f"+agent_url={server.url}", "+limit=10", "+num_repeats=2").code == 0
    ran = command(*FILES, f"+agent_url={server.url}", "+limit=15", "+num_repeats=3", RESUME)
    assert ran.code == 0, ran.stderr
    assert_complete(tmp_path, 15, 3)
    assert server.stats()["total"] == 45
    ran = command(*FILES, "+agent_url=http://127.0.0.1:9", "+limit=15", "+num_repeats=3", RESUME)
    assert (ran.code, ran.averages["reward"] > 0) == (0, True)


def test_resume_with_other_settings_is_rejected(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """A changed setting that affects results exits with 2 and both values; no file is changed, no request is sent."""
    tasks(5)
    tasks([{"responses_create_params": {"input": "other"}}] * 5, name="other.jsonl")
    server = serve()
    run = [*FILES, f"+agent_url={server.url}", "+num_repeats=2", "+responses_create_params.temperature=0.7"]
    assert command(*run).code == 0
    before = (tmp_path / "r.jsonl").read_bytes()
    for change, message in {
        "+num_repeats=1": "num_repeats: 2 then, 1 now",
        "+limit=3": "input rows: 5 then, 3 now",
        "+responses_create_params.temperature=0.5": "responses_create_params.temperature: 0.7 then, 0.5 now",
        "+responses_create_params.top_p=0.5": "responses_create_params.top_p: null then, 0.5 now",
        "+agent_name=b": 'agent_name: "a" then, "b" now',
        "+num_repeats_add_seed=true": "num_repeats_add_seed: false then, true now",
        "+training_view=false": "training_view: true then, false now",
        "+input_jsonl_fpath=other.jsonl": "the first 5 input rows: digest ",
    }.items():
        ran = command(*run, change, RESUME)
        assert ran.code == 2
        assert message in ran.stderr
        assert (tmp_path / "r.jsonl").read_bytes() == before
    assert server.stats()["total"] == 10


def test_resume_retries_failed_rollouts_unless_they_are_terminal(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """A resume retries failures with `_ng_attempt_index`; terminal ones stay, and `retry_failed=false` retries none."""
    tasks(30)
    faulty = serve(faults={"400": 0.2, "terminal": 0.2}, sticky=True)
    assert command(*FILES, f"+agent_url={faulty.url}").code == 1
    failed = {row["_ng_task_index"]: row["terminal"] for row in read_rows(tmp_path / "r_failures.jsonl")}
    assert set(failed.values()) == {True, False}
    assert command(*FILES, "+agent_url=http://127.0.0.1:9", RESUME, "+retry_failed=false").code == 1
    assert {row["_ng_task_index"]: row["terminal"] for row in read_rows(tmp_path / "r_failures.jsonl")} == failed
    healthy = serve()
    assert command(*FILES, f"+agent_url={healthy.url}", RESUME).code == 1
    requests = healthy.stats()["last"]
    assert {body["_ng_task_index"] for body in requests} == {task for task, terminal in failed.items() if not terminal}
    assert all(body["_ng_attempt_index"] == 1 for body in requests)
    assert {task for task, _ in keys_of(tmp_path / "r_failures.jsonl")} == {
        task for task, terminal in failed.items() if terminal
    }


def test_resume_continues_after_rollouts_that_failed_before(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """Rollouts that fail again at the start of a resume do not stop it before it has tried the others."""
    tasks(100)
    failing = serve(faults={"400": 1.0}, sticky=True)
    healthy = serve()
    assert command(*FILES, f"+agent_url={healthy.url}", "+limit=60").code == 0
    rows = (tmp_path / "r.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_text("".join(rows[40:]))
    ran = command(*FILES, f"+agent_url={failing.url}", RESUME, "+num_samples_in_parallel=1")
    assert ran.code == 1, ran.stderr
    assert "failed 80 (http_400: 80)" in ran.stderr
    assert command(*FILES, f"+agent_url={healthy.url}", RESUME).code == 0
    assert_complete(tmp_path, 100)


def test_interrupted_resume_leaves_each_rollout_in_one_file(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """A resume moves incomplete groups back into the journal, and removes failures that it has collected.

    If it is interrupted, every rollout is either in the journal or in the failures file.
    """
    tasks(40)
    faulty = serve(faults={"400": 0.3}, sticky=True)
    assert command(*FILES, f"+agent_url={faulty.url}", "+num_repeats=2").code == 1
    failed = len(keys_of(tmp_path / "r_failures.jsonl"))
    server = serve(delay=[0.1, 0.1])
    resume = [*FILES, f"+agent_url={server.url}", "+num_repeats=2", RESUME, "+num_samples_in_parallel=2"]
    process = start(tmp_path, *resume)
    wait_until(lambda: server.stats()["total"] > 5)
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 143
    collected, still_failed = keys_of(tmp_path / "r.jsonl"), keys_of(tmp_path / "r_failures.jsonl")
    assert not (tmp_path / "r_incomplete.jsonl").exists()
    assert len(still_failed) < failed
    assert sorted([*collected, *still_failed]) == [(task, rollout) for task in range(40) for rollout in range(2)]


def test_output_without_a_manifest_is_compared_row_by_row(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """Without a manifest, a row with another prompt, image, sampling parameter or agent rejects the resume."""
    image = [{"type": "input_image", "image_url": "data:AAAA"}]
    params: dict[str, Any] = {"input": [{"role": "user", "content": image}], "temperature": 0.9}
    tasks([{"responses_create_params": params}])
    server = serve()
    assert command(*FILES, f"+agent_url={server.url}").code == 0
    (tmp_path / "r_manifest.json").unlink()
    other = [{"type": "input_image", "image_url": "data:BBBB"}]
    changes: list[tuple[dict[str, Any], list[str], str]] = [
        ({"input": [{"role": "user", "content": other}]}, [], "has a different prompt than the input"),
        ({"temperature": 0.1}, [], "has responses_create_params.temperature 0.9, not 0.1"),
        ({}, ["+agent_name=b"], "has the agent 'a', not 'b'"),
    ]
    for changed, extra, message in changes:
        tasks([{"responses_create_params": {**params, **changed}}])
        ran = command(*FILES, f"+agent_url={server.url}", RESUME, *extra)
        assert ran.code == 2
        assert message in ran.stderr


def nemo_gym_row(task: int, rollout: int, text: str) -> dict[str, Any]:
    """A row as NeMo Gym's own collector writes it, with nulls for parameters that were not set."""
    nulls = dict.fromkeys(("background", "instructions", "temperature", "top_p", "user"))
    messages = [{"role": "user", "content": text, "type": "message"}]
    return {
        "responses_create_params": {**nulls, "input": messages, "tools": []},
        "response": {"output": []},
        "reward": reward_of(task, rollout),
        "_ng_task_index": task,
        "_ng_rollout_index": rollout,
        "agent_ref": {"name": "a"},
    }


def test_output_of_nemo_gym_can_be_resumed(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """An output of NeMo Gym, in completion order and with a torn last line, is resumed if its rows match the input."""
    tasks(6)
    rows = [nemo_gym_row(task, rollout, f"question {task}") for task, rollout in ((3, 1), (0, 0), (0, 1), (5, 0))]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"responses_create_params": {"inp'
    (tmp_path / "r.jsonl").write_text(text)
    (tmp_path / "r_materialized_inputs.jsonl").write_text("{}\n")
    server = serve()
    resume = [*FILES, f"+agent_url={server.url}", "+num_repeats=2", RESUME]
    ran = command(*resume)
    assert ran.code == 0, ran.stderr
    assert_complete(tmp_path, 6, 2)
    assert server.stats()["total"] == 8
    (tmp_path / "r_manifest.json").unlink()
    for row, message in (
        (nemo_gym_row(2, 0, "another question"), "task 2, rollout 0 has a different prompt than the input"),
        (nemo_gym_row(9, 0, "question 9"), "the output has task 9, rollout 0, which this input does not contain"),
    ):
        (tmp_path / "r.jsonl").write_text(json.dumps(row) + "\n")
        rejected = command(*resume)
        assert rejected.code == 2
        assert message in rejected.stderr


@pytest.mark.parametrize("source", ["rows", "materialized inputs"])
@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        ({"temperature": 0.9}, [], "temperature 0.9, not None"),
        ({}, ["+responses_create_params.temperature=0.3"], "temperature None, not 0.3"),
        ({}, ["+num_repeats_add_seed=true"], "seed None, not 0"),
        ({"metadata": {"extra_body": '{"seed": 7}'}}, ["+responses_create_params.seed=8"], "seed 7, not 8"),
        ({"metadata": {"extra_body": '{"seed": 7}'}}, ["+responses_create_params.seed=7"], None),
        ({"temperature": 0.9}, ["+responses_create_params.temperature=0.9"], None),
    ],
    ids=["removed", "added", "seed added", "seed changed", "seed equal", "equal"],
)
def test_sampling_parameters_of_nemo_gym_are_compared(
    command: Command,
    serve: Serve,
    tasks: Tasks,
    tmp_path: Path,
    then: dict[str, Any],
    now: list[str],
    message: str | None,
    source: str,
) -> None:
    """Sampling parameters of an output of NeMo Gym are read from its rows, or from its materialized inputs.

    A row has null for each parameter that was not set. A materialized input has only those that were set.
    """
    tasks(2)
    row = nemo_gym_row(0, 0, "question 0")
    row["responses_create_params"] |= {"metadata": None, **then}
    if source == "materialized inputs":
        planned = {**row, "responses_create_params": {"input": "question 0", **then}}
        (tmp_path / "r_materialized_inputs.jsonl").write_text(json.dumps(planned) + "\n")
        row["responses_create_params"] = {"input": row["responses_create_params"]["input"]}
    (tmp_path / "r.jsonl").write_text(json.dumps(row) + "\n")
    ran = command(*FILES, f"+agent_url={serve().url}", RESUME, *now)
    assert ran.code == (2 if message else 0), ran.stderr
    assert not message or f"has responses_create_params.{message}" in ran.stderr


def test_line_of_another_program_does_not_keep_an_output_from_being_resumed(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """A manifest shows that the output is of this run: lines that are not its rows are left out with a warning."""
    tasks(4)
    server = serve()
    assert command(*FILES, f"+agent_url={server.url}", "+limit=2").code == 0
    with (tmp_path / "r.jsonl").open("a") as file:
        file.write('{"note": "from elsewhere"}\nnot JSON\n')
    ran = command(*FILES, f"+agent_url={server.url}", RESUME)
    assert (ran.code, server.stats()["total"]) == (0, 4), ran.stderr
    assert "warning: 2 lines of r.jsonl left out, because they are not rows of this run" in ran.stderr
    assert_complete(tmp_path, 4)
