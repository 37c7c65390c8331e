"""Mutations of right and wrong answers. `benchmarks/grading` grades more of them."""

from __future__ import annotations

import pytest

from tests.verifiers.grading import Grader
from tests.verifiers.mutations import VERIFIERS, mutations

COUNT = 300


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_mutations_have_their_known_grades(verifier: str) -> None:
    """No wrong answer has a reward, and at most one percent of the right ones have none."""
    graded = [
        (each, Grader(verifier, **each.options).grade(each.answer, each.row)) for each in mutations(verifier, COUNT)
    ]
    false_positives = [(each.answer, each.row) for each, got in graded if each.grade != 1.0 and got == 1.0]
    false_negatives = [(each.answer, each.row) for each, got in graded if each.grade == 1.0 and got != 1.0]
    assert false_positives == []
    assert len(false_negatives) <= COUNT / 100, false_negatives


def test_mutations_are_the_same_in_every_run() -> None:
    """The generator is seeded by the verifier and the number of the mutation, so that figures can be repeated."""
    assert list(mutations("math", 20)) == list(mutations("math", 20))
    assert list(mutations("math", 30))[:20] == list(mutations("math", 20))
