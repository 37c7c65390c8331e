"""Verifiers that score answers against the expected answer, or against a pattern or schema."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from ng_rollouts.errors import AttemptFailed, InputError
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.types import Json
from ng_rollouts.verifiers.answer_extraction import (
    ALTERNATIVE,
    final_answer,
    final_line,
    output_text,
)
from ng_rollouts.verifiers.answer_markup import (
    bare_answer,
    is_same_answer,
)
from ng_rollouts.verifiers.base import Verifier
from ng_rollouts.verifiers.choices import answer_letter, boxed_letter
from ng_rollouts.verifiers.json_answers import check_schema, remote_reference, schema_error
from ng_rollouts.verifiers.mathematics import compare_math
from ng_rollouts.workers.process_pool import ProcessPool

ANSWER_FIELDS = ("expected_answer", "answer", "ground_truth", "target", "label", "solution", "gold")
"""Fields that may hold the expected answer, in order of preference. `answer_field` replaces them."""

_GSM8K_MARK = "####"
"""GSM8K's answers are worked solutions that end with `####` and the result."""

_MAX_SCHEMA_BYTES = 10_000
"""A larger schema is checked by a worker process, which has a time limit."""

_MAX_REASON_CHARACTERS = 300

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_STRICT_MODE = "strict_single_letter_boxed"
"""The value of `grading_mode` in NeMo Gym's rows that allows only a letter alone in a box."""


def verdict_fields(*, correct: bool, extracted: str | None, expected: Any, normalized: str | None = None) -> Json:
    """The result fields of an answer that is either correct or incorrect.

    Args:
        normalized: the form by which majorities and distinct answers count equal answers as one.
    """
    return {
        "reward": float(correct),
        "accuracy": correct,
        "extracted_answer": extracted,
        "normalized_answer": extracted if normalized is None else normalized,
        "expected_answer": expected,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedAnswer:
    """Finds the expected answer of a row."""

    answer_field: str | None = None

    def of(self, row: Json) -> Any:
        """The expected answer.

        Raises:
            InputError: the row has none, or an empty one.
        """
        names = (self.answer_field,) if self.answer_field else ANSWER_FIELDS
        for name in names:
            if (value := row.get(name)) is not None:
                if value in ("", [], {}) or (isinstance(value, str) and not value.strip()):
                    raise InputError(f"the expected answer in {name!r} is empty: set it, or remove the row")
                return value
        fields = f"the field {self.answer_field!r}" if self.answer_field else f"one of the fields {', '.join(names)}"
        raise InputError(f"the verifier needs {fields}, which the row does not have: set +verifier.answer_field=FIELD")

    def texts_of(self, row: Json) -> list[str]:
        """The accepted answers as text: one, or those of a list. Of a GSM8K answer, only the result after `####`.

        Raises:
            InputError: the row has none, or an empty one.
        """
        value = self.of(row)
        texts = [_answer_text(each) for each in (value if isinstance(value, list) else [value])]
        if not all(texts):
            raise InputError("an expected answer is empty: set it, or remove it from the list")
        return texts

    def text_of(self, row: Json) -> str:
        """The accepted answer as text; the first of a list."""
        return self.texts_of(row)[0]


@dataclass(slots=True, kw_only=True)
class ExactMatch(Verifier):
    """Correct if the answer equals the expected answer, or one of a list of them.

    White space, case, markup, quotes, brackets and punctuation around the answer do not count. A row's own
    `case_sensitive` overrides the option.
    """

    answer_field: str | None = None
    case_sensitive: bool = False

    def check(self, row: Json) -> None:
        ExpectedAnswer(answer_field=self.answer_field).texts_of(row)

    async def verify(self, row: Json, response: Json) -> Json:
        expected = ExpectedAnswer(answer_field=self.answer_field).texts_of(row)
        text = output_text(response)
        extracted = final_answer(text)
        case_sensitive = bool(row.get("case_sensitive", self.case_sensitive))
        # the answer may have full stops, as in `J. K. Rowling`, or look like a label, as in `Answer: 5`
        answers = {extracted, ALTERNATIVE.split(extracted)[0], final_line(text), text}
        matching = [
            each
            for each in expected
            if any(is_same_answer(answer, each, case_sensitive=case_sensitive) for answer in answers)
        ]
        return verdict_fields(
            correct=bool(matching),
            extracted=extracted or None,
            expected=_one_or_all(expected),
            # all accepted answers are votes for one answer
            normalized=bare_answer(expected[0]) if matching else bare_answer(extracted),
        )


@dataclass(slots=True, kw_only=True)
class Mcqa(Verifier):
    """Multiple choice: correct if the chosen letter, or the chosen option's text, is the expected one or in its list.

    The options are in the row's field `options` or `choices`, if they are known. Rows with `grading_mode:
    strict_single_letter_boxed` accept only a letter alone in a box, as in NeMo Gym.
    """

    answer_field: str | None = None

    def check(self, row: Json) -> None:
        self._expected(row)

    async def verify(self, row: Json, response: Json) -> Json:
        expected, options = self._expected(row)
        text = output_text(response)
        strict = row.get("grading_mode") == _STRICT_MODE
        chosen = boxed_letter(text, options) if strict else answer_letter(text, options)
        return verdict_fields(correct=chosen in expected, extracted=chosen, expected=_one_or_all(expected))

    def _expected(self, row: Json) -> tuple[list[str], dict[str, str]]:
        """The accepted letters, and the options.

        Raises:
            InputError: an expected answer is neither a letter nor the text of an option.
        """
        options = _options_of(row) or dict.fromkeys("ABCDEFGHIJ", "")
        texts = ExpectedAnswer(answer_field=self.answer_field).texts_of(row)
        letters = [_letter_of_expected(text, options) for text in texts]
        return letters, {**dict.fromkeys(letters, ""), **options}


@dataclass(slots=True, kw_only=True)
class Regex(Verifier):
    """Correct if the last match of a pattern equals the expected answer, or one of a list of them.

    A match is the pattern's group `answer`, else its first group, else the whole match. Without an `answer_field`, any
    match is correct.
    """

    process_pool: ProcessPool  # your pattern may backtrack for hours
    pattern: str
    answer_field: str | None = None
    seconds: float = 5.0

    def check(self, row: Json) -> None:
        if self.answer_field:
            ExpectedAnswer(answer_field=self.answer_field).texts_of(row)

    async def verify(self, row: Json, response: Json) -> Json:
        text = output_text(response)
        extracted = await self.process_pool.run(last_match, self.pattern, text, seconds=self.seconds)
        if not self.answer_field:
            return verdict_fields(correct=extracted is not None, extracted=extracted, expected=None)
        expected = ExpectedAnswer(answer_field=self.answer_field).texts_of(row)
        answer = extracted or ""
        correct = any(is_same_answer(answer, each, case_sensitive=False) for each in expected)
        return verdict_fields(
            correct=correct,
            extracted=extracted,
            expected=_one_or_all(expected),
            normalized=bare_answer(expected[0] if correct else answer) or None,
        )


@dataclass(slots=True, kw_only=True)
class Math(Verifier):
    """Correct if the answer is mathematically equal to the expected answer, according to the math-verify library."""

    process_pool: ProcessPool  # an expression may take SymPy very long to simplify
    answer_field: str | None = None
    seconds: float = 10.0

    def check(self, row: Json) -> None:
        ExpectedAnswer(answer_field=self.answer_field).texts_of(row)

    async def verify(self, row: Json, response: Json) -> Json:
        expected = ExpectedAnswer(answer_field=self.answer_field).texts_of(row)
        text = output_text(response)
        correct, extracted, normalized = await self.process_pool.run(compare_math, expected, text, seconds=self.seconds)
        return verdict_fields(
            correct=correct,
            extracted=extracted,
            expected=_one_or_all(expected),
            normalized=normalized,
        )


@dataclass(slots=True, kw_only=True)
class JsonSchema(Verifier):
    """Correct if the answer, bare or in a fenced block, is JSON that is valid under a schema.

    The schema is `schema` for all rows, else the row's field `schema_field`.
    """

    process_pool: ProcessPool  # a `pattern` in a schema may backtrack for hours
    schema: Json | None = None
    schema_field: str = "schema"
    seconds: float = 5.0

    def check(self, row: Json) -> None:
        schema = self._schema(row)
        if not isinstance(schema, (dict, bool)):
            raise InputError(
                f"verifier=json_schema needs a JSON schema in the row's field {self.schema_field!r}: set "
                "+verifier.schema_field=FIELD, or +verifier.schema={...} for all rows"
            )
        try:
            # A long list of values takes quadratic time.
            if len(dumps(schema)) > _MAX_SCHEMA_BYTES:
                self.process_pool.run_now(check_schema, schema, seconds=self.seconds)
            else:
                check_schema(schema)
        except AttemptFailed as error:
            raise InputError(f"the row's JSON schema cannot be checked: {error.message}") from error
        except Exception as error:
            # jsonschema raises errors of many types for odd schemas
            reason = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
            raise InputError(f"the row's JSON schema is not valid: {reason[:_MAX_REASON_CHARACTERS]}") from error
        # A reference of a row must make this program neither fetch a URL nor read a file.
        if remote := remote_reference(schema):
            raise InputError(
                f"the row's JSON schema refers to {remote[:200]!r}: put the definition into the schema itself"
            )

    async def verify(self, row: Json, response: Json) -> Json:
        text = output_text(response)
        error = await self.process_pool.run(schema_error, self._schema(row), text, seconds=self.seconds)
        return {**verdict_fields(correct=error is None, extracted=text, expected=None), "schema_error": error}

    def _schema(self, row: Json) -> Any:
        """The schema for a row, parsed if it is text; None if no schema can be parsed."""
        value = row.get(self.schema_field) if self.schema is None else self.schema
        if isinstance(value, str):
            try:
                return loads(value.encode())
            except ValueError:
                return None
        return value


class Unscored(Verifier):
    """No verifier: results have no reward."""

    scores: ClassVar[bool] = False

    async def verify(self, row: Json, response: Json) -> Json:  # noqa: ARG002 - the interface's
        return {}


def last_match(pattern: str, text: str) -> str | None:
    """The last match of a pattern: its group `answer`, else its first group, else the whole match; None without one."""
    match = None
    for match in re.finditer(pattern, text):  # noqa: B007 - keeps only the last match, not a list of all
        pass
    if match is None:
        return None
    groups = match.groupdict()
    answer = groups["answer"] if "answer" in groups else match[1] if match.re.groups else match[0]
    return None if answer is None else str(answer)  # None: the group is optional and did not take part in the match


def _answer_text(value: Any) -> str:
    text = _number_text(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
    return (_gsm8k_result(text) or text).strip()


def _gsm8k_result(text: str) -> str | None:
    """The text behind `####` on the last line, or on the line before it."""
    before, _, last = text.rstrip().rpartition("\n")
    result = last.partition(_GSM8K_MARK)[2].strip() or None
    return last if result is None and before.rstrip().endswith(_GSM8K_MARK) else result


def _letter_of_expected(expected: str, options: dict[str, str]) -> str:
    if match := re.fullmatch(r"[(\[]?([A-Za-z])[)\]]?[.:]?", expected):
        return match[1].upper()
    letters = [letter for letter, text in options.items() if text and text.strip() == expected]
    if len(letters) == 1:
        return letters[0]
    raise InputError(
        f"verifier=mcqa needs a letter as the expected answer, got {expected[:50]!r}: name the field that has the "
        "letter with +verifier.answer_field=FIELD"
    )


def _one_or_all(expected: list[str]) -> str | list[str]:
    return expected[0] if len(expected) == 1 else expected


def _options_of(row: Json) -> dict[str, str]:
    """The options of a multiple-choice row by letter: a list of texts, a dict, or a list of one-entry dicts."""
    options = row.get("options", row.get("choices"))
    if isinstance(options, dict) and isinstance(options.get("text"), list):  # {"text": [...], "label": [...]}
        labels = options.get("label") or _LETTERS
        return {str(label).upper(): str(text) for label, text in zip(labels, options["text"], strict=False)}
    if isinstance(options, list) and all(isinstance(each, dict) and len(each) == 1 for each in options):
        options = {label: text for each in options for label, text in each.items()}
    if isinstance(options, dict):
        return {str(label).upper(): str(text) for label, text in options.items()}
    if isinstance(options, list):
        return {letter: str(text) for letter, text in zip(_LETTERS, options, strict=False)}
    return {}


def _number_text(value: float) -> str:
    """A number as text, without the `.0` of a float that is an integer."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else repr(value)
