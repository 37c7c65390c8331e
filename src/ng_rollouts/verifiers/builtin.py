"""Verifiers that score answers against the expected answer, or against a pattern or schema."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from ng_rollouts.errors import InputError
from ng_rollouts.types import Json
from ng_rollouts.verifiers.answer_extraction import (
    answer_letter,
    boxed_answer,
    final_answer,
    normalise_answer,
    output_text,
)
from ng_rollouts.verifiers.base import Verifier
from ng_rollouts.verifiers.process_pool import ProcessPool

ANSWER_FIELDS = ("expected_answer", "answer", "ground_truth", "target", "label", "solution", "gold")
"""Fields that may hold the expected answer, in order of preference. `answer_field` replaces them."""

_GSM8K = re.compile(r"####\s*(.+)\s*$")
"""GSM8K's answers are worked solutions that end with `####` and the result."""

_MAX_ERROR_CHARACTERS = 500
"""A validation error quotes the instance, which may be long."""


def verdict_fields(*, correct: bool, extracted: str | None, expected: Any) -> Json:
    """The result fields of an answer that is either correct or incorrect."""
    return {
        "reward": float(correct),
        "accuracy": correct,
        "extracted_answer": extracted,
        "expected_answer": expected,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedAnswer:
    """Finds the expected answer of a row."""

    answer_field: str | None = None

    def of(self, row: Json) -> Any:
        """The expected answer.

        Raises:
            InputError: the row has none.
        """
        names = (self.answer_field,) if self.answer_field else ANSWER_FIELDS
        for name in names:
            if row.get(name) is not None:
                return row[name]
        fields = f"the field {self.answer_field!r}" if self.answer_field else f"one of the fields {', '.join(names)}"
        raise InputError(f"the verifier needs {fields}, which the row does not have: set +verifier.answer_field=FIELD")

    def text_of(self, row: Json) -> str:
        """The expected answer as text. Of a GSM8K answer, only the result after `####`."""
        value = self.of(row)
        text = _number_text(value) if isinstance(value, (int, float)) else str(value)
        match = _GSM8K.search(text)
        return (match[1] if match else text).strip()


@dataclass(slots=True, kw_only=True)
class ExactMatch(Verifier):
    """Correct if the answer (boxed, else stated as final, else the whole text) equals the expected answer.

    White space and case do not count. A row's own `case_sensitive` overrides the option.
    """

    answer_field: str | None = None
    case_sensitive: bool = False

    def check(self, row: Json) -> None:
        ExpectedAnswer(answer_field=self.answer_field).of(row)

    async def verify(self, row: Json, response: Json) -> Json:
        expected = ExpectedAnswer(answer_field=self.answer_field).text_of(row)
        extracted = final_answer(output_text(response))
        case_sensitive = bool(row.get("case_sensitive", self.case_sensitive))
        correct = _is_same(extracted, expected, case_sensitive=case_sensitive)
        return verdict_fields(correct=correct, extracted=extracted, expected=expected)


@dataclass(slots=True, kw_only=True)
class Mcqa(Verifier):
    """Multiple choice: correct if the chosen letter is the expected letter."""

    answer_field: str | None = None

    def check(self, row: Json) -> None:
        expected = ExpectedAnswer(answer_field=self.answer_field).text_of(row)
        if not re.fullmatch(r"\(?[A-Za-z]\)?\.?", expected):
            raise InputError(
                f"verifier=mcqa needs a letter as the expected answer, got {expected[:50]!r}: name the field that has "
                "the letter with +verifier.answer_field=FIELD"
            )

    async def verify(self, row: Json, response: Json) -> Json:
        expected = ExpectedAnswer(answer_field=self.answer_field).text_of(row)
        chosen = answer_letter(output_text(response))
        return verdict_fields(correct=chosen == expected.strip("(). ").upper(), extracted=chosen, expected=expected)


@dataclass(slots=True, kw_only=True)
class Regex(Verifier):
    """Correct if the last match of a pattern equals the expected answer.

    A match is the pattern's group `answer`, else its first group, else the whole match. Without an `answer_field`, any
    match is correct.
    """

    process_pool: ProcessPool  # your pattern may backtrack for hours
    pattern: str
    answer_field: str | None = None
    seconds: float = 5.0

    def check(self, row: Json) -> None:
        if self.answer_field:
            ExpectedAnswer(answer_field=self.answer_field).of(row)

    async def verify(self, row: Json, response: Json) -> Json:
        text = output_text(response)
        extracted = await self.process_pool.run(last_match, self.pattern, text, seconds=self.seconds)
        if not self.answer_field:
            return verdict_fields(correct=extracted is not None, extracted=extracted, expected=None)
        expected = ExpectedAnswer(answer_field=self.answer_field).text_of(row)
        correct = extracted is not None and _is_same(extracted, expected, case_sensitive=False)
        return verdict_fields(correct=correct, extracted=extracted, expected=expected)


@dataclass(slots=True, kw_only=True)
class Math(Verifier):
    """Correct if the answer is mathematically equal to the expected answer, according to the math-verify library."""

    process_pool: ProcessPool  # an expression may take SymPy very long to simplify
    answer_field: str | None = None
    seconds: float = 10.0

    def check(self, row: Json) -> None:
        ExpectedAnswer(answer_field=self.answer_field).of(row)

    async def verify(self, row: Json, response: Json) -> Json:
        expected = ExpectedAnswer(answer_field=self.answer_field).text_of(row)
        text = output_text(response)
        correct, parsed = await self.process_pool.run(compare_math, expected, text, seconds=self.seconds)
        boxed = boxed_answer(text)
        return verdict_fields(correct=correct, extracted=parsed if boxed is None else boxed, expected=expected)


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
        from jsonschema import SchemaError  # noqa: PLC0415 - an extra
        from jsonschema.validators import validator_for  # noqa: PLC0415

        schema = self._schema(row)
        if not isinstance(schema, (dict, bool)):
            raise InputError(
                f"verifier=json_schema needs a JSON schema in the row's field {self.schema_field!r}: set "
                "+verifier.schema_field=FIELD, or +verifier.schema={...} for all rows"
            )
        try:
            validator_for(schema).check_schema(cast("Any", schema))
        except SchemaError as error:
            raise InputError(f"the row's JSON schema is not valid: {error.message}") from error

    async def verify(self, row: Json, response: Json) -> Json:
        text = output_text(response)
        error = await self.process_pool.run(schema_error, self._schema(row), text, seconds=self.seconds)
        return {**verdict_fields(correct=error is None, extracted=text, expected=None), "schema_error": error}

    def _schema(self, row: Json) -> Any:
        """The schema for a row, parsed if it is text; None if no schema can be parsed."""
        from ng_rollouts.jsonl import loads  # noqa: PLC0415

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


def compare_math(expected: str, text: str) -> tuple[bool, str | None]:
    """Compare the answer in a text with the expected answer.

    Returns:
        Whether they are mathematically equal, and the extracted answer.
    """
    import logging  # noqa: PLC0415 - runs in a worker process

    from math_verify import parse, verify  # type: ignore[import-untyped] # noqa: PLC0415 - an extra

    # math-verify warns that its own timeouts are off; the process pool limits the time instead
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    gold: list[object] = []
    for form in _math_forms(expected):
        gold = gold or parse(form, parsing_timeout=None)
    boxed = boxed_answer(text)  # only the last box: math-verify reads several as a set
    answer = parse(text if boxed is None else f"$\\boxed{{{boxed}}}$", parsing_timeout=None)
    extracted = str(answer[-1]) if answer else None
    return bool(verify(gold, answer, timeout_seconds=None)), extracted


def _math_forms(expected: str) -> tuple[str, ...]:
    """Forms of an expected answer for math-verify, in order of preference. The first that it can parse counts.

    Bare LaTeX has to be put between dollar signs. Otherwise math-verify parses only its first number: `2\\pi` as 2.
    """
    if "$" in expected or "boxed" in expected:
        return (expected,)
    with suppress(ValueError, OverflowError):
        number = float(expected.replace(",", ""))
        # math-verify parses `1e5` as 1
        return (f"{number:.15g}" if "e" in expected.lower() else expected, expected)
    # math-verify parses `50%` as 0.5, but `50\%` as 50
    latex = re.sub(r"(?<!\\)%", r"\\%", expected)
    return (f"${latex}$", f"$\\boxed{{{latex}}}$", expected)


def schema_error(schema: Any, text: str) -> str | None:
    """Validate the JSON in a text: the last fenced block, else the whole text.

    Returns:
        The error; None if the JSON is valid under the schema.
    """
    import json  # noqa: PLC0415 - runs in a worker process

    import jsonschema  # noqa: PLC0415

    fenced = re.findall(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    try:
        value = json.loads(fenced[-1] if fenced else text)
        jsonschema.validate(value, schema)
    except ValueError as error:
        return f"not JSON: {error}"
    except jsonschema.ValidationError as error:
        return f"{error.json_path}: {error.message}"[:_MAX_ERROR_CHARACTERS]
    return None


def _is_same(answer: str, expected: str, *, case_sensitive: bool) -> bool:
    return normalise_answer(answer, case_sensitive=case_sensitive) == normalise_answer(
        expected, case_sensitive=case_sensitive
    )


def _number_text(value: float) -> str:
    """A number as text, without the `.0` of a float that is an integer."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
