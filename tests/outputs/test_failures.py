"""The failures file has every failed rollout once, with its attempts over all commands."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile

from ng_rollouts.outputs.failures import FailuresFile, failure_row
from ng_rollouts.redaction import remember_secret
from ng_rollouts.types import Attempt, Failure, Rollout, RolloutKey
from tests.conftest import FILES, RESUME, ROOT, Ran, assert_complete, keys_of, read_rows
from tests.servers import Served

Command = Callable[..., Ran]
Serve = Callable[..., Served]
Tasks = Callable[..., Path]


def test_failed_rollouts_are_written_and_their_groups_are_set_aside(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """A rollout whose last attempt fails is in the failures file, and the rest of its group in the incomplete file.

    The summary counts both, and the exit code is 1.
    """
    tasks(40)
    server = serve(faults={"400": 0.1}, sticky=True)
    ran = command(*FILES, f"+agent_url={server.url}", "+num_repeats=2")
    assert ran.code == 1
    failed = keys_of(tmp_path / "r_failures.jsonl")
    incomplete = {task for task, _ in failed}
    assert keys_of(tmp_path / "r.jsonl") == [(t, r) for t in range(40) if t not in incomplete for r in range(2)]
    set_aside = keys_of(tmp_path / "r_incomplete.jsonl")
    assert sorted([*failed, *set_aside]) == [(t, r) for t in sorted(incomplete) for r in range(2)]
    counts = f"failed {len(failed)} (http_400: {len(failed)}), set aside {len(set_aside)} of the {80 - len(failed)}"
    assert f"{counts} collected" in ran.stderr
    [row, *_] = read_rows(tmp_path / "r_failures.jsonl")
    assert (row["failure_class"], row["status"], row["num_attempts"]) == ("http_400", 400, 1)
    assert row["row"]["responses_create_params"]["input"][0]["content"].startswith("question")


def test_attempts_are_counted_across_resumes(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """`num_attempts` and `_ng_attempt_index` continue from the attempts of earlier commands."""
    tasks(1)
    server = serve(faults={"500": 1.0})
    for session in (1, 2, 3):
        command(*FILES, f"+agent_url={server.url}", "+max_attempts=2", RESUME)
        [row] = read_rows(tmp_path / "r_failures.jsonl")
        assert row["num_attempts"] == 2 * session
    assert [body.get("_ng_attempt_index") for body in server.stats()["last"]] == [None, 1, 2, 3, 4, 5]


def test_failure_with_no_persist_is_counted_but_not_written(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """A rollout whose agent replies with `_ng_no_persist` is in no file, counts as failed, and a resume retries it."""
    tasks(10)
    server = serve(faults={"no_persist": 1.0})
    ran = command(*FILES, f"+agent_url={server.url}")
    assert ran.code == 1
    assert "failed 10 (no_persist: 10)" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("error: 10 rollouts failed")
    assert "_failures.jsonl" not in ran.stderr
    assert read_rows(tmp_path / "r.jsonl") == read_rows(tmp_path / "r_failures.jsonl") == []
    assert command(*FILES, f"+agent_url={serve().url}", RESUME).code == 0
    assert_complete(tmp_path, 10)


def test_damaged_failures_file_of_nemo_gym_is_read_as_far_as_possible(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """A failures file with the field names of NeMo Gym and a torn last line does not prevent a resume."""
    tasks(2)
    (tmp_path / "r.jsonl").touch()
    row = {"_ng_task_index": 0, "_ng_rollout_index": 0, "_ng_attempt_index": None, "_ng_failure_class": "x"}
    (tmp_path / "r_failures.jsonl").write_text(json.dumps(row) + '\n{"torn')
    assert command(*FILES, f"+agent_url={serve().url}", RESUME).code == 0
    assert_complete(tmp_path, 2)


def test_failure_row_has_no_secret() -> None:
    """Message, class and input row are masked, in whatever form a server echoes a key; numbers stay numbers."""
    key = "Vq7wLx2mZt9cRb4nKd"
    remember_secret(key)
    encoded = base64.b64encode(f"user:{key}".encode()).decode()
    message = f'{{"error": "bad key\\n{key}", "header": "{encoded}", "begins": "{key[:12]}..."}}'
    attempt = Attempt(failure_class=f"Error{key}", message=message, status=401, began=0.0, seconds=1.0)
    task = {"responses_create_params": {"input": [], "extra_headers": {"Authorization": f"Bearer {key}"}}, "id": 12}
    rollout = Rollout(key=RolloutKey(0, 0), position=0, agent="a", row=task, prompt_id="0")
    written = json.dumps(failure_row(Failure(rollout=rollout, attempts=(attempt,))))
    assert not any(part in written for part in (key, key[:12], encoded[8:20]))
    assert json.loads(written)["row"]["id"] == 12


def test_resume_of_nemo_gym_failures_counts_their_lines(
    command: Callable[..., Ran], serve: Callable[..., Served], tmp_path: Path
) -> None:
    """Each line of NeMo Gym is an attempt; three of them, or a terminal one, are the last, and the rest continues."""
    for name in ("05_sidecar.jsonl", "05_sidecar_failures.jsonl", "05_sidecar_materialized_inputs.jsonl"):
        copyfile(ROOT / "tests" / "gym07" / name, tmp_path / name.replace("05_sidecar", "r"))
    rows = [{"responses_create_params": {"input": "x"}, "agent_ref": {"name": "a"}}] * 6
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = serve()
    resume = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", f"+agents.a.url={server.url}", RESUME]
    resume += ["+incomplete_groups=keep", "+num_samples_in_parallel=1"]
    copy = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert command(*resume).code == 1
    sent = [(row["_ng_task_index"], row.get("_ng_attempt_index")) for row in server.stats()["last"]]
    assert sent == [(2, 1), (3, 1), (5, None)]
    for path in tmp_path.iterdir():
        path.unlink()
    for name, content in copy.items():
        (tmp_path / name).write_bytes(content)
    again = command(*resume, "+retry_terminal_timeouts=true", "+dispatch_longest_first=true")
    assert [row["_ng_task_index"] for row in server.stats()["last"][3:]] == [1, 2, 4, 5], again.stderr


def test_answers_are_found_after_settling(tmp_path: Path) -> None:
    """An answer of an earlier line moves to the last one, and is read from there; collected rollouts are left out."""
    path, file = tmp_path / "f.jsonl", FailuresFile(tmp_path / "f.jsonl")
    answers = [{"output": [{"text": "é" * 100 * n}]} for n in range(4)]

    def line(task: int, **fields: object) -> str:
        return json.dumps({"_ng_task_index": task, "_ng_rollout_index": 0, "failure_class": "x", **fields}) + "\n"

    lines = [line(task, response=answers[task]) for task in range(4)]
    path.write_text("".join([*lines[:3], "{half\n", line(1, message="later"), lines[3], line(4)]))
    assert file.answer(RolloutKey(1, 0)) is None
    file.settle(lambda key: key.task_index == 0)
    assert [file.answer(RolloutKey(task, 0)) for task in range(5)] == [None, *answers[1:], None]
    rows = read_rows(path)
    assert [row["_ng_task_index"] for row in rows] == [2, 1, 3, 4]
    assert (rows[1]["message"], rows[1]["response"]) == ("later", answers[1])
    path.write_text("")
    assert file.answer(RolloutKey(1, 0)) is None


def test_rows_by_key_prefer_the_first_answer(tmp_path: Path) -> None:
    """Of several lines for a rollout, the first with an answer counts, or else the last; keys are in order."""
    lines = [
        {"_ng_task_index": 2, "_ng_rollout_index": 0, "n": 0},
        {"_ng_task_index": 1, "_ng_rollout_index": 0, "n": 1},
        {"_ng_task_index": 2, "_ng_rollout_index": 0, "n": 2, "response": {"id": "a"}},
        {"_ng_task_index": 2, "_ng_rollout_index": 0, "n": 3, "response": {"id": "b"}},
        {"_ng_task_index": 1, "_ng_rollout_index": 0, "n": 4},
        {"n": 5},
    ]
    path = tmp_path / "failures.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"_ng_task_index": 1, "_ng_')
    file = FailuresFile(path)
    assert [(key, row["n"]) for key, row in file.rows_by_key()] == [(RolloutKey(1, 0), 4), (RolloutKey(2, 0), 2)]
    assert list(FailuresFile(tmp_path / "missing.jsonl").rows_by_key()) == []
