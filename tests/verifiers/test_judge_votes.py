"""Several votes and several judges: requests, majority, agreement, keys, and comparison with a reference."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.verifiers.judge import fields_of
from ng_rollouts.verifiers.judge_verdict import read_preference
from ng_rollouts.verifiers.registry import build_verifier, judges_of, verifier_options
from tests.conftest import Ran, assert_rejected_before_sending, read_rows
from tests.servers import Served
from tests.verifiers.grading import SameProcess, response_of

ROW = {"responses_create_params": {"input": "1 + 1"}, "expected_answer": "2"}

Collect = Callable[..., Ran]
Serve = Callable[..., Served]


def requests_of(server: Served) -> list[Any]:
    """The requests for a response that a model server got."""
    requests: list[Any] = server.stats()["last"]
    return requests


def test_votes_of_one_judge_are_requests_that_can_differ(
    serve_model: Serve, collect_sums: Collect, tmp_path: Path
) -> None:
    """`votes=3` sends the same prompt three times with temperature 1; the row has all votes and their agreement."""
    policy, judge = serve_model(), serve_model(text="VERDICT: CORRECT", models=["judge"])
    options = ["+verifier=judge", f"+verifier.base_url={judge.url}/v1", "+verifier.votes=3"]
    ran = collect_sums(policy.url, *options, rows=[ROW])
    assert ran.code == 0, ran.stderr
    (row,) = read_rows(tmp_path / "rollouts.jsonl")
    assert (row["reward"], row["accuracy"]) == (1.0, True)
    assert (row["judge_votes"], row["judge_agreement"]) == ([1.0, 1.0, 1.0], 1.0)
    assert row["judgement"] == "VERDICT: CORRECT"
    assert [request["temperature"] for request in requests_of(judge)] == [1.0] * 3
    assert len({request["input"][0]["content"] for request in requests_of(judge)}) == 1
    averages = ran.averages
    assert "judge_agreement" in json.dumps(averages)


def test_each_vote_has_its_own_seed(serve_model: Serve, collect_sums: Collect) -> None:
    """With a seed, the votes of a judge have consecutive seeds, and no temperature is added."""
    policy, judge = serve_model(), serve_model(text="VERDICT: CORRECT", models=["judge"])
    options = ["+verifier=judge", f"+verifier.base_url={judge.url}/v1", "+verifier.votes=3"]
    ran = collect_sums(policy.url, *options, "+verifier.responses_create_params.seed=7", rows=[ROW])
    assert ran.code == 0, ran.stderr
    assert sorted(request["seed"] for request in requests_of(judge)) == [7, 8, 9]
    assert all("temperature" not in request for request in requests_of(judge))


def test_judges_vote_with_their_own_keys_and_models(serve_model: Serve, collect_sums: Collect, tmp_path: Path) -> None:
    """Each judge gets its own key and model, votes are in the order of the judges, and no key is in any file."""
    policy = serve_model()
    judges = [
        serve_model(text="VERDICT: CORRECT", models=["a"], key="first-secret-key"),
        serve_model(text="VERDICT: INCORRECT", models=["b"], key="second-secret-key"),
        serve_model(text="VERDICT: CORRECT", models=["c"]),
    ]
    entries = ",".join(
        f"{{base_url:'{judge.url}/v1',model:{model}{f',api_key:{key}' if key else ''}}}"
        for judge, model, key in zip(judges, "abc", ("first-secret-key", "second-secret-key", ""), strict=True)
    )
    ran = collect_sums(policy.url, "+verifier=judge", f"+verifier.judges=[{entries}]", rows=[ROW])
    assert ran.code == 0, ran.stderr
    (row,) = read_rows(tmp_path / "rollouts.jsonl")
    assert (row["reward"], row["judge_votes"]) == (1.0, [1.0, 0.0, 1.0])
    assert row["judge_agreement"] == pytest.approx(2 / 3)
    assert all(len(requests_of(judge)) == 1 for judge in judges)
    assert "temperature" not in requests_of(judges[0])[0]
    written = ran.stdout + ran.stderr + "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())
    assert "first-secret-key" not in written
    assert "second-secret-key" not in written
    manifest = (tmp_path / "rollouts_manifest.json").read_text()
    assert '"judges"' in manifest
    assert judges[0].url not in manifest


def test_vote_that_cannot_be_read_fails_the_rollout(serve_model: Serve, collect_sums: Collect, tmp_path: Path) -> None:
    """A judge that gives no verdict fails the rollout, although the other two agree: the jury never gets smaller."""
    policy, sure = serve_model(), serve_model(text="VERDICT: CORRECT", models=["sure"])
    unsure = serve_model(text="Hard to say.", models=["unsure"])
    entries = f"{{base_url:'{sure.url}/v1'}},{{base_url:'{unsure.url}/v1'}},{{base_url:'{sure.url}/v1'}}"
    options = ["+verifier=judge", f"+verifier.judges=[{entries}]", "+verifier.attempts=2"]
    ran = collect_sums(policy.url, *options, rows=[ROW])
    assert ran.code == 1
    (failure,) = read_rows(tmp_path / "rollouts_failures.jsonl")
    assert failure["failure_class"] == "judge_unreadable"
    assert len(requests_of(unsure)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["votes=2"], "verifier.votes must be odd"),
        (["votes=0"], "verifier.votes must be a positive integer"),
        (["judges=[{model:a},{model:b}]", "votes=3"], "must be a multiple of the number of judges (2)"),
        (["votes=3", "responses_create_params.temperature=0"], "makes all votes of a judge the same"),
        (["judges=[{modle:a}]"], "did you mean model"),
        (["judges=a"], "must be a list of objects"),
        (["judges=[{model:a,api:chat}]"], "verifier.judges.api must be one of auto"),
        (["compare_with=expected_answer", "answer_field=x"], "has no effect with verifier.compare_with"),
        (["compare_with=other"], "the verifier needs the field 'other'"),
        (["compare_with=expected_answer", "template={first}?"], "needs the placeholder {second}"),
    ],
)
def test_mistake_in_votes_and_judges_is_reported_before_any_request(
    serve_model: Serve, collect_sums: Collect, options: list[str], message: str
) -> None:
    """Options under which votes cannot be counted, or could not differ, end the command with exit code 2."""
    server = serve_model()
    arguments = ["+verifier=judge", *(f"+verifier.{option}" for option in options)]
    assert_rejected_before_sending(collect_sums(server.url, *arguments, rows=[ROW]), server, message)


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        ({}, {"base_url": "http://a", "api_key": "k", "model": "m"}),
        ({"model": "n"}, {"base_url": "http://a", "api_key": "k", "model": "n"}),
        ({"base_url": "http://a", "model": "n"}, {"base_url": "http://a", "api_key": "k", "model": "n"}),
        ({"base_url": "http://b"}, {"base_url": "http://b"}),
        ({"base_url": "http://b", "api_key": "l"}, {"base_url": "http://b", "api_key": "l"}),
    ],
)
def test_key_of_the_verifier_is_not_sent_to_another_url(judge: Any, expected: Any) -> None:
    """A judge takes key and model from the verifier only if it has the verifier's URL."""
    options = {"base_url": "http://a", "api_key": "k", "model": "m", "judges": [judge]}
    assert judges_of(options) == [expected]


@pytest.mark.parametrize(
    ("scores", "reward", "accuracy", "agreement"),
    [
        ([1.0, 0.0, 1.0], 1.0, True, 2 / 3),
        ([0.0, 0.0, 1.0], 0.0, False, 2 / 3),
        ([1.0, 0.0], 0.5, False, 0.5),
        ([0.2, 0.9, 0.7], 0.7, True, 2 / 3),
        ([0.4, 0.6], 0.5, False, 0.5),
    ],
    ids=["correct", "incorrect", "tie", "graded", "graded tie"],
)
def test_median_is_the_reward_and_the_majority_the_accuracy(
    scores: list[float], *, reward: float, accuracy: bool, agreement: float
) -> None:
    """The reward is the median of the votes; a tie has reward 0.5 and is not accurate."""
    fields = fields_of([(score, f"text {score}") for score in scores], lambda score: score >= 0.5)
    assert fields["reward"] == pytest.approx(reward)
    assert (fields["accuracy"], fields["judge_agreement"]) == (accuracy, pytest.approx(agreement))


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=9))
def test_judgement_is_that_of_a_vote_with_the_majority(scores: list[float]) -> None:
    """The judgement's score is on the side that most votes are on, and the agreement is at least a half."""
    fields = fields_of([(score, str(score)) for score in scores], lambda score: score >= 0.5)
    assert (float(fields["judgement"]) >= 0.5) == fields["accuracy"]
    assert fields.get("judge_agreement", 1.0) >= 0.5
    assert min(scores) <= fields["reward"] <= max(scores)


@pytest.mark.parametrize(
    ("verdict", "preference"),
    [
        ("VERDICT: A", 1.0),
        ("**Verdict:** B.", 0.0),
        ("### Verdict\nB", 0.0),
        ("Verdict: it's a tie", 0.5),
        ("VERDICT: [[A]]", 1.0),
        ("VERDICT: Answer B is better", 0.0),
        ("VERDICT: B because A is wrong", 0.0),
        ('{"reasoning": "A is longer.", "verdict": "TIE"}', 0.5),
        ("VERDICT: A or B", None),
        ("VERDICT: A/B", None),
        ("VERDICT: A, but B is shorter", None),
        ("VERDICT: A\nWait, B is better.", None),
        ("VERDICT: C", None),
        ("VERDICT: A\nVERDICT: hard to say", None),
        ("A is better.", None),
    ],
)
def test_preference_is_one_of_three_words(verdict: str, preference: float | None) -> None:
    """A preference is A, B or a tie, with a reason at most; everything else is unreadable."""
    assert read_preference(verdict) == preference


def test_comparison_counts_only_if_the_order_does_not_matter(
    serve_model: Serve, collect_sums: Collect, tmp_path: Path
) -> None:
    """A judge that always prefers the first answer makes a tie; it is asked twice, with the answers swapped."""
    policy, judge = serve_model(text="mine"), serve_model(text="VERDICT: A", models=["judge"])
    options = ["+verifier=judge", f"+verifier.base_url={judge.url}/v1", "+verifier.compare_with=expected_answer"]
    ran = collect_sums(policy.url, *options, "+verifier.template=[{first}|{second}]", rows=[ROW])
    assert ran.code == 0, ran.stderr
    (row,) = read_rows(tmp_path / "rollouts.jsonl")
    assert (row["reward"], row["accuracy"], row["expected_answer"]) == (0.5, False, "2")
    assert row["judge_agreement"] == 0
    assert sorted(request["input"][0]["content"] for request in requests_of(judge)) == ["[2|mine]", "[mine|2]"]


class _ByContent:
    """A judge that prefers the greater of two texts."""

    load_balancer = None

    async def respond(self, params: Any, task: int) -> Any:
        first, second = params["input"][0]["content"].split("|")
        return response_of(f"VERDICT: {'A' if first > second else 'B'}")


@pytest.mark.parametrize(("answer", "reward"), [("z", 1.0), ("a", 0.0), ("m", 0.5)])
def test_consistent_preference_is_the_reward(answer: str, reward: float) -> None:
    """An answer that is better than the reference in both orders has reward 1, and equal texts are a tie."""
    options = verifier_options({"kind": "judge", "compare_with": "gold", "template": "{first}|{second}"})
    judge: Any = _ByContent()
    pool: Any = SameProcess()
    row = {"_ng_task_index": 0, "responses_create_params": {"input": "?"}, "gold": "m"}
    fields = asyncio.run(build_verifier(options, pool, lambda _: judge).verify(row, response_of(answer)))
    assert (fields["reward"], fields["accuracy"]) == (reward, reward == 1.0)


def test_resume_accepts_other_addresses_and_keys_of_judges_only(serve_model: Serve, collect_sums: Collect) -> None:
    """A resume with judges at other addresses and with other keys continues; one with another model is refused."""
    policy, first, second = serve_model(), *(serve_model(text="VERDICT: CORRECT", models=["a", "b"]) for _ in "12")

    def collect(judge: Served, model: str, key: str) -> Ran:
        judges = f"[{{base_url:'{judge.url}/v1',model:{model},api_key:{key}}}]"
        return collect_sums(
            policy.url, "+verifier=judge", f"+verifier.judges={judges}", "+resume_from_cache=true", rows=[ROW]
        )

    assert collect(first, "a", "key-of-the-first").code == 0
    resumed = collect(second, "a", "key-of-the-second")
    assert resumed.code == 0, resumed.stderr
    refused = collect(second, "b", "key-of-the-second")
    assert refused.code == 2
    assert "verifier" in refused.stderr
