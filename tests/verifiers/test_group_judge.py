"""The group judge: answers of one task against each other, in a list or in pairs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import AttemptFailed, ConfigError, InputError
from ng_rollouts.http.client import TimeLimits, open_http
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.models.client import ModelClient
from ng_rollouts.verifiers.judge_verdict import read_scores
from ng_rollouts.verifiers.registry import build_group_verifier, is_group_verifier, verifier_options
from tests.conftest import Ran, assert_rejected_before_sending
from tests.servers import Served
from tests.verifiers.grading import response_of

TASK = {"_ng_task_index": 3, "responses_create_params": {"input": "Which is best?"}}
ANSWER = re.compile(r'<answer id="(\w+)">\n(.*?)\n</answer>', re.DOTALL)

answer_lists = st.lists(st.sampled_from(["", "a", "b", "c", "dd", "e e"]), min_size=2, max_size=8)


class ByContent:
    """A judge whose verdicts depend on the answers only: the score of an answer is in `scores`, or else its length.

    Attributes:
        prompts: the prompts that it got.
        prefers: the label that it names in a pair, in place of the better answer's.
    """

    load_balancer = None

    def __init__(self, prefers: str = "") -> None:
        self.prompts: list[str] = []
        self.prefers = prefers

    async def respond(self, params: Any, task: int) -> Any:
        """The verdict on the answers in a prompt."""
        prompt = params["input"][0]["content"]
        self.prompts.append(prompt)
        answers = dict(ANSWER.findall(prompt))
        if "VERDICT" not in prompt:
            scores = [{"id": label, "explanation": text, "score": score_of(text)} for label, text in answers.items()]
            return response_of(json.dumps({"scores": scores}))
        better = max(answers, key=lambda label: score_of(answers[label]))
        tie = score_of(answers["A"]) == score_of(answers["B"])
        return response_of(f"VERDICT: {self.prefers or ('TIE' if tie else better)}")


def score_of(text: str) -> float:
    """The score of an answer: its hash in [0, 1], the same in every process."""
    return sum(map(ord, text)) % 11 / 10


def judged(answers: Sequence[str], judge: Any = None, **options: Any) -> list[Any]:
    """The result fields of answers."""
    server: Any = ByContent() if judge is None else judge
    verifier = build_group_verifier(verifier_options({"kind": "group_judge", **options}), lambda _: server)
    verifier.check(TASK)
    return asyncio.run(verifier.verify_group(TASK, [response_of(answer) for answer in answers]))


def rewards_of(fields: Sequence[Any]) -> list[float]:
    """The rewards of result fields."""
    return [each["reward"] for each in fields]


@pytest.mark.parametrize("mode", ["listwise", "pairwise"])
@given(answers=answer_lists, data=st.data())
def test_rewards_follow_the_answers(mode: str, answers: list[str], data: st.DataObject) -> None:
    """Rewards are in [0, 1], equal answers get equal ones, ranks are in their order, and rollouts have no order."""
    fields = judged(answers, mode=mode)
    rewards = rewards_of(fields)
    assert all(0 <= reward <= 1 for reward in rewards)
    assert len({(answer, reward) for answer, reward in zip(answers, rewards, strict=True)}) == len(set(answers))
    for first in fields:
        for second in fields:
            assert (first["reward"] > second["reward"]) == (first["group_rank"] < second["group_rank"])
    order = data.draw(st.permutations(range(len(answers))))
    assert judged([answers[n] for n in order], mode=mode) == [fields[n] for n in order]


@given(answers=answer_lists, votes=st.integers(1, 3))
def test_wins_of_all_pairs_add_up(answers: list[str], votes: int) -> None:
    """Each pair gives one win in total, and the reward is the share of the others that an answer beats."""
    fields = judged(answers, mode="pairwise", votes=votes)
    others = len(answers) - 1
    if len(set(answers)) > 1:
        assert sum(each["group_wins"] for each in fields) == pytest.approx(len(answers) * others / 2)
        assert rewards_of(fields) == pytest.approx([each["group_wins"] / others for each in fields])
    assert sum(rewards_of(fields)) == pytest.approx(len(answers) / 2)


def test_pairwise_compares_each_pair_in_both_orders() -> None:
    """A judge that prefers by content ranks all; each pair of distinct answers is shown once in each order."""
    judge = ByContent()
    fields = judged(["c", "a", "b", "a"], judge, mode="pairwise")
    scores = [score_of(text) for text in "caba"]
    wins = [sum((mine > other) + 0.5 * (mine == other) for other in scores) - 0.5 for mine in scores]
    assert [each["group_wins"] for each in fields] == wins
    shown = [tuple(text for _, text in ANSWER.findall(prompt)) for prompt in judge.prompts]
    assert sorted(shown) == sorted((first, second) for first in "abc" for second in "abc" if first != second)
    assert all(each["judge_agreement"] == 1.0 for each in fields)


def test_preference_for_a_position_is_a_tie() -> None:
    """A judge that always names the first answer gives all answers the same reward, and agreement 0 shows why."""
    fields = judged(["a", "b", "c"], ByContent(prefers="A"), mode="pairwise")
    assert rewards_of(fields) == [0.5] * 3
    assert [each["judge_agreement"] for each in fields] == [0.0] * 3
    assert fields[0]["judgement"] == "won 0, tied 2, lost 0 of 2 comparisons"


def test_listwise_asks_once_and_shows_equal_answers_once() -> None:
    """One request has all distinct answers under labels, and each answer gets its own score and explanation."""
    judge = ByContent()
    fields = judged(["b", "a", "b", ""], judge)
    (prompt,) = judge.prompts
    shown = ANSWER.findall(prompt)
    assert [label for label, _ in shown] == ["A", "B", "C"]
    assert sorted(text for _, text in shown) == ["(no answer)", "a", "b"]
    assert [each["judgement"] for each in fields] == ["b", "a", "b", "(no answer)"]
    assert rewards_of(fields[:3]) == [score_of("b"), score_of("a"), score_of("b")]


def test_each_vote_shows_another_order_and_the_mean_counts() -> None:
    """With as many votes as answers, every answer is in every position once, and the row has the votes."""
    judge = ByContent()
    fields = judged(["a", "b", "c"], judge, votes=3)
    orders = [[text for _, text in ANSWER.findall(prompt)] for prompt in judge.prompts]
    assert all(sorted(column) == ["a", "b", "c"] for column in zip(*orders, strict=True))
    assert fields[0]["judge_votes"] == [score_of("a")] * 3
    assert fields[0]["reward"] == pytest.approx(score_of("a"))


def test_order_differs_between_tasks() -> None:
    """The first answer is not the same in all tasks. A task has one order, also if its rollouts come in another."""
    judge: Any = ByContent()
    verifier = build_group_verifier(verifier_options("group_judge"), lambda _: judge)
    for answers in ("abc", "cba"):
        for task in range(20):
            responses = [response_of(text) for text in answers]
            asyncio.run(verifier.verify_group({**TASK, "_ng_task_index": task}, responses))
    first = [ANSWER.findall(prompt)[0][1] for prompt in judge.prompts]
    assert set(first) == {"a", "b", "c"}
    assert first[:20] == first[20:]


@pytest.mark.parametrize("mode", ["listwise", "pairwise"])
def test_equal_answers_need_no_judge(mode: str) -> None:
    """If all answers are the same, each has reward 0.5 and rank 1, and no request is sent."""
    judge = ByContent()
    fields = judged(["a", " a\n", "a"], judge, mode=mode)
    assert [(each["reward"], each["group_rank"]) for each in fields] == [(0.5, 1)] * 3
    assert judge.prompts == []


def test_group_of_one_rollout_fails() -> None:
    """One rollout cannot be compared: the group fails, and nothing is scored."""
    with pytest.raises(AttemptFailed, match="at least two rollouts of a task, this one has 1") as failed:
        judged(["a"])
    assert failed.value.failure_class == "judge_group_too_small"


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ('{"scores": [{"id": "B", "score": 0.25}, {"id": "A", "score": 1}]}', {"A": 1.0, "B": 0.25}),
        ('Thoughts.\n```json\n{"scores": [{"id": "A", "score": 0}, {"id": "B", "score": 1}]}\n```', {"A": 0, "B": 1}),
        ('So:\n{"ranking": ["B", "A"]}', {"A": 0.0, "B": 1.0}),
        ('{"scores": [{"id": "A", "score": 0.5}]}', None),
        ('{"scores": [{"id": "A", "score": 0.5}, {"id": "A", "score": 0.5}]}', None),
        ('{"scores": [{"id": "A", "score": 0.5}, {"id": "B", "score": 1}, {"id": "B", "score": 1}]}', None),
        ('{"scores": [{"id": "A", "score": 0.5}, {"id": "C", "score": 0.5}]}', None),
        ('{"scores": [{"id": "A", "score": 8}, {"id": "B", "score": 2}]}', None),
        ('{"scores": [{"id": "A", "score": true}, {"id": "B", "score": "1"}]}', None),
        ('{"scores": {"A": 1, "B": 0}}', None),
        ('{"ranking": ["A", "A"]}', None),
        ("A is best.", None),
    ],
)
def test_scores_are_read_only_if_each_answer_has_one(text: str, scores: dict[str, float] | None) -> None:
    """Scores count if each label occurs exactly once with a number in [0, 1]; anything else is unreadable."""
    read = read_scores(text, ["A", "B"])
    assert (None if read is None else {label: each[0] for label, each in read.items()}) == scores


def test_group_is_judged_by_a_model_server(serve_model: Callable[..., Served]) -> None:
    """Over HTTP, an unreadable list is requested again, then the group fails with `judge_unreadable`."""
    good = '{"scores": [{"id": "A", "explanation": "x", "score": 0.5}, {"id": "B", "explanation": "y", "score": 1}]}'
    readable, unreadable = serve_model(text=good), serve_model(text="Both are fine.")

    async def judge(server: Served, **options: Any) -> list[Any]:
        async with open_http(TimeLimits(connect_s=10, idle_s=60, total_s=60)) as http:
            balancer = LoadBalancer([f"{server.url}/v1"])
            client = ModelClient(balancer, http, api="auto", model="test-model", api_key=None)
            verifier = build_group_verifier(verifier_options({"kind": "group_judge", **options}), lambda _: client)
            assert list(verifier.load_balancers) == [balancer]
            return await verifier.verify_group(TASK, [response_of("one"), response_of("two")])

    assert sorted(rewards_of(asyncio.run(judge(readable, verdict_format="json")))) == [0.5, 1.0]
    schema = readable.stats()["last"][-1]["text"]["format"]["schema"]
    assert schema["properties"]["scores"]["items"]["required"] == ["id", "explanation", "score"]
    with pytest.raises(AttemptFailed) as failed:
        asyncio.run(judge(unreadable, attempts=2))
    assert failed.value.failure_class == "judge_unreadable"
    assert unreadable.stats()["asked"]["/v1/responses"] == 2


def test_template_of_a_group_judge_is_checked() -> None:
    """A template must show the answers, and its fields must be in the rows."""
    with pytest.raises(ConfigError, match=r"needs the placeholder \{answers\}"):
        judged(["a", "b"], template="{question}?")
    with pytest.raises(InputError, match="needs the field 'rubric'"):
        judged(["a", "b"], template="{rubric} {answers}")
    with pytest.raises(ConfigError, match=r"verifier\.mode must be one of listwise, pairwise"):
        judged(["a", "b"], mode="circular")
    assert is_group_verifier(verifier_options("group_judge"))
    assert not is_group_verifier(verifier_options("judge"))


def test_group_judge_needs_repeats(serve_model: Callable[..., Served], collect_sums: Callable[..., Ran]) -> None:
    """A single rollout cannot be scored against others, so a run without repeats is refused."""
    server = serve_model()
    message = "verifier=group_judge compares the rollouts of a task: add +num_repeats=4"
    assert_rejected_before_sending(collect_sums(server.url, "+verifier=group_judge"), server, message)
