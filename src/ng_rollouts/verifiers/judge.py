"""Judge models score answers. The median of their verdicts is the reward.

If a judge cannot be reached or its verdict cannot be read, the attempt fails. It never counts as a reward of 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from ng_rollouts.errors import AttemptFailed, ConfigError, FailureClass
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.models.client import ModelClient
from ng_rollouts.scheduling.retry import RetryPolicy, with_retries
from ng_rollouts.templates import Template, parse_template
from ng_rollouts.types import Json, task_index_of
from ng_rollouts.verifiers.answer_extraction import output_text
from ng_rollouts.verifiers.base import Verifier
from ng_rollouts.verifiers.builtin import ANSWER_FIELDS, ExpectedAnswer, last_match, verdict_fields
from ng_rollouts.verifiers.judge_verdict import read_verdict, score_of
from ng_rollouts.workers.process_pool import ProcessPool

VERDICT_FORMATS = ("text", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A question to a judge, and the form of the reply.

    Attributes:
        text: the default template.
        json: the default template that asks for a JSON object.
        schema: the schema of that object.
        placeholders: what a template must contain.
    """

    text: str
    json: str
    schema: Json
    placeholders: tuple[str, ...] = ()

    def template(self, text: str | None, verdict_format: str) -> Template:
        """Parse a template, by default that of the format.

        Raises:
            ConfigError: the text is not a valid template, or lacks a placeholder.
        """
        default = self.json if verdict_format == "json" else self.text
        template = parse_template({"user": text or default}, "verifier.template")
        names = {name for _, parts in template.messages for _, name in parts}
        for placeholder in self.placeholders:
            if placeholder not in names:
                raise ConfigError(f"verifier.template needs the placeholder {{{placeholder}}}")
        return template

    def params(self, params: Json | None, verdict_format: str) -> Json:
        """The parameters of the judge's requests. For verdicts in JSON, they have the schema of the reply."""
        if verdict_format != "json":
            return params or {}
        output_format = {"type": "json_schema", "name": "verdict", "schema": self.schema, "strict": True}
        return {"text": {"format": output_format}, **(params or {})}


def object_schema(**properties: Json) -> Json:
    """The schema of an object that has exactly these properties, in this order."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


_TASK_AND_ANSWER = """You grade an answer to a task.

Task:
{question}

Reference answer:
{expected_answer}

Answer to grade:
{response}

Is the answer right, judged by the reference? """

ONE_ANSWER = Form(
    text=_TASK_AND_ANSWER
    + """Think as long as you like, then end with one line:
VERDICT: CORRECT
or
VERDICT: INCORRECT""",
    json=_TASK_AND_ANSWER
    + """Reply with a JSON object: "reasoning", your reasons in a few sentences, \
then "verdict", CORRECT or INCORRECT.""",
    schema=object_schema(reasoning={"type": "string"}, verdict={"enum": ["CORRECT", "INCORRECT"], "type": "string"}),
)
"""A verdict on one answer. A template can use `{question}`, `{response}`, `{expected_answer}` and the row's fields."""

_CORRECT_FROM = 0.5
"""The smallest reward that counts as correct in `accuracy`."""

_RETRY_BUDGET_S = 600.0
"""How long an overloaded judge is retried. After that, the rollout fails, and its answer is lost with it."""

_PATTERN_TIMEOUT_S = 5.0
"""Time limit of a user-defined `verdict_pattern`, which may backtrack for hours."""

_AT_ONCE = 16
"""Votes on one answer or one group, or pairs of answers, that are requested at once. Pairs may be thousands."""

T = TypeVar("T")

Reader = Callable[[str], Awaitable[T | None]]
"""Reads the verdict in a judge's text; None if it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Judges that vote in turn.

    Attributes:
        servers: the judges' model servers.
        params: sampling parameters of their requests, and the schema of their replies if those are JSON.
        votes: number of verdicts on one answer. Vote `n` is that of judge `n` modulo the number of judges.
        attempts: upper bound of requests for one verdict.
    """

    servers: Sequence[ModelClient]
    params: Json
    votes: int = 1
    attempts: int = 3

    @property
    def load_balancers(self) -> Sequence[LoadBalancer]:
        """The judges' servers."""
        return list(dict.fromkeys(server.load_balancer for server in self.servers))

    async def ask(self, vote: int, prompt: list[Json], read: Reader[T], task: int) -> tuple[T, str]:
        """Request a verdict, again if it cannot be read.

        Args:
            vote: number of the vote.
            read: the verdict in the text of a reply; None if it cannot be read.

        Returns:
            The verdict and the judge's text.

        Raises:
            AttemptFailed: `judge_unreadable`, or `judge_` and the class of the request's failure.
        """
        seed = self.params.get("seed")
        # with one seed, a judge would repeat its vote
        request = {**self.params, **({} if seed is None else {"seed": seed + vote}), "input": prompt}
        policy = RetryPolicy(max_attempts=self.attempts, budget_s=_RETRY_BUDGET_S)
        server = self.servers[vote % len(self.servers)]
        try:
            return await with_retries(partial(_verdict, server, request, read, task), policy)
        except AttemptFailed as failure:
            # `judge_timeout` and the like: a failure of the judge, not of the agent
            name = "judge_" + failure.failure_class.removeprefix("judge_")
            raise AttemptFailed(name, failure.message, status=failure.status) from failure


async def _verdict(server: ModelClient, request: Json, read: Reader[T], task: int) -> tuple[T, str]:
    """Request one verdict.

    Raises:
        AttemptFailed: `judge_unreadable`, or the request failed.
    """
    response = await server.respond(request, task)
    text = output_text(response)
    if response.get("incomplete_details"):  # a truncated text may end after "VERDICT: IN"
        raise AttemptFailed(FailureClass.JUDGE_UNREADABLE, f"the judge's reply was truncated: {text[-200:]!r}")
    verdict = await read(text)
    if verdict is None:
        raise AttemptFailed(FailureClass.JUDGE_UNREADABLE, f"the judge gave no verdict: {text[-200:]!r}")
    return verdict, text


async def all_of(calls: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """The results of calls that run at the same time, a few of them at once. The first failure cancels the others."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def limited(call: Callable[[], Awaitable[T]]) -> T:
        async with slots:
            return await call()

    tasks = [asyncio.create_task(limited(call)) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def fields_of(votes: Sequence[tuple[float, str]], is_correct: Callable[[float], bool]) -> Json:
    """The result fields of votes on one answer: the median score, and what more than half of the votes say.

    Args:
        votes: scores, each with the judge's text.
        is_correct: whether a score counts as correct.
    """
    scores = [score for score, _ in votes]
    ordered = sorted(scores)
    # the median: of verdicts 0 and 1 it is the majority, and 0.5 if there is none
    reward = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    accuracy = sum(map(is_correct, scores)) * 2 > len(scores)
    agreeing = [vote for vote in votes if is_correct(vote[0]) == accuracy]
    _, judgement = min(agreeing, key=lambda vote: abs(vote[0] - reward))
    fields = {"reward": reward, "accuracy": accuracy, "judgement": judgement}
    if len(votes) > 1:
        fields |= {"judge_votes": scores, "judge_agreement": len(agreeing) / len(votes)}
    return fields


@dataclass(slots=True, kw_only=True)
class Judge(Verifier):
    """Scores an answer by the verdicts of judges, each on this answer alone."""

    panel: Panel
    process_pool: ProcessPool
    template: Template
    verdict_pattern: str | None = None
    answer_field: str | None = None

    @property
    def load_balancers(self) -> Sequence[LoadBalancer]:
        """The judges' servers."""
        return self.panel.load_balancers

    def check(self, row: Json) -> None:
        self._prompt(row, "")

    async def verify(self, row: Json, response: Json) -> Json:
        text = output_text(response)
        prompt, task = self._prompt(row, text), task_index_of(row)
        ask = partial(self.panel.ask, prompt=prompt, read=self._score, task=task)
        votes = await all_of(partial(ask, vote) for vote in range(self.panel.votes))
        expected = ExpectedAnswer(answer_field=self.answer_field).of(row) if self._has_answer(row) else None
        fields = fields_of(votes, lambda score: score >= _CORRECT_FROM)
        return {**verdict_fields(correct=fields["accuracy"], extracted=text, expected=expected), **fields}

    async def _score(self, text: str) -> float | None:
        """The score of the last verdict in a text; None if it cannot be read."""
        if self.verdict_pattern is None:
            return read_verdict(text)
        # your pattern may backtrack for hours
        match = await self.process_pool.run(last_match, self.verdict_pattern, text, seconds=_PATTERN_TIMEOUT_S)
        return None if match is None else score_of(match)

    def _prompt(self, row: Json, text: str) -> list[Json]:
        fields = {"question": question_text(row), **row, "response": text}
        if self._has_answer(row):
            fields["expected_answer"] = ExpectedAnswer(answer_field=self.answer_field).of(row)
        return self.template.fill(fields)

    def _has_answer(self, row: Json) -> bool:
        names = (self.answer_field,) if self.answer_field else ANSWER_FIELDS
        return any(row.get(name) is not None for name in names)


def question_text(row: Json) -> str:
    """The last user message of the task."""
    from ng_rollouts.chat import chat_input, last_user_text  # noqa: PLC0415

    return last_user_text(chat_input(row.get("responses_create_params") or {}))
