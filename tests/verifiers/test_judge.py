"""The judge: its prompt, its verdicts, and its failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ng_rollouts.verifiers.judge_verdict import read_verdict
from tests.conftest import Ran, read_rows
from tests.servers import Served


@pytest.mark.parametrize(
    ("verdict", "reward"),
    [("VERDICT: CORRECT", 1.0), ("I think.\nVerdict: **incorrect**", 0.0), ("VERDICT: 0.25", 0.25)],
)
def test_judge_verdict_is_the_reward(
    serve_model: Callable[..., Served],
    command: Callable[..., Ran],
    tasks: Callable[..., Path],
    tmp_path: Path,
    verdict: str,
    reward: float,
) -> None:
    """A judge with its own endpoint receives the filled template, and its verdict becomes the reward."""
    policy, judge = serve_model(), serve_model(text=verdict, models=["judge"])
    tasks([{"responses_create_params": {"input": "Say something on 1 + 1"}, "expected_answer": "2", "topic": "sums"}])
    (tmp_path / "prompt.txt").write_text("On {topic}: is {response} the same as {expected_answer}? {question}")
    ran = command(
        f"+policy_base_url={policy.url}/v1",
        "+verifier=judge",
        f"+verifier.base_url={judge.url}/v1",
        "+verifier.template=prompt.txt",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=rollouts.jsonl",
    )
    assert ran.code == 0, ran.stderr
    assert read_rows(tmp_path / "rollouts.jsonl")[0]["reward"] == reward
    prompt = judge.stats()["last"][-1]["input"][0]["content"]
    assert prompt == "On sums: is So it is \\boxed{2}. the same as 2? Say something on 1 + 1"


def test_unreadable_verdict_is_requested_again_and_then_fails(
    serve_model: Callable[..., Served], command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Without a verdict in three replies, the rollout fails with `judge_unreadable`; it does not get reward 0."""
    policy, judge = serve_model(), serve_model(text="Hard to say.", models=["judge"])
    tasks([{"responses_create_params": {"input": "1 + 1"}, "expected_answer": "2"}])
    ran = command(
        f"+policy_base_url={policy.url}/v1",
        "+verifier=judge",
        f"+verifier.base_url={judge.url}/v1",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=rollouts.jsonl",
    )
    assert ran.code == 1
    assert ran.averages == {}
    (failure,) = read_rows(tmp_path / "rollouts_failures.jsonl")
    assert failure["failure_class"] == "judge_unreadable"
    assert judge.stats()["asked"]["/v1/responses"] == 3
    assert policy.stats()["asked"]["/v1/responses"] == 1


@pytest.mark.parametrize(
    "verdict",
    [
        "VERDICT: NOT SURE",
        "VERDICT: 10/10",
        "verdict: nothing",
        "VERDICT: CORRECT\nVERDICT: hard to say",
        "VERDICT: no idea",
        '{"verdict": "partially"}',
        "I would call this correct.",
    ],
)
def test_ambiguous_verdict_is_unreadable(verdict: str) -> None:
    """An ambiguous verdict counts neither as correct nor as incorrect, and no earlier one takes its place."""
    assert read_verdict(verdict) is None


@pytest.mark.parametrize(
    ("verdict", "score"),
    [
        ("VERDICT: 0.25.", 0.25),
        ("Verdict: **Correct**", 1.0),
        ("verdict: no", 0.0),
        ("VERDICT: NOT CORRECT", 0.0),
        ("VERDICT: CORRECT because both are 7", 1.0),
        ('{"reasoning": "The sign is off.", "verdict": "INCORRECT"}', 0.0),
        ('```json\n{"score": 0.5}\n```', 0.5),
    ],
)
def test_verdict_is_read_with_markup_negation_and_reasons(verdict: str, score: float) -> None:
    """Markup around a verdict is ignored, a negation is read, and a reason may follow."""
    assert read_verdict(verdict) == score


def test_json_verdict_is_requested_with_a_schema(
    serve_model: Callable[..., Served], command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """With `verdict_format=json`, the request has the schema of the verdict, and the reply is read as JSON."""
    policy = serve_model()
    judge = serve_model(
        text='{"reasoning": "VERDICT: CORRECT at first sight", "verdict": "INCORRECT"}', models=["judge"]
    )
    tasks([{"responses_create_params": {"input": "1 + 1"}, "expected_answer": "2"}])
    ran = command(
        f"+policy_base_url={policy.url}/v1",
        "+verifier=judge",
        f"+verifier.base_url={judge.url}/v1",
        "+verifier.verdict_format=json",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=rollouts.jsonl",
    )
    assert ran.code == 0, ran.stderr
    assert read_rows(tmp_path / "rollouts.jsonl")[0]["reward"] == 0.0
    request = judge.stats()["last"][-1]
    assert request["text"]["format"]["schema"]["properties"]["verdict"]["enum"] == ["CORRECT", "INCORRECT"]
    assert "JSON" in request["input"][0]["content"]


@pytest.mark.parametrize(
    "text", ["#### \n" * 20_000, "\n> " * 20_000, "verdict: " * 20_000], ids=["headings", "quotes", "labels"]
)
def test_time_to_read_a_verdict_is_bounded_for_degenerate_text(text: str) -> None:
    """Reading a verdict does not take quadratic time: it runs in the event loop."""
    began = time.process_time()
    read_verdict(text)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "verdict", ["CORRECT only if units are ignored", "CORRECT except for the sign", "CORRECT?", "CORRECT -> INCORRECT"]
)
def test_verdict_that_is_taken_back_is_unreadable(verdict: str) -> None:
    """A condition behind "correct" makes it unreadable; a reason may have any words."""
    assert read_verdict(f"VERDICT: {verdict}") is None
    assert read_verdict("VERDICT: CORRECT because it is not 5") == 1.0
    assert read_verdict("VERDICT: INCORRECT, the sign is wrong") == 0.0
