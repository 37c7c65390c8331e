"""The builtin verifiers: exact match, multiple choice, math, regular expressions and JSON schemas."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import InputError
from ng_rollouts.verifiers.answer_extraction import output_text
from ng_rollouts.verifiers.answer_markup import without_fence
from ng_rollouts.verifiers.builtin import ExactMatch, ExpectedAnswer, JsonSchema, Math, Mcqa, Regex
from ng_rollouts.verifiers.json_answers import remote_reference, schema_error
from ng_rollouts.verifiers.mathematics import compare_math, is_equal
from ng_rollouts.workers.process_pool import ProcessPool
from tests.conftest import SHARED_DATA
from tests.verifiers.conftest import response_with


@pytest.mark.parametrize(
    ("name", "verifier"), [("mcqa", Mcqa()), ("string_match", ExactMatch()), ("reasoning_gym", ExactMatch())]
)
@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the example rollouts of NeMo Gym are not available")
def test_rewards_of_nemo_gym_rollouts_are_reproduced(name: str, verifier: Any) -> None:
    """A verifier gives the example rollouts of NeMo Gym the reward that their own environment gave them.

    There is one exception. Reasoning Gym compares the whole text with the answer, but `ExactMatch` compares only the
    final answer, so a correct answer after a long derivation has reward 1 here and 0 there.
    The rollouts of math_advanced_calculations are not tested: their reward depends on results of tools.
    """
    folder = SHARED_DATA / name
    rows = [json.loads(line) for line in (folder / "example_rollouts.jsonl").read_text().splitlines()]
    inputs = [json.loads(line) for line in (folder / "example.jsonl").read_text().splitlines()]
    by_question = {final_question(row): row for row in inputs}
    compared = 0
    for row in rows:
        task = {**by_question.get(final_question(row), {}), **row}
        if not {"expected_answer", "answer"} & task.keys():
            continue
        scored = asyncio.run(verifier.verify(task, row["response"]))
        if scored["reward"] != row["reward"]:
            assert (name, scored["reward"]) == ("reasoning_gym", 1.0), scored
            assert len(output_text(row["response"])) > 10 * len(scored["expected_answer"])
        compared += 1
    assert compared == len(rows)


def final_question(row: Any) -> str:
    content = row["responses_create_params"]["input"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


@pytest.mark.parametrize(
    ("expected", "text", "correct"),
    [
        ("1/2", r"\boxed{0.5}", True),
        (r"\frac{1}{2}", r"so \boxed{0.6}", False),
        ("Tom has 20 - 2 = 18.\n#### 18", "That makes 18 apples.", True),
        ("42", "no idea", False),
        ("x^2+1", r"$\boxed{1+x^2}$", True),
        ("72.0", r"\boxed{72}", True),
        (r"2\pi", r"\boxed{2\pi}", True),
        (r"2\pi", r"\boxed{2}", False),
        (r"3\sqrt{5}", r"so $3\sqrt{5}$", True),
        ("10^{5}", r"\boxed{100000}", True),
        ("1e5", r"\boxed{100000}", True),
        ("50%", r"\boxed{50\%}", True),
        ("1,234", r"\boxed{1234}", True),
        ("4", r"First \boxed{3}, no: \boxed{4}", True),
    ],
)
def test_math_answers_are_compared_by_value(process_pool: ProcessPool, expected: str, text: str, correct: bool) -> None:  # noqa: FBT001
    """Two expressions with the same value are equal, in any notation."""
    scored = asyncio.run(Math(process_pool=process_pool, seconds=60).verify({"answer": expected}, response_with(text)))
    assert scored["accuracy"] is correct


@pytest.mark.parametrize(
    ("expected", "text", "correct"),
    [
        ("(3, -2)", r"\boxed{(3,-2)}", True),
        ("(3, -2)", r"\boxed{\left(\dfrac{6}{2}, -2\right)}", True),
        ("(3, -2)", r"\boxed{(-2, 3)}", False),
        ("(3, -2)", r"\boxed{(3, -2, 0)}", False),
        (r"(\frac{1}{2}, \infty)", r"\boxed{(0.5, +\infty)}", True),
        (r"(-\infty, 4]", r"\boxed{(\infty, 4]}", False),
        ("[2, -1)", r"\boxed{[2, 1)}", False),
        ("[1, 2]", r"\boxed{(1, 2)}", False),
        ("(1, 2.5)", r"\boxed{(1, 2.4)}", False),
        (r"(1, \sqrt{4})", r"\boxed{(1, 2)}", True),
    ],
)
def test_points_and_intervals_are_compared_element_by_element(expected: str, text: str, correct: bool) -> None:  # noqa: FBT001
    """The elements are equal in any notation, and their order and the brackets count."""
    assert compare_math([expected], text)[0] is correct


@given(pairs=st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1)), min_size=2, max_size=4))
def test_points_of_integers_are_equal_if_their_elements_are(pairs: list[tuple[int, int]]) -> None:
    """Two points are equal if and only if they have the same integers in the same order."""
    first, second = zip(*pairs, strict=True)
    expected, answer = (f"({', '.join(map(str, point))})" for point in (first, second))
    assert is_equal(expected, answer) == (first == second)


def test_regex_compares_the_last_match(process_pool: ProcessPool) -> None:
    """The last match has to equal the expected answer; without an `answer_field`, any match is correct."""
    regex = Regex(process_pool=process_pool, pattern=r"score=(\d+)", answer_field="gold")
    assert asyncio.run(regex.verify({"gold": 7}, response_with("score=3 ... score=7")))["reward"] == 1.0
    assert asyncio.run(regex.verify({"gold": 3}, response_with("score=3 ... score=7")))["reward"] == 0.0
    anything = Regex(process_pool=process_pool, pattern="yes")
    assert asyncio.run(anything.verify({}, response_with("no")))["reward"] == 0.0


def test_json_answer_is_validated_against_the_schema_of_its_row(process_pool: ProcessPool) -> None:
    """An answer may be bare JSON or in a fenced block, and the schema of the row an object or JSON text."""
    verifier = JsonSchema(process_pool=process_pool)
    schema = {"type": "object", "required": ["a"]}
    for row in ({"schema": schema}, {"schema": json.dumps(schema)}):
        verifier.check(row)
        assert asyncio.run(verifier.verify(row, response_with('Here:\n```json\n{"a": 1}\n```')))["reward"] == 1.0
        assert "required" in asyncio.run(verifier.verify(row, response_with('{"b": 1}')))["schema_error"]
        assert asyncio.run(verifier.verify(row, response_with("oops")))["reward"] == 0.0


def test_factorial_of_a_large_number_is_not_computed() -> None:
    """A number with an exclamation mark behind it may be a factorial that would take minutes to compute."""
    assert compare_math(["-4,728,707"], "The final answer is -14728707!")[0] is False
    assert compare_math(["14728707"], "The final answer is 14728707!")[0] is True
    assert compare_math(["120"], r"\boxed{5!}")[0] is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{sqrt(16)}", "16"),
        ("The answer is 5 million.", "5"),
        ("The answer isn't 6.", "6"),
        ("It is at least 6.", "6"),
        ("The answer is 5²", "5"),
        (r"\boxed{\text{minus }6}", "6"),
        ("\\boxed{6}\n\nWait, that's wrong. It's 7.", "6"),
        (r"\boxed{[8, 3]}", "(8, 3)"),
    ],
)
def test_words_beside_a_number_that_change_it_are_not_ignored(text: str, expected: str) -> None:
    """Functions, scales, bounds, negations and withdrawals are no units: the number alone is not the answer."""
    assert compare_math([expected], text)[0] is False


def test_numbers_can_have_any_number_of_digits() -> None:
    """Integers are compared exactly, however long they are."""
    number = "7" * 5000
    assert compare_math([number], f"\\boxed{{{number}}}")[0] is True
    assert compare_math([number], f"\\boxed{{{number[:-1]}8}}")[0] is False


def test_remark_about_the_answer_is_not_an_answer() -> None:
    """A sentence about the answer, after the box, states none."""
    for remark in ("The answer is correct.", "Note: the answer is rounded to the nearest integer."):
        assert compare_math(["42"], f"\\boxed{{42}}\n\n{remark}")[0] is True


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:9/s.json", "file:///etc/passwd", "other.json", "urn:x#/a", "//host/s"]
)
@pytest.mark.parametrize(
    "schema", [{"$ref": "R"}, {"properties": {"a": {"prefixItems": [{"$ref": "R"}]}}}, {"$defs": {"x": {"$ref": "R"}}}]
)
def test_schema_of_a_row_refers_to_nothing_outside(schema: Any, reference: str) -> None:
    """A row's schema with a remote reference is a bad line, so that no URL is fetched and no file is read."""
    row = json.loads(json.dumps(schema).replace('"R"', json.dumps(reference)))
    with pytest.raises(InputError, match="put the definition into the schema itself"):
        JsonSchema(process_pool=cast("Any", None)).check({"schema": row})


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"type": "integer"}}, "$ref": "#/$defs/a"},
        {"$id": "http://x/y", "$defs": {"a": {"$id": "http://x/a", "type": "integer"}}, "$ref": "http://x/a"},
    ],
)
def test_references_within_a_schema_are_followed(schema: Any) -> None:
    """Pointers and ids within the schema work."""
    assert remote_reference(schema) is None
    assert schema_error(schema, "1") is None
    assert schema_error(schema, '"x"') is not None


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "a{99999999999999999999}"},
        {"$schema": ["x"], "type": "object"},
        {"$schema": "http://json-schema.org/draft-04/schema#", "enum": [{"a": number} for number in range(8000)]},
        json.loads('{"not":' * 200 + "{}" + "}" * 200),
    ],
    ids=["pattern", "draft", "long enum", "nested"],
)
def test_odd_schema_of_a_row_is_a_bad_line(process_pool: ProcessPool, schema: Any) -> None:
    """A schema on which the library fails or takes too long costs its row, not the command."""
    with pytest.raises(InputError, match="the row's JSON schema"):
        JsonSchema(process_pool=process_pool, seconds=1.0).check({"schema": schema})


LONG = 200_000
"""Characters or items for which a search in quadratic time would take minutes or hours."""


@pytest.mark.parametrize(
    "text",
    [
        "`" * LONG,
        "~" * LONG,
        "The answer is 4" + "\n" * LONG + "Hope this helps",
        "~~~\n" + " " * LONG + "x",
        "```json\n" + " " * LONG,
        "#" * LONG + "\nx",
    ],
    ids=["backticks", "tildes", "newlines", "spaces in a fence", "spaces behind a fence", "hashes"],
)
def test_long_texts_take_linear_time(text: str) -> None:
    """Neither an answer nor an expected answer of one repeated character blocks the event loop."""
    script = (
        "import asyncio, sys\n"
        "from ng_rollouts.verifiers.builtin import ExactMatch, Mcqa\n"
        "from ng_rollouts.verifiers.judge_verdict import read_verdict\n"
        "text = sys.stdin.read()\n"
        "content = [{'type': 'output_text', 'text': text}]\n"
        "response = {'output': [{'type': 'message', 'role': 'assistant', 'content': content}]}\n"
        "asyncio.run(ExactMatch().verify({'answer': '4'}, response))\n"
        "asyncio.run(ExactMatch().verify({'answer': text}, response))\n"
        "asyncio.run(Mcqa().verify({'answer': 'A'}, response))\n"
        "read_verdict(text)\n"
    )
    subprocess.run([sys.executable, "-c", script], input=text, text=True, check=True, timeout=100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```\n42\n```", "42"),
        ("```python\n42\n```\n", "42"),
        ("~~~~\n42\n~~~~", "42"),
        ("```\n42", "```\n42"),
        ("```\n```", ""),
        ("```\n1\n```\n2\n```", "```\n1\n```\n2\n```"),
        ("`42`", "`42`"),
    ],
)
def test_only_one_whole_fence_is_removed(text: str, expected: str) -> None:
    """A text that is one fenced block is its content; others stay as they are."""
    assert without_fence(text) == expected


@pytest.mark.parametrize(
    ("answer", "result"),
    [("so 6 * 7\n#### 42", "42"), ("####\n42\n", "42"), ("#### 1 #### 2", "1 #### 2"), ("42", "42"), ("a\nb", "a\nb")],
)
def test_result_of_a_worked_solution_is_behind_its_mark(answer: str, result: str) -> None:
    """GSM8K's expected answers end with `####` and the result, on one line or on two."""
    assert ExpectedAnswer().text_of({"answer": answer}) == result
