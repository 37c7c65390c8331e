"""A judge model scores answers. Its verdict is the reward.

If the judge cannot be reached or its verdict cannot be read, the attempt fails. It never counts as a reward of 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.models.client import ModelClient
from ng_rollouts.scheduling.retry import RetryPolicy, with_retries
from ng_rollouts.templates import Template, parse_template
from ng_rollouts.types import Json, task_index_of
from ng_rollouts.verifiers.answer_extraction import (
    output_text,
)
from ng_rollouts.verifiers.answer_markup import (
    INVISIBLE,
    strip_markup,
)
from ng_rollouts.verifiers.base import Verifier
from ng_rollouts.verifiers.builtin import ANSWER_FIELDS, ExpectedAnswer, last_match, verdict_fields
from ng_rollouts.verifiers.json_answers import json_in
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

_VERDICT = re.compile(
    r"(?:^|[^\w])verdict[\s*_`#>]{0,10}(?:\((?:in)?correct\s?/\s?(?:in)?correct\)[\s*_`]{0,10})?(?:[:=]|\s[-–—]\s|(?P<is>\bis\b(?!:))|\bis:|[-–—]>?)(?P<rest>[^\n]{0,300})",
    re.IGNORECASE,
)
"""A verdict label with a colon, an equals sign, a dash or "is". The word within a sentence is not a verdict."""

_VERDICT_HEADING = re.compile(
    r"^[ \t*_`#>]{0,10}(?:final\s)?verdict[ \t*_`#]{0,10}:?[ \t*_`#]{0,10}\n\s{0,10}(?P<rest>[^\n]{1,300})",
    re.IGNORECASE | re.MULTILINE,
)

_VERDICT_WORD = re.compile(
    r"(?P<not>not\s+)?(?P<prefix>in(?=correct))?(?P<word>correct|right|true|wrong|false|yes|no\b|-?\d*\.?\d+)(?P<end>.{0,40})",
    re.IGNORECASE,
)

_REMARK = re.compile(
    r"\s*(?:clear|final|based|justified|explained|given|above|below|supported|consistent|due|therefore|thus)\b",
    re.IGNORECASE,
)
"""What a sentence may say about a verdict. Anything else behind "verdict is" is a verdict, readable or not."""

_CONDITION = re.compile(
    r"""\b(?:if|only|except|unless|but|however|would|not|wrong|incorrect|false|instead|wait|apart|although|though
    |provided|partial(?:ly)?|mostly|partly|part|half|minor|errors?|mistakes?|off|missing|incomplete|yet|lacks?|unclear|up\sto)\b
    |(?:[-–—:…]|\.\.)\s*no\b|[?→~%]|->|:\s*0|=\s*(?:0|no|false|incorrect)\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""What may follow "correct" and takes it back, in part or in whole."""

_REASON = re.compile(r"\b(?:because|since|as)\b", re.IGNORECASE)
"""The beginning of a reason, which may have any words."""

_NO_SCORE = re.compile(r"\s?[/%=]|\.\d|\s+(?!(?:because|since|as|for)\b)\w", re.IGNORECASE)
"""What may follow a number that is not a score: `8/10`, `85%`, `2 errors found`."""

_MORE_WORDS = re.compile(r"\s+(?!(?:because|since|as|and|with|given|per)\b)\w|:\s*\w")
"""A phrase that only begins with "correct": `Correct answer is 12`, `CORRECT method`."""

_TAKEN_BACK = re.compile(r"(?<!not\s)(?<!nothing\s)\b(?:incorrect|wrong)\b", re.IGNORECASE)

_STRUCK = re.compile(r"~~[^~]{0,100}~~|\*\*(?=not\*\*)|(?<=\*\*not)\*\*", re.IGNORECASE)
"""Struck-out text, and the emphasis of "not"."""

_SUBJECT = re.compile(r"(?:the|this|that|its?)\s(?:answer|response|solution|result)?\s?is\s", re.IGNORECASE)
"""The subject of a sentence that is a verdict: `The answer is correct.`"""

_TAG = re.compile(r"<(/?)verdict>", re.IGNORECASE)

_RECONSIDERED = re.compile(r"\bwait\b|→|->|\bbut\s(?:it\sis\s)?(?:correct|right)\b", re.IGNORECASE)

_CROSSES = ("✗", "✘", "❌", "✖")

_WORD_SCORES = {"correct": 1.0, "right": 1.0, "yes": 1.0, "true": 1.0, "wrong": 0.0, "no": 0.0, "false": 0.0}

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
        return None if match is None else _score_of(match)

    def _prompt(self, row: Json, text: str) -> list[Json]:
        fields = {"question": _question(row), **row, "response": text}
        if self._has_answer(row):
            fields["expected_answer"] = ExpectedAnswer(answer_field=self.answer_field).of(row)
        return self.template.fill(fields)

    def _has_answer(self, row: Json) -> bool:
        names = (self.answer_field,) if self.answer_field else ANSWER_FIELDS
        return any(row.get(name) is not None for name in names)


def read_verdict(text: str) -> float | None:
    """The score of the last verdict in a judge's text; None if the last one cannot be read.

    A verdict is a JSON object with `verdict`, `correct`, `score` or `reward`, or a label `VERDICT:` in any markup.
    """
    value = None if _VERDICT.search(text, text.rfind("}") + 1) else _json_verdict(text)
    if value is not None:
        return _score_of(value)
    text = _TAG.sub(lambda tag: "\n" if tag[1] else "\nVERDICT: ", text.translate(INVISIBLE).replace("：", ":"))
    verdicts = {match.start("rest"): match["rest"] for match in _VERDICT.finditer(text) if not _is_remark(match)}
    verdicts |= {match.start("rest"): match["rest"] for match in _VERDICT_HEADING.finditer(text)}
    if not verdicts:
        return None
    last = max(verdicts)
    score = _score_of(verdicts[last])
    # Text behind the verdict may take it back: `VERDICT: CORRECT. Wait, the sign is wrong.`
    return None if score == 1.0 and _TAKEN_BACK.search(_STRUCK.sub("", text[last:])) else score


def _is_remark(match: re.Match[str]) -> bool:
    """Whether a sentence with "verdict is" says something about a verdict: `The verdict is final.`"""
    line = match.string[match.string.rfind("\n", 0, match.start("rest")) + 1 : match.start("rest")]
    if match[0][:1] in "\"'“‘`«":
        return True  # a quotation, perhaps of the answer that is graded
    if match["is"] and re.search(r"\b(?:if|whether|when|unless)\b", line, re.IGNORECASE):
        return True
    return bool(match["is"] and _REMARK.match(match["rest"]) and _score_of(match["rest"]) is None)


def _json_verdict(text: str) -> Any:
    """The verdict of a JSON object that is the whole text, in a fenced block, or its end; None without one."""
    start = max(text.rfind("\n{") + 1, 0)
    for candidate in (text, text[start:]):
        with suppress(ValueError):
            value = json_in(candidate)
            for name in ("verdict", "correct", "is_correct", "score", "reward") if isinstance(value, dict) else ():
                if name in value:
                    return "" if value[name] is None else value[name]
    return None


def _score_of(verdict: Any) -> float | None:
    """The score of a verdict: a bool, a number, or a text that begins with a word or number."""
    if isinstance(verdict, (bool, int, float)):
        return float(verdict)
    plain = _STRUCK.sub("", str(verdict)).strip()
    if plain.startswith(_CROSSES):
        return 0.0 if re.search(r"incorrect|wrong|false", plain, re.IGNORECASE) else None
    text = re.sub(r"^(?:(?![-.]?\d|-\.)\W)+|^\\(?:boxed|text|mathbf)\{", "", strip_markup(plain))
    text = _SUBJECT.sub("", text, count=1) if _SUBJECT.match(text) else text
    match = _VERDICT_WORD.match(re.sub(r"^(?:boxed|text|mathbf)\{", "", text))
    if match is None:
        return None
    word, end = match["word"].lower(), match["end"].lstrip("*_`\"'”)]}$")
    is_one_of_two = re.match(
        r"\w|\s*(?:or\b|/|\||,)\s*(?:in)?(?:correct|wrong|no|false|right|true|yes)\b", end, re.IGNORECASE
    )
    if is_one_of_two or (word[-1].isdigit() and _NO_SCORE.match(end)):
        return None  # `CORRECT/INCORRECT`, `correctly`, `10/10`, `2 errors`
    if word in ("yes", "no") and re.match(r"\s+(?!(?:because|since|as|for)\b)\w", end):
        return None  # `no idea`
    score = _WORD_SCORES.get(word)
    if score is None:
        return None if match["not"] else float(word)
    is_plain = score == 1.0 and not match["not"] and not match["prefix"]
    if is_plain and (_CONDITION.search(_REASON.split(end)[0]) or _MORE_WORDS.match(end)):
        return None  # `CORRECT except for the sign`, `Correct answer: 12`
    is_negated = bool(match["not"]) != bool(match["prefix"])  # `not incorrect` is correct
    score = 1.0 - score if is_negated else score
    return None if score == 0.0 and _RECONSIDERED.search(end) else score  # `INCORRECT. Wait, no: CORRECT`


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
