"""Verifiers that hold an answer against the expected one."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from ng_rollouts.errors import InputError
from ng_rollouts.types import Json
from ng_rollouts.verifiers.answer_extraction import boxed, final_answer, letter, normalised, output_text
from ng_rollouts.verifiers.base import Verifier
from ng_rollouts.verifiers.process_pool import ProcessPool

ANSWER_FIELDS = ("expected_answer", "answer", "ground_truth", "target", "label", "solution", "gold")
"""Where the expected answer is looked for, unless a field is named."""

_GSM8K = re.compile(r"####\s*(.+)\s*$")


def verdict(*, correct: bool, extracted: str | None, expected: Any) -> Json:
    """The fields of an answer that is either right or wrong."""
    return {
        "reward": float(correct),
        "accuracy": correct,
        "extracted_answer": extracted,
        "expected_answer": expected,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Finds a row's expected answer."""

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
        told = f"the field {self.answer_field!r}" if self.answer_field else f"one of the fields {', '.join(names)}"
        raise InputError(f"the verifier needs {told}, which the row lacks: name it with +verifier.answer_field=FIELD")

    def text_of(self, row: Json) -> str:
        """The expected answer as text; of GSM8K's worked answers, what follows `####`."""
        value = self.of(row)
        text = _number(value) if isinstance(value, (int, float)) else str(value)
        match = _GSM8K.search(text)
        return (match[1] if match else text).strip()


@dataclass(slots=True, kw_only=True)
class ExactMatch(Verifier):
    """The answer (what is boxed, else stated as final, else all of it) is the expected one, letter for letter.

    Case and white space do not count; a row's own `case_sensitive` decides for it.
    """

    answer_field: str | None = None
    case_sensitive: bool = False

    def check(self, row: Json) -> None:
        Expected(answer_field=self.answer_field).of(row)

    async def verify(self, row: Json, response: Json) -> Json:
        expected = Expected(answer_field=self.answer_field).text_of(row)
        given = final_answer(output_text(response))
        heed = bool(row.get("case_sensitive", self.case_sensitive))
        same = normalised(given, case_sensitive=heed) == normalised(expected, case_sensitive=heed)
        return verdict(correct=same, extracted=given, expected=expected)


@dataclass(slots=True, kw_only=True)
class Mcqa(Verifier):
    """The letter chosen is the expected one."""

    answer_field: str | None = None

    def check(self, row: Json) -> None:
        expected = Expected(answer_field=self.answer_field).text_of(row)
        if not re.fullmatch(r"\(?[A-Za-z]\)?\.?", expected):
            raise InputError(f"verifier=mcqa needs a letter as the expected answer, got {expected[:50]!r}")

    async def verify(self, row: Json, response: Json) -> Json:
        expected = Expected(answer_field=self.answer_field).text_of(row)
        chosen = letter(output_text(response))
        return verdict(correct=chosen == expected.strip("(). ").upper(), extracted=chosen, expected=expected)


@dataclass(slots=True, kw_only=True)
class Regex(Verifier):
    """What a pattern finds last (its group `answer`, its first group, or all of it) is the expected answer.

    Without a field for the expected answer, finding anything is enough.
    """

    process_pool: ProcessPool
    pattern: str
    answer_field: str | None = None
    seconds: float = 5.0

    def check(self, row: Json) -> None:
        if self.answer_field:
            Expected(answer_field=self.answer_field).of(row)

    async def verify(self, row: Json, response: Json) -> Json:
        text = output_text(response)
        found = await self.process_pool.run(last_match, self.pattern, text, seconds=self.seconds)
        if not self.answer_field:
            return verdict(correct=found is not None, extracted=found, expected=None)
        expected = Expected(answer_field=self.answer_field).text_of(row)
        same = found is not None and normalised(found, case_sensitive=False) == normalised(
            expected, case_sensitive=False
        )
        return verdict(correct=same, extracted=found, expected=expected)


@dataclass(slots=True, kw_only=True)
class Math(Verifier):
    """The answer is the expected one as mathematics has it, by the math-verify library."""

    process_pool: ProcessPool
    answer_field: str | None = None
    seconds: float = 10.0

    def check(self, row: Json) -> None:
        Expected(answer_field=self.answer_field).of(row)

    async def verify(self, row: Json, response: Json) -> Json:
        expected = Expected(answer_field=self.answer_field).text_of(row)
        text = output_text(response)
        correct, found = await self.process_pool.run(equal_in_mathematics, expected, text, seconds=self.seconds)
        extracted = boxed(text)
        return verdict(correct=correct, extracted=found if extracted is None else extracted, expected=expected)


@dataclass(slots=True, kw_only=True)
class JsonSchema(Verifier):
    """The answer is JSON, bare or in a fenced block, that a schema admits.

    The schema is the row's, under `schema_field`, or one for all.
    """

    process_pool: ProcessPool
    schema: Json | None = None
    schema_field: str = "schema"
    seconds: float = 5.0
    _seen: set[str] = field(default_factory=set)

    def check(self, row: Json) -> None:
        from jsonschema import SchemaError  # noqa: PLC0415 - an extra
        from jsonschema.validators import validator_for  # noqa: PLC0415

        schema = self._schema(row)
        if not isinstance(schema, (dict, bool)):
            raise InputError(
                f"verifier=json_schema needs a JSON schema in the row's field {self.schema_field!r}: name the field "
                "with +verifier.schema_field=FIELD, or give +verifier.schema={...} for all rows"
            )
        try:
            validator_for(schema).check_schema(cast("Any", schema))
        except SchemaError as error:
            raise InputError(f"the row's JSON schema is none: {error.message}") from error

    async def verify(self, row: Json, response: Json) -> Json:
        text = output_text(response)
        complaint = await self.process_pool.run(schema_error, self._schema(row), text, seconds=self.seconds)
        return {**verdict(correct=complaint is None, extracted=text, expected=None), "schema_error": complaint}

    def _schema(self, row: Json) -> Any:
        from ng_rollouts.jsonl import loads  # noqa: PLC0415

        value = row.get(self.schema_field) if self.schema is None else self.schema
        if isinstance(value, str):
            try:
                return loads(value.encode())
            except ValueError:
                return None
        return value


class Unscored(Verifier):
    """No verifier: rewards are absent."""

    scores: ClassVar[bool] = False

    async def verify(self, row: Json, response: Json) -> Json:  # noqa: ARG002 - the interface's
        return {}


def last_match(pattern: str, text: str) -> str | None:
    """What a pattern finds last."""
    match = None
    for match in re.finditer(pattern, text):  # noqa: B007 - the last one is what is wanted
        pass
    if match is None:
        return None
    named = match.groupdict()
    found = named["answer"] if "answer" in named else match[1] if match.re.groups else match[0]
    return None if found is None else str(found)


def equal_in_mathematics(expected: str, text: str) -> tuple[bool, str | None]:
    """Whether a text's answer equals the expected one, and what was taken to be its answer."""
    import logging  # noqa: PLC0415 - runs in a process of its own

    from math_verify import parse, verify  # type: ignore[import-untyped] # noqa: PLC0415 - an extra

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that the time limit is ours to set
    gold: list[object] = []
    for form in _forms_of(expected):
        gold = gold or parse(form, parsing_timeout=None)
    box = boxed(text)  # the last one is meant
    given = parse(text if box is None else f"$\\boxed{{{box}}}$", parsing_timeout=None)
    found = str(given[-1]) if given else None
    return bool(verify(gold, given, timeout_seconds=None)), found


def _forms_of(expected: str) -> tuple[str, ...]:
    """How to read an expected answer, best first: bare LaTeX has to be put between dollars to be read whole."""
    if "$" in expected or "boxed" in expected:
        return (expected,)
    with suppress(ValueError, OverflowError):
        number = float(expected.replace(",", ""))
        return (f"{number:.15g}" if "e" in expected.lower() else expected, expected)
    latex = re.sub(r"(?<!\\)%", r"\\%", expected)
    return (f"${latex}$", f"$\\boxed{{{latex}}}$", expected)


def schema_error(schema: Any, text: str) -> str | None:
    """Why a text is not JSON that a schema admits; None if it is."""
    import json  # noqa: PLC0415 - runs in a process of its own

    import jsonschema  # noqa: PLC0415

    fenced = re.findall(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    try:
        value = json.loads(fenced[-1] if fenced else text)
        jsonschema.validate(value, schema)
    except ValueError as error:
        return f"not JSON: {error}"
    except jsonschema.ValidationError as error:
        return f"{error.json_path}: {error.message}"[:500]
    return None


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
