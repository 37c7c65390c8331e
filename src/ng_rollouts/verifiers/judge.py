"""A judge model scores answers. Its verdict is the reward.

If the judge cannot be reached or its verdict cannot be read, the attempt fails. It never counts as a reward of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.models.client import ModelClient
from ng_rollouts.scheduling.retry import RetryPolicy, with_retries
from ng_rollouts.templates import Template, parse_template
from ng_rollouts.types import Json, task_index_of
from ng_rollouts.verifiers.answer_extraction import output_text
from ng_rollouts.verifiers.base import Verifier
from ng_rollouts.verifiers.builtin import ANSWER_FIELDS, ExpectedAnswer, last_match, verdict_fields
from ng_rollouts.verifiers.judge_verdict import read_verdict, score_of
from ng_rollouts.verifiers.process_pool import ProcessPool

DEFAULT_TEMPLATE = """You grade an answer to a task.

Task:
{question}

Reference answer:
{expected_answer}

Answer to grade:
{response}

Is the answer right, judged by the reference? Think as long as you like, then end with one line:
VERDICT: CORRECT
or
VERDICT: INCORRECT"""

JSON_TEMPLATE = (
    DEFAULT_TEMPLATE.partition("Is the answer right")[0]
    + """Is the answer right, judged by the reference? \
Reply with a JSON object: "reasoning", your reasons in a few sentences, then "verdict", CORRECT or INCORRECT."""
)

VERDICT_SCHEMA: Json = {
    "type": "object",
    "properties": {"reasoning": {"type": "string"}, "verdict": {"enum": ["CORRECT", "INCORRECT"], "type": "string"}},
    "required": ["reasoning", "verdict"],
    "additionalProperties": False,
}

VERDICT_FORMATS = ("text", "json")

_CORRECT_FROM = 0.5
"""The smallest reward that counts as correct in `accuracy`."""

_RETRY_BUDGET_S = 600.0
"""How long an overloaded judge is retried. After that, the rollout fails, and its answer is lost with it."""

_PATTERN_TIMEOUT_S = 5.0
"""Time limit of a user-defined `verdict_pattern`, which may backtrack for hours."""


@dataclass(slots=True, kw_only=True)
class Judge(Verifier):
    """Requests a verdict from a model server, again if the verdict cannot be read.

    Attributes:
        params: sampling parameters of the judge's requests, and the schema of its reply if it is JSON.
        attempts: upper bound of requests for one verdict.
    """

    server: ModelClient
    process_pool: ProcessPool
    template: Template
    params: Json
    verdict_pattern: str | None = None
    answer_field: str | None = None
    attempts: int = 3

    @property
    def load_balancers(self) -> Sequence[LoadBalancer]:
        """The judge's servers."""
        return [self.server.load_balancer]

    def check(self, row: Json) -> None:
        self._prompt(row, "")

    async def verify(self, row: Json, response: Json) -> Json:
        text = output_text(response)
        prompt = self._prompt(row, text)
        policy = RetryPolicy(max_attempts=self.attempts, budget_s=_RETRY_BUDGET_S)
        try:
            reward, judgement = await with_retries(partial(self._grade, prompt, task_index_of(row)), policy)
        except AttemptFailed as failure:
            # `judge_timeout` and the like: a failure of the judge, not of the agent
            name = "judge_" + failure.failure_class.removeprefix("judge_")
            raise AttemptFailed(name, failure.message, status=failure.status) from failure
        expected = ExpectedAnswer(answer_field=self.answer_field).of(row) if self._has_answer(row) else None
        return {
            **verdict_fields(correct=reward >= _CORRECT_FROM, extracted=text, expected=expected),
            "reward": reward,
            "judgement": judgement,
        }

    async def _grade(self, prompt: list[Json], task: int) -> tuple[float, str]:
        """Request one verdict.

        Returns:
            The reward and the judge's text.

        Raises:
            AttemptFailed: `judge_unreadable`, or the request failed.
        """
        response = await self.server.respond({**self.params, "input": prompt}, task)
        text = output_text(response)
        if response.get("incomplete_details"):  # a truncated text may end after "VERDICT: IN"
            raise AttemptFailed(FailureClass.JUDGE_UNREADABLE, f"the judge's reply was truncated: {text[-200:]!r}")
        reward = await self._score(text)
        if reward is None:
            raise AttemptFailed(FailureClass.JUDGE_UNREADABLE, f"the judge gave no verdict: {text[-200:]!r}")
        return reward, text

    async def _score(self, text: str) -> float | None:
        """The score of the last verdict in a text; None if it cannot be read."""
        if self.verdict_pattern is None:
            return read_verdict(text)
        # your pattern may backtrack for hours
        match = await self.process_pool.run(last_match, self.verdict_pattern, text, seconds=_PATTERN_TIMEOUT_S)
        return None if match is None else score_of(match)

    def _prompt(self, row: Json, text: str) -> list[Json]:
        fields = {"question": _question(row), **row, "response": text}
        if self._has_answer(row):
            fields["expected_answer"] = ExpectedAnswer(answer_field=self.answer_field).of(row)
        return self.template.fill(fields)

    def _has_answer(self, row: Json) -> bool:
        names = (self.answer_field,) if self.answer_field else ANSWER_FIELDS
        return any(row.get(name) is not None for name in names)


def judge_params(params: Json | None, verdict_format: str) -> Json:
    """The parameters of the judge's requests. For verdicts in JSON, they have a schema for the reply."""
    if verdict_format != "json":
        return params or {}
    output_format = {"type": "json_schema", "name": "verdict", "schema": VERDICT_SCHEMA, "strict": True}
    return {"text": {"format": output_format}, **(params or {})}


def judge_template(text: str | None, verdict_format: str = "text") -> Template:
    """Parse the judge's prompt, with `{question}`, `{response}`, `{expected_answer}` and the row's fields.

    Args:
        text: the template; None for the default one.
        verdict_format: `text` or `json`, which the default template asks for.

    Raises:
        ConfigError: the text is not a valid template.
    """
    return parse_template(
        {"user": text or (JSON_TEMPLATE if verdict_format == "json" else DEFAULT_TEMPLATE)}, "verifier.template"
    )


def _question(row: Json) -> str:
    """The last user message of the task."""
    from ng_rollouts.chat import chat_input, last_user_text  # noqa: PLC0415

    return last_user_text(chat_input(row.get("responses_create_params") or {}))
