"""A model grades: its verdict is the reward, and a judge that cannot be had or understood is a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.models.client import ModelClient
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.templates import Template, parse_template
from ng_rollouts.types import Json, task_index_of
from ng_rollouts.verifiers.answer_extraction import output_text
from ng_rollouts.verifiers.base import Verifier
from ng_rollouts.verifiers.builtin import ANSWER_FIELDS, Expected, last_match, verdict
from ng_rollouts.verifiers.process_pool import ProcessPool

TEMPLATE = """You grade an answer to a task.

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

VERDICT = (
    r"(?i)verdict\W{0,20}(?P<answer>correct|incorrect|right|wrong|yes|no|true|false|[01](?:\.\d+)?)(?![\w/]|\.\d| +\w)"
)
_WORDS = {
    "correct": 1.0,
    "right": 1.0,
    "yes": 1.0,
    "true": 1.0,
    "incorrect": 0.0,
    "wrong": 0.0,
    "no": 0.0,
    "false": 0.0,
}
_RIGHT_FROM = 0.5
_READ_S = 5.0


@dataclass(slots=True, kw_only=True)
class Judge(Verifier):
    """Asks a model server, again if its verdict cannot be read."""

    server: ModelClient
    process_pool: ProcessPool
    template: Template
    params: Json
    verdict_pattern: str = VERDICT
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
        policy = RetryPolicy(max_attempts=self.attempts, patient=True)
        tried = 0
        while True:
            tried += 1
            try:
                reward, said = await self._grade(prompt, task_index_of(row))
                break
            except AttemptFailed as failure:
                wait = policy.wait_s(failure, tried)
                if wait is None:
                    name = "judge_" + failure.failure_class.removeprefix("judge_")
                    raise AttemptFailed(name, failure.message, status=failure.status) from failure
            await asyncio.sleep(wait)
        expected = Expected(answer_field=self.answer_field)
        known = expected.of(row) if self._has_answer(row) else None
        return {
            **verdict(correct=reward >= _RIGHT_FROM, extracted=text, expected=known),
            "reward": reward,
            "judgement": said,
        }

    async def _grade(self, prompt: list[Json], task: int) -> tuple[float, str]:
        response = await self.server.respond({**self.params, "input": prompt}, task)
        said = output_text(response)
        if response.get("incomplete_details"):
            raise AttemptFailed(FailureClass.JUDGE_UNREADABLE, f"the judge was cut off: {said[-200:]!r}")
        found = await self._verdict(said)
        if found is None:
            raise AttemptFailed(FailureClass.JUDGE_UNREADABLE, f"the judge gave no verdict: {said[-200:]!r}")
        word = found.lower()
        try:
            return _WORDS[word] if word in _WORDS else float(word), said
        except ValueError as error:
            raise AttemptFailed(FailureClass.JUDGE_UNREADABLE, f"the judge's verdict {word!r} is no number") from error

    async def _verdict(self, said: str) -> str | None:
        if self.verdict_pattern == VERDICT:
            return last_match(VERDICT, said)
        return await self.process_pool.run(last_match, self.verdict_pattern, said, seconds=_READ_S)

    def _prompt(self, row: Json, text: str) -> list[Json]:
        fields = {"question": _question(row), **row, "response": text}
        if self._has_answer(row):
            fields["expected_answer"] = Expected(answer_field=self.answer_field).of(row)
        return self.template.fill(fields)

    def _has_answer(self, row: Json) -> bool:
        names = (self.answer_field,) if self.answer_field else ANSWER_FIELDS
        return any(row.get(name) is not None for name in names)


def judge_template(text: str | None) -> Template:
    """The template of the judge's prompt: `{question}`, `{response}`, `{expected_answer}` and the row's fields."""
    return parse_template({"user": text or TEMPLATE}, "verifier.template")


def _question(row: Json) -> str:
    """The last thing that the task's user says."""
    from ng_rollouts.chat import chat_input, last_user_text  # noqa: PLC0415

    return last_user_text(chat_input(row.get("responses_create_params") or {}))
