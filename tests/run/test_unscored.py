"""An answer survives its verifier: it is kept, counted, and scored later without asking the model."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.run.status_file import status_of
from ng_rollouts.scheduling.counters import RunCounters
from tests.conftest import RESUME, Ran, ended, keys_of, read_rows, start, sums, wait_until
from tests.servers import Served

ServeModel = Callable[..., Served]
CollectSums = Callable[..., Ran]

MODEL_PATHS = {"/v1/responses", "/v1/chat/completions"}


def judged_by(judge: Served) -> list[str]:
    """The arguments for a judge that is asked once for each answer."""
    return ["+verifier=judge", f"+verifier.base_url={judge.url}/v1", "+verifier.attempts=1"]


def answered(server: Served) -> int:
    """The number of model requests that a server received."""
    asked = server.stats()["asked"]
    return sum(asked.get(path, 0) for path in MODEL_PATHS)


def test_answers_of_a_judge_that_is_down_are_scored_by_a_resume(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """All answers of a run whose judge always fails are kept; a resume scores them and asks the model nothing.

    More rollouts fail in the same way than a circuit breaker allows, because nothing is lost. The tokens are those of the
    first run, so that a token budget of the second has no effect.
    """
    model, judge = serve_model(), serve_model(models=["judge"], fail={"500": 1.0})
    ran = collect_sums(f"{model.url}", "+num_repeats=2", *judged_by(judge), rows=15)
    assert ran.code == 1, ran.stderr
    failures = read_rows(tmp_path / "rollouts_failures.jsonl")
    assert len(failures) == answered(model) == 30
    assert all(row["response"]["output"] and row["num_attempts"] == 1 for row in failures)
    assert all(row["responses_create_params"]["input"] for row in failures)
    line = (
        "30 failed, 30 of them unscored: their answers are in rollouts_failures.jsonl; +resume_from_cache=true scores"
    )
    assert f"{line} them again without asking the model" in ran.stderr
    assert "unscored=30" in ran.stderr
    summary = json.loads((tmp_path / "rollouts_summary.json").read_text())
    assert (summary["failed"], summary["unscored"]) == (30, 30)

    other, up = serve_model(wrong=1.0), serve_model(models=["judge"], text="VERDICT: CORRECT")
    ran = collect_sums(other.url, "+num_repeats=2", "+max_total_tokens=1", *judged_by(up), RESUME, rows=15)
    assert ran.code == 0, ran.stderr
    assert (answered(other), answered(up)) == (0, 30)
    assert keys_of(tmp_path / "rollouts.jsonl") == [(task, repeat) for task in range(15) for repeat in (0, 1)]
    by_key = {(row["_ng_task_index"], row["_ng_rollout_index"]): row["response"] for row in failures}
    for row in read_rows(tmp_path / "rollouts.jsonl"):
        assert row["response"] == by_key[row["_ng_task_index"], row["_ng_rollout_index"]]
        assert (row["reward"], row["_ng_task_fields"]["expected_answer"]) == (1.0, row["expected_answer"])
    assert not (tmp_path / "rollouts_failures.jsonl").exists()
    resumed = json.loads((tmp_path / "rollouts_summary.json").read_text())
    assert resumed["unscored"] == 0
    assert resumed["tokens"] == resumed["tokens_before"] != {"input": 0, "output": 0}


def test_kill_during_scoring_loses_no_kept_answer(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """After `kill -9` while a resume scores kept answers, the next resume has all of them."""
    model, down = serve_model(), serve_model(models=["judge"], fail={"500": 1.0})
    assert collect_sums(model.url, *judged_by(down)).code == 1
    slow = serve_model(models=["judge"], text="VERDICT: CORRECT", latency=300)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=rollouts.jsonl"]
    killed = start(tmp_path, f"+policy_base_url={model.url}/v1", *files, *judged_by(slow), RESUME)
    wait_until(lambda: slow.stats()["in_flight"] == 5 or killed.poll() is not None)
    killed.kill()
    killed.wait()
    assert len([row for row in read_rows(tmp_path / "rollouts_failures.jsonl") if "response" in row]) == 5
    up = serve_model(models=["judge"], text="VERDICT: CORRECT")
    ran = collect_sums(model.url, *judged_by(up), RESUME)
    assert (ran.code, answered(model)) == (0, 5), ran.stderr
    assert keys_of(tmp_path / "rollouts.jsonl") == [(task, 0) for task in range(5)]


def test_interrupt_during_scoring_loses_no_answer(
    serve_model: ServeModel, collect_sums: CollectSums, tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Answers whose scoring is cut off by Ctrl-C are in the failures file; a resume does not ask the model again."""
    tasks(sums(5))
    model, slow = serve_model(), serve_model(models=["judge"], text="VERDICT: CORRECT", latency=300)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=rollouts.jsonl"]
    stopped = start(tmp_path, f"+policy_base_url={model.url}/v1", *files, *judged_by(slow), "+drain_s=0")
    wait_until(lambda: slow.stats()["in_flight"] == 5 or stopped.poll() is not None)
    stopped.send_signal(signal.SIGINT)
    ran = ended(stopped)
    assert ran.code == 130, ran.stderr
    assert all(row["response"]["output"] for row in read_rows(tmp_path / "rollouts_failures.jsonl"))
    up = serve_model(models=["judge"], text="VERDICT: CORRECT")
    ran = collect_sums(model.url, *judged_by(up), RESUME)
    assert (ran.code, answered(model)) == (0, 5), ran.stderr
    assert keys_of(tmp_path / "rollouts.jsonl") == [(task, 0) for task in range(5)]


def test_answer_survives_a_second_failure_and_failures_of_other_kinds(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """Answers that a resume cannot score either stay in the file, once, with all attempts counted."""
    model, down = serve_model(), serve_model(models=["judge"], fail={"500": 1.0})
    for attempts in (1, 2, 3):
        assert collect_sums(model.url, *judged_by(down), *([RESUME] if attempts > 1 else [])).code == 1
        rows = read_rows(tmp_path / "rollouts_failures.jsonl")
        assert [row["num_attempts"] for row in rows] == [attempts] * 5
        assert all(row["response"]["output"] for row in rows)
    assert answered(model) == 5


@pytest.mark.parametrize("returned", ["float('nan')", "{'score': 1}", "1 / 0"])
def test_answer_without_a_valid_score_is_kept(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path, returned: str
) -> None:
    """A verifier that raises, or returns no finite reward, leaves a failure with the answer."""
    (tmp_path / "grade.py").write_text(f"def grade(row, response):\n    return {returned}\n")
    ran = collect_sums(serve_model().url, "+verifier=python", "+verifier.function=grade.py:grade", rows=1)
    assert ran.code == 1
    [failure] = read_rows(tmp_path / "rollouts_failures.jsonl")
    assert failure["response"]["output"]
    assert "1 failed, 1 of them unscored" in ran.stderr


def test_answer_survives_the_time_limit_of_its_attempt(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """If `rollout_timeout_s` ends while an answer is scored, the answer is kept and the model is not asked again."""
    (tmp_path / "grade.py").write_text(
        "import asyncio\n\nasync def grade(row, response):\n    await asyncio.Event().wait()\n"
    )
    model = serve_model()
    grade = ["+verifier=python", "+verifier.function=grade.py:grade", "+verifier.seconds=300"]
    assert collect_sums(model.url, *grade, "+rollout_timeout_s=1", rows=2).code == 1
    rows = read_rows(tmp_path / "rollouts_failures.jsonl")
    assert [row["failure_class"] for row in rows] == ["timeout", "timeout"]
    assert all(row["response"]["output"] for row in rows)
    assert answered(model) == 2


def test_answer_without_a_manifest_is_not_reused(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """Nothing shows that the answers of an output without a manifest are this model's: it is asked again."""
    model, down = serve_model(), serve_model(models=["judge"], fail={"500": 1.0})
    assert collect_sums(model.url, *judged_by(down)).code == 1
    (tmp_path / "rollouts_manifest.json").unlink()
    up = serve_model(models=["judge"], text="VERDICT: CORRECT")
    assert collect_sums(model.url, *judged_by(up), RESUME).code == 0
    assert answered(model) == 10


def test_deferred_scoring_collects_rows_that_say_so(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """With `scoring=defer`, each row says that it has no score, the judge need not be up, and no check complains."""
    model, gone = serve_model(), serve_model(models=["judge"])
    gone.stop()
    ran = collect_sums(model.url, "+scoring=defer", *judged_by(gone), "+num_repeats=2", "+fail_on=[empty,no_tokens]")
    assert ran.code == 0, ran.stderr
    assert ran.averages == {"reward": None}
    assert "ng_rescore_rollouts" in ran.stderr
    assert "no verifier" not in ran.stderr
    rows = read_rows(tmp_path / "rollouts.jsonl")
    assert len(rows) == 10
    assert all(row["_ng_scoring"] == "deferred" and "reward" not in row for row in rows)
    assert all(row["_ng_task_fields"]["expected_answer"] for row in rows)
    summary = json.loads((tmp_path / "rollouts_summary.json").read_text())
    assert (summary["scoring"], summary["problems"]) == ("defer", {})
    manifest = json.loads((tmp_path / "rollouts_manifest.json").read_text())
    assert (manifest["model"]["scoring"], manifest["model"]["verifier"]["kind"]) == ("defer", "judge")

    ran = collect_sums(model.url, "+scoring=defer", *judged_by(gone), "+num_repeats=3", RESUME)
    assert (ran.code, ran.averages) == (0, {"reward": None}), ran.stderr
    assert len(read_rows(tmp_path / "rollouts.jsonl")) == 15
    ran = collect_sums(model.url, *judged_by(gone), "+num_repeats=3", RESUME)
    assert ran.code == 2
    assert "ng_rescore_rollouts" in ran.stderr


def test_deferred_scoring_still_checks_the_tasks(serve_model: ServeModel, collect_sums: CollectSums) -> None:
    """A task that the verifier could never score is reported before the first request."""
    rows: list[Any] = [*sums(2), {"responses_create_params": {"input": "What?"}}]
    model = serve_model()
    ran = collect_sums(model.url, "+scoring=defer", "+verifier=exact_match", rows=rows)
    assert ran.code == 2
    assert answered(model) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["+agent_url={model}", "+agent_name=a"],
        ["+policy_base_url={model}/v1", "+agents.a.url={model}", "+agent_name=a"],
        ["+policy_base_url={model}/v1", "+resources_base_url={model}"],
        ["+policy_base_url={model}/v1", "+min_mean.reward=0.5"],
    ],
)
def test_scoring_that_cannot_be_deferred_is_refused(
    serve_model: ServeModel, command: Callable[..., Ran], tasks: Callable[..., Path], arguments: list[str]
) -> None:
    """Agents and resources servers that score themselves end with exit code 2, before a request."""
    tasks(1)
    model = serve_model(resources=True)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+scoring=defer"]
    ran = command(*files, *(each.format(model=model.url) for each in arguments))
    assert ran.code == 2, ran.stderr
    assert "scoring=defer" in ran.stderr
    assert answered(model) == 0


def test_resume_of_an_output_of_an_earlier_version_is_the_same_run(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """The default of `scoring` is not in the manifest, because manifests without it are of the same run."""
    model = serve_model()
    assert collect_sums(model.url, "+verifier=exact_match").code == 0
    assert "scoring" not in json.loads((tmp_path / "rollouts_manifest.json").read_text())["model"]


def test_status_file_has_the_unscored_answers() -> None:
    """They are among the failed rollouts."""
    status = status_of(RunCounters(planned=9, failed=4, unscored=3), 1.0, 4)
    assert (status["failed"], status["unscored"]) == (4, 3)
