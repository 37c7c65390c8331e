"""Runs that score rollouts again: results, resume, side files, the table of changes, and agreement with labels."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SCRIPTS, SLOW_MACHINE_S, Ran, files_in, keys_of, read_rows, wait_until
from tests.rescoring.conftest import Rescore, sum_rows
from tests.rollout_files import rollout_row, write_rows
from tests.servers import Served

CASES = Path(__file__).parents[1] / "gym07"


def test_scores_are_those_of_the_collector(rescore: Rescore, examples: Path, tmp_path: Path) -> None:
    """Rows, keys and responses stay; the score is that of the verifier, and the old one is `previous_reward`."""
    ran = rescore("+verifier=exact_match", source=str(examples))
    assert ran.code == 0, ran.stderr
    old, new = read_rows(examples), read_rows(tmp_path / "new.jsonl")
    assert keys_of(tmp_path / "new.jsonl") == keys_of(examples)
    for before, now in zip(old, new, strict=True):
        assert now["response"] == before["response"]
        assert now["previous_reward"] == before["reward"]
        assert now["_ng_rescored"] is True
        assert now["reward"] == float(now["extracted_answer"] == now["expected_answer"])
    assert ran.averages["reward"] == pytest.approx(sum(row["reward"] for row in new) / len(new))


def test_the_source_is_never_changed(rescore: Rescore, sums_file: Path) -> None:
    """Its bytes and its modification time stay, and no file is written next to it but the output's."""
    before, state = sums_file.read_bytes(), sums_file.stat()
    for arguments in (["+verifier=exact_match"], ["+verifier=exact_match", "+overwrite=true"]):
        assert rescore(*arguments).code == 0
    assert sums_file.read_bytes() == before
    assert (sums_file.stat().st_mtime_ns, sums_file.stat().st_ino) == (state.st_mtime_ns, state.st_ino)
    assert {name for name in files_in(sums_file.parent) if not name.startswith("new")} == {"rollouts.jsonl"}


def test_the_manifest_has_both_verifiers(rescore: Rescore, sums_file: Path, tmp_path: Path) -> None:
    """It names the verifier of the rollouts and the new one; when a rescoring is scored again, that one's."""
    assert rescore("+verifiers.strict=exact_match", "+verifiers.loose=exact_match").code == 0
    assert rescore("+verifier=exact_match", source="new.jsonl", output="again.jsonl").code == 0
    model = json.loads((tmp_path / "new_manifest.json").read_text())["model"]
    assert model["verifiers.strict"] == {"kind": "exact_match"}
    assert model["previous_verifier"] is None
    model = json.loads((tmp_path / "again_manifest.json").read_text())["model"]
    assert model["verifier"] == {"kind": "exact_match"}
    assert model["previous_verifier"] == {
        "verifiers.strict": {"kind": "exact_match"},
        "verifiers.loose": {"kind": "exact_match"},
    }
    assert "verifiers.strict" not in model


def test_a_rescoring_asks_no_model_and_counts_no_new_tokens(rescore: Rescore, sums_file: Path, tmp_path: Path) -> None:
    """The tokens of the answers are those of the earlier run: they are not reported as spent."""
    ran = rescore("+verifier=exact_match")
    assert "tokens" not in ran.stderr
    summary = json.loads((tmp_path / "new_summary.json").read_text())
    assert summary["tokens"] == summary["tokens_before"] == {"input": 0, "output": 16}
    assert summary["output_tokens_per_s"] == 0


SLOW = (
    "import time\n\ndef score(row, response):\n    time.sleep(0.02)\n    return {'reward': row['_ng_task_index'] % 2}\n"
)


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    files = ["+rollouts_jsonl_fpath=rollouts.jsonl", "+output_jsonl_fpath=new.jsonl"]
    return subprocess.Popen(
        [str(SCRIPTS / "ng_rescore_rollouts"), *files, *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )


def test_a_killed_run_resumes_to_the_bytes_of_an_undisturbed_one(rescore: Rescore, tmp_path: Path) -> None:
    """After kill -9 in the middle, a resume scores the rest; the output is that of a run without the kill."""
    (tmp_path / "slow.py").write_text(SLOW)
    write_rows(tmp_path / "rollouts.jsonl", sum_rows(60, repeats=2))
    verifier = ["+verifier=python", "+verifier.function=slow.py:score", "+num_samples_in_parallel=4"]
    process = start(tmp_path, *verifier)
    output = tmp_path / "new.jsonl"
    try:
        wait_until(lambda: (output.exists() and output.read_bytes().count(b"\n") > 10) or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait(SLOW_MACHINE_S)
    scored = output.read_bytes().count(b"\n")
    assert 10 < scored < 120
    ran = rescore(*verifier, "+resume_from_cache=true")
    assert ran.code == 0, ran.stderr
    assert f"{scored} of 120 rollouts are collected" in ran.stderr
    assert rescore(*verifier, output="undisturbed.jsonl").code == 0
    assert output.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


def test_a_resume_with_another_verifier_is_refused(rescore: Rescore, sums_file: Path, tmp_path: Path) -> None:
    """The message names the verifier, the code of a function and the selection; no file is changed."""
    (tmp_path / "own.py").write_text("def score(row, response):\n    return 1.0\n")
    own = ["+verifier=python", "+verifier.function=own.py:score"]
    assert rescore(*own).code == 0
    before = files_in(tmp_path)
    for changed in (["+verifier=exact_match"], [*own, "+only=unscored"], [*own, "+where.subject=x"]):
        ran = rescore(*changed, "+resume_from_cache=true")
        assert ran.code == 2, ran.stderr
        assert ("verifier" if changed[0] != own[0] else "rescoring") in ran.stderr
        assert ran.stderr.count("\n") == 1
    assert files_in(tmp_path) == before
    (tmp_path / "own.py").write_text("def score(row, response):\n    return 0.0\n")
    assert rescore(*own, "+resume_from_cache=true").code == 2


def test_a_resume_after_the_source_changed_is_refused(rescore: Rescore, sums_file: Path, tmp_path: Path) -> None:
    """Another source, or other expected answers, are another run."""
    tasks = write_rows(tmp_path / "tasks.jsonl", [{"expected_answer": "1"}])
    arguments = ["+verifier=exact_match", f"+tasks_jsonl_fpath={tasks}"]
    assert rescore(*arguments).code == 0
    write_rows(tasks, [{"expected_answer": "2"}])
    assert rescore(*arguments, "+resume_from_cache=true").code == 2
    write_rows(tasks, [{"expected_answer": "1"}])
    assert rescore(*arguments, "+resume_from_cache=true").code == 0
    write_rows(sums_file, sum_rows(5))
    assert rescore(*arguments, "+resume_from_cache=true").code == 2


def test_several_verifiers_score_under_their_names(rescore: Rescore, sums_file: Path, tmp_path: Path) -> None:
    """The first gives the reward; each has its reward, and its fields under `verdicts`."""
    ran = rescore("+verifiers.strict=regex", r"+verifiers.strict.pattern='^(\d+)$'", "+verifiers.loose=exact_match")
    assert ran.code == 0, ran.stderr
    for row in read_rows(tmp_path / "new.jsonl"):
        right = float(row["_ng_task_index"] % 2 == 0)
        assert (row["reward"], row["strict_reward"], row["loose_reward"]) == (0.0, 0.0, right)
        assert set(row["verdicts"]) == {"strict", "loose"}
        assert row["verdicts"]["loose"]["reward"] == right
    assert rescore("+verifier=exact_match", source="new.jsonl", output="again.jsonl").code == 0
    for row in read_rows(tmp_path / "again.jsonl"):
        assert not {"strict_reward", "loose_reward", "verdicts"} & row.keys()
        assert row["previous_reward"] == 0.0


def test_a_row_that_was_copied_is_the_row_of_the_source(rescore: Rescore, tmp_path: Path) -> None:
    """`where` and `only` select what is scored; the rest of an output of this program stays as it is."""
    rows = [row | {"meta": {"subject": "ab"[row["_ng_task_index"] % 2]}} for row in sum_rows(4)]
    del rows[2]["reward"]
    write_rows(tmp_path / "rollouts.jsonl", rows)
    assert rescore("+verifier=exact_match", "+where.meta.subject=b", "+training_view=false").code == 0
    new = read_rows(tmp_path / "new.jsonl")
    assert [row.get("_ng_rescored", False) for row in new] == [False, True, False, True]
    assert [new[0], new[2]] == [rows[0], rows[2]]
    arguments = ["+verifier=exact_match", "+only=unscored", "+training_view=false"]
    ran = rescore(*arguments, output="unscored.jsonl")
    new = read_rows(tmp_path / "unscored.jsonl")
    assert [row.get("_ng_rescored", False) for row in new] == [False, False, True, False]
    assert "scored now only            1" in ran.stderr


def test_numbers_and_booleans_of_where_are_values(rescore: Rescore, tmp_path: Path) -> None:
    """`+where.level=3` selects the number, not the text."""
    rows = [row | {"level": [3, "3", True][row["_ng_task_index"]]} for row in sum_rows(3)]
    write_rows(tmp_path / "rollouts.jsonl", rows)
    assert rescore("+verifier=exact_match", "+where.level=3").code == 0
    assert [row.get("_ng_rescored", False) for row in read_rows(tmp_path / "new.jsonl")] == [True, False, False]


def test_a_row_without_a_response_fails(rescore: Rescore, tmp_path: Path) -> None:
    """It is a failure `no_answer`, and never a reward of 0."""
    rows = sum_rows(3)
    rows[1]["response"] = {}
    write_rows(tmp_path / "rollouts.jsonl", rows)
    ran = rescore("+verifier=exact_match")
    assert ran.code == 1
    assert keys_of(tmp_path / "new.jsonl") == [(0, 0), (2, 0)]
    assert ran.averages["reward"] == 1.0
    [line] = read_rows(tmp_path / "new_failures.jsonl")
    assert (line["failure_class"], line["_ng_task_index"]) == ("no_answer", 1)


@pytest.mark.parametrize(("allowed", "code"), [("1", 0), ("0.4", 0), ("0.3", 1), ("0", 1)])
def test_failures_are_allowed_as_in_the_collector(allowed: str, code: int, rescore: Rescore, tmp_path: Path) -> None:
    """`max_failed_rollouts` is a count, or a fraction of the rollouts."""
    rows = sum_rows(3)
    del rows[1]["response"]
    write_rows(tmp_path / "rollouts.jsonl", rows)
    assert rescore("+verifier=exact_match", f"+max_failed_rollouts={allowed}").code == code


def test_masked_rows_stay_masked(rescore: Rescore, tmp_path: Path) -> None:
    """A result that is not a measurement gets a new score, and still is in no mean."""
    rows = sum_rows(3)
    rows[1]["mask_sample"] = True
    write_rows(tmp_path / "rollouts.jsonl", rows)
    ran = rescore("+verifier=exact_match", "+training_view=false")
    assert ran.code == 0, ran.stderr
    assert [row["reward"] for row in read_rows(tmp_path / "new.jsonl")] == [1.0, 0.0, 1.0]
    assert read_rows(tmp_path / "new.jsonl")[1]["mask_sample"] is True
    assert ran.averages["reward"] == 1.0
    assert "masked: 1 of 3" in ran.stderr


@pytest.fixture
def judge(serve_model: Callable[..., Served]) -> list[str]:
    """Arguments for a judge that finds every answer correct."""
    return ["+verifier=judge", f"+verifier.base_url={serve_model(text='VERDICT: CORRECT').url}/v1"]


def test_a_judge_that_fails_costs_no_answer(
    rescore: Rescore, serve_model: Callable[..., Served], judge: list[str], tmp_path: Path
) -> None:
    """Answers stay in the failures file; `only=failed` on the new output scores them, with the first reward kept."""
    write_rows(tmp_path / "rollouts.jsonl", sum_rows(3, repeats=2))
    failing = serve_model(fail={"500": 1.0})
    ran = rescore("+verifier=judge", f"+verifier.base_url={failing.url}/v1", "+max_attempts=1", "+verifier.attempts=1")
    assert ran.code == 1, ran.stderr
    lines = read_rows(tmp_path / "new_failures.jsonl")
    assert len(lines) == 6
    assert all(line["response"]["output"] for line in lines)
    ran = rescore(*judge, "+only=failed", source="new.jsonl", output="again.jsonl")
    assert ran.code == 0, ran.stderr
    rows = read_rows(tmp_path / "again.jsonl")
    assert keys_of(tmp_path / "again.jsonl") == keys_of(tmp_path / "rollouts.jsonl")
    assert {(row["reward"], row["previous_reward"]) for row in rows} == {(1.0, 0.5)}
    assert [row["response"] for row in rows] == [row["response"] for row in sum_rows(3, repeats=2)]
    assert not any(name.startswith("_ng_transient") for row in rows for name in row)


def test_a_judge_that_cannot_be_reached_ends_the_run(rescore: Rescore, sums_file: Path, tmp_path: Path) -> None:
    """Before anything is scored, with code 3, and without an output."""
    ran = rescore("+verifier=judge", "+verifier.base_url=http://127.0.0.1:9/v1", "+wait_for_agent_s=0.1")
    assert ran.code == 3, ran.stderr
    assert not (tmp_path / "new.jsonl").exists()
    assert "Changed scores" not in ran.stderr


def test_an_error_before_the_run_prints_no_table_of_an_older_output(
    rescore: Rescore, sums_file: Path, tmp_path: Path
) -> None:
    """The older output and its summary stay as they are."""
    assert rescore("+verifier=exact_match").code == 0
    before = files_in(tmp_path)
    for arguments in (
        ["+verifier=judge", "+verifier.base_url=http://127.0.0.1:9/v1", "+wait_for_agent_s=0.1"],
        ["+verifier=mcqa"],
    ):
        ran = rescore(*arguments, "+overwrite=true")
        assert ran.code in (2, 3)
        assert "Changed scores" not in ran.stderr
    assert files_in(tmp_path) == before


def test_the_table_of_changes(rescore: Rescore, tmp_path: Path) -> None:
    """Flips by direction, agreement and kappa, and the largest changes; the summary file has them as well."""
    rows = [row | {"reward": [0.0, 0.0, 1.0, 1.0][row["_ng_task_index"]]} for row in sum_rows(4)]
    write_rows(tmp_path / "rollouts.jsonl", rows)
    ran = rescore("+verifier=exact_match")
    assert "Changed scores: 2 of 4 rollouts with a score before and now" in ran.stderr
    assert "Agreement of before and now: 50.0% of 4 rollouts, Cohen's kappa 0.000" in ran.stderr
    assert "0 to 1  task 0, rollout 0" in ran.stderr
    assert "1 to 0  task 3, rollout 0" in ran.stderr
    changes = json.loads((tmp_path / "new_summary.json").read_text())["score_changes"]
    assert (changes["to_one"], changes["to_zero"], changes["unchanged"]) == (1, 1, 2)


def test_agreement_with_labels(rescore: Rescore, tmp_path: Path) -> None:
    """The reward is compared with the labels of a field, in words or numbers; rows without one are counted."""
    labels: list[Any] = ["correct", False, 1, "Yes", None]
    rows = [row | {"human": {"label": labels[row["_ng_task_index"]]}} for row in sum_rows(5)]
    write_rows(tmp_path / "rollouts.jsonl", rows)
    ran = rescore("+verifier=exact_match", "+agreement_with=human.label", "+quiet=true")
    assert ran.code == 0, ran.stderr
    assert ran.stderr == ""
    agreement = json.loads((tmp_path / "new_summary.json").read_text())["agreement_with"]
    assert (agreement["field"], agreement["pairs"], agreement["agreeing"]) == ("human.label", 4, 3)
    assert agreement["confusion"] == {"labels": [0.0, 1.0], "counts": [[1, 0], [1, 2]]}
    assert agreement["without_first"] == 1


def test_bad_labels_are_found_before_anything_is_scored(
    rescore: Rescore, judge: list[str], serve_model: Callable[..., Served], tmp_path: Path
) -> None:
    """Also in rows that are not scored; and a field that no row has is an error."""
    rows = [row | {"human": ["yes", "maybe"][row["_ng_task_index"] % 2]} for row in sum_rows(4)]
    rows[1]["response"] = None
    write_rows(tmp_path / "rollouts.jsonl", rows)
    ran = rescore(*judge, "+agreement_with=human")
    assert ran.code == 2
    assert "2 rollouts, such as task 1, rollout 0: human: 'maybe' is not a label" in ran.stderr
    ran = rescore(*judge, "+agreement_with=humen")
    assert (ran.code, ran.stderr) == (2, "error: agreement_with=humen: no rollout has a label in this field\n")
    assert not (tmp_path / "new.jsonl").exists()


def test_case_17_failed_judges(rescore: Rescore, tmp_path: Path) -> None:
    """With `only=failed`, the first answer of a failed judge is scored, and other rows are copied."""
    copy_case_17(tmp_path)
    ran = rescore("+verifier=exact_match", "+only=failed", "+training_view=false")
    assert ran.code == 1, ran.stderr
    rows = read_rows(tmp_path / "new.jsonl")
    assert [(row["response"]["id"], row["reward"]) for row in rows] == [("r0", 1.0), ("r1", 0.0), ("r2", 0.0)]
    assert [row.get("_ng_rescored", False) for row in rows] == [False, False, True]
    assert rows[1]["invalid_judge_response"] is True
    assert "previous_reward" not in rows[2]  # NeMo Gym's line has a 0 that no verifier gave
    assert rows[2]["deliverables_dir"] == "/d"
    [line] = read_rows(tmp_path / "new_failures.jsonl")
    assert (line["_ng_task_index"], line["failure_class"]) == (3, "agent_run_error")


def test_case_17_all_rollouts(rescore: Rescore, tmp_path: Path) -> None:
    """All answers are scored with the fields of the planned rows; the flag of the failed judge is gone."""
    copy_case_17(tmp_path)
    ran = rescore("+verifier=exact_match", "+training_view=false")
    assert ran.code == 1, ran.stderr
    rows = read_rows(tmp_path / "new.jsonl")
    assert [(row["response"]["id"], row["expected_answer"]) for row in rows] == [("r0", "0"), ("r1", "1"), ("r2", "2")]
    assert [row.get("previous_reward") for row in rows] == [1.0, 0.0, None]
    assert all(row["responses_create_params"] == {"input": "q"} for row in rows)
    assert not any("invalid_judge_response" in row for row in rows)


def test_a_failure_can_be_scored_again_and_again(rescore: Rescore, tmp_path: Path) -> None:
    """What fails in each of several rescorings keeps its class and its row."""
    copy_case_17(tmp_path)
    source = "rollouts.jsonl"
    for number in range(3):
        output = f"new{number}.jsonl"
        assert rescore("+verifier=exact_match", "+only=failed", source=source, output=output).code == 1
        source = output
    [first] = read_rows(tmp_path / "new0_failures.jsonl")
    [last] = read_rows(tmp_path / "new2_failures.jsonl")
    assert last["row"] == first["row"]
    assert last["failure_class"] == "agent_run_error"


def copy_case_17(folder: Path) -> None:
    for name, end in (("rollouts", ""), ("rollouts_failures", "_failures"), ("inputs", "_materialized_inputs")):
        shutil.copy(CASES / f"17_{name}.jsonl", folder / f"rollouts{end}.jsonl")


def test_trajectories_are_scored_again(command: Callable[..., Ran], rescore: Rescore, tmp_path: Path) -> None:
    """ATIF trajectories that were exported from rollouts get the same scores as the rollouts."""
    write_rows(tmp_path / "rollouts.jsonl", sum_rows(4, repeats=2))
    export = ["+input_jsonl_fpath=rollouts.jsonl", "+output_jsonl_fpath=atif.jsonl", "+recipe=atif"]
    assert command(*export, script="ng_export_rollouts").code == 0
    assert rescore("+verifier=exact_match").code == 0
    ran = rescore("+verifier=exact_match", source="atif.jsonl", output="of_atif.jsonl")
    assert ran.code == 0, ran.stderr
    scores = [[(row["reward"], row["previous_reward"]) for row in read_rows(tmp_path / name)] for name in OUTPUTS]
    assert scores[0] == scores[1]
    assert keys_of(tmp_path / "of_atif.jsonl") == keys_of(tmp_path / "rollouts.jsonl")


OUTPUTS = ("new.jsonl", "of_atif.jsonl")


def test_one_printed_trajectory_is_scored(rescore: Rescore, tmp_path: Path) -> None:
    """A file with one trajectory of another program, over several lines, is one rollout."""
    trajectory = json.loads((CASES / "15_atif.json").read_text())
    (tmp_path / "rollouts.jsonl").write_text(json.dumps(trajectory, indent=2))
    tasks = write_rows(tmp_path / "tasks.jsonl", [{"expected_answer": "7"}])
    ran = rescore("+verifier=exact_match", f"+tasks_jsonl_fpath={tasks}")
    assert ran.code == 0, ran.stderr
    assert len(read_rows(tmp_path / "new.jsonl")) == 1


def test_a_python_function_gives_its_fields(rescore: Rescore, sums_file: Path, tmp_path: Path) -> None:
    """The function gets the row of the task without the previous verdict, and the response."""
    (tmp_path / "own.py").write_text(
        "def score(row, response):\n"
        "    return {'reward': len(response['output']), 'saw': 'reward' in row, 'gold': row['expected_answer']}\n"
    )
    ran = rescore("+verifier=python", "+verifier.function=own.py:score", "+training_view=false")
    assert ran.code == 0, ran.stderr
    assert [(row["reward"], row["saw"]) for row in read_rows(tmp_path / "new.jsonl")] == [(1, False)] * 4


def test_compressed_rollouts_are_scored(rescore: Rescore, sums_file: Path, tmp_path: Path) -> None:
    """A compressed source gives the same output as a plain one."""
    subprocess.run(["gzip", "-k", sums_file], check=True)
    assert rescore("+verifier=exact_match").code == 0
    sums_file.unlink()
    ran = rescore("+verifier=exact_match", source="rollouts.jsonl.gz", output="of_gz.jsonl")
    assert ran.code == 0, ran.stderr
    assert (tmp_path / "of_gz.jsonl").read_bytes() == (tmp_path / "new.jsonl").read_bytes()


def test_a_file_that_a_run_is_writing_is_refused(rescore: Rescore, sums_file: Path) -> None:
    """Its rows would change while they are scored."""
    import fcntl

    with sums_file.open("a") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        ran = rescore("+verifier=exact_match")
    assert ran.code == 2
    assert f"is being written by process {os.getpid()}: wait for its end" in ran.stderr


def test_rollouts_without_a_reward_are_scored(rescore: Rescore, tmp_path: Path) -> None:
    """With `only=unscored`; the averages are those of the new scores."""
    rows = [rollout_row(task, 0, None, "3", expected_answer="3") for task in range(2)]
    write_rows(tmp_path / "rollouts.jsonl", rows)
    ran = rescore("+verifier=exact_match", "+only=unscored")
    assert ran.code == 0, ran.stderr
    assert ran.averages == {"reward": 1.0, "accuracy": 1.0}


def test_nested_fields_select_rows_among_others(rescore: Rescore, tmp_path: Path) -> None:
    """`where` compares the fields that it names, whichever others a row has; what is copied is not in the table."""
    rows = sum_rows(6)
    for number, row in enumerate(rows):
        row["meta"] = {"subject": "algebra" if number % 2 else "other", "level": number}
    write_rows(tmp_path / "rollouts.jsonl", rows)
    ran = rescore("+verifier=exact_match", "+where.meta.subject=algebra")
    assert ran.code == 0, ran.stderr
    assert [bool(row.get("_ng_rescored")) for row in read_rows(tmp_path / "new.jsonl")] == [False, True] * 3
    assert "scoring 3 of 6 rollouts, copying 3" in ran.stderr
    assert "of 3 rollouts with a score before and now" in ran.stderr
    ran = rescore("+verifier=exact_match", "+where.meta.subject=chemistry", output="none.jsonl")
    assert ran.code == 2
    assert "where: no rollout has meta.subject='chemistry'" in ran.stderr


def test_an_unfinished_source_is_named(rescore: Rescore, command: Callable[..., Ran], tmp_path: Path) -> None:
    """A source that lacks planned rollouts is scored with a warning, and refused by a judge that needs whole groups."""
    write_rows(tmp_path / "rollouts.jsonl", sum_rows(3))
    assert rescore("+verifier=exact_match").code == 0
    lines = (tmp_path / "new.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "new.jsonl").write_text("".join(lines[:2]))
    ran = rescore("+verifier=exact_match", source="new.jsonl", output="newer.jsonl")
    assert ran.code == 0, ran.stderr
    assert "has 2 of 3 planned rollouts, so its run is not finished" in ran.stderr
    judge = ["+verifier=group_judge", "+verifier.base_url=http://127.0.0.1:9/v1"]
    ran = rescore(*judge, source="new.jsonl", output="judged.jsonl")
    assert ran.code == 2
    assert "a judge of groups needs whole groups" in ran.stderr


def test_labels_may_be_scores_of_another_verifier(rescore: Rescore, tmp_path: Path) -> None:
    """The new scores can be compared with those of another verifier of the same command, but not with themselves."""
    write_rows(tmp_path / "rollouts.jsonl", sum_rows(4))
    two = ["+verifiers.strict=exact_match", "+verifiers.loose=math"]
    ran = rescore(*two, "+agreement_with=loose_reward")
    assert ran.code == 0, ran.stderr
    assert "Agreement of loose_reward and reward: 100.0% of 4 rollouts" in ran.stderr
    assert "is the new score itself" in rescore(*two, "+agreement_with=reward", output="x.jsonl").stderr
