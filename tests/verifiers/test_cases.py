"""Answers with known grades, one file of cases per verifier."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.verifiers.cases import cases_of
from tests.verifiers.grading import Grader

VERIFIERS = ("exact_match", "json_schema", "judge", "math", "mcqa", "regex", "python")


@pytest.mark.parametrize(
    ("verifier", "case"),
    [
        pytest.param(verifier, case, id=f"{verifier}-{case['kind']}-{number}")
        for verifier in VERIFIERS
        for number, case in enumerate(cases_of(verifier))
    ],
)
def test_case_has_its_known_grade(verifier: str, case: Any) -> None:
    """Each case has its known reward, or fails with its known class."""
    fields = Grader(verifier, **case.get("options", {})).fields(case["answer"], case["row"])
    assert fields.get("failure", fields.get("reward")) == case.get("failure", case.get("reward")), fields
    if "extracted" in case:
        assert fields["extracted_answer"] == case["extracted"]


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{n}") for n, case in enumerate(cases_of("majority"))])
def test_answers_that_are_equal_are_one_vote(case: Any) -> None:
    """Answers that the verifier takes for equal have one `normalized_answer`, so that majorities count them as one."""
    grader = Grader(case["verifier"])
    graded = [grader.fields(answer, case["row"]) for answer in case["answers"]]
    votes = Counter(fields["normalized_answer"] for fields in graded)
    [(winner, _)] = votes.most_common(1)
    [reward] = {fields["reward"] for fields in graded if fields["normalized_answer"] == winner}
    assert reward == case["reward"], votes
