"""Agreement of two ratings is Cohen's kappa, and changes of scores are counted in bounded memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import InputError
from ng_rollouts.metrics.agreement import MAX_LABELS, Agreement, ScoreChanges, label_of
from ng_rollouts.types import RolloutKey

BINARY = st.sampled_from([0.0, 1.0])
GRADES = st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0])
SCORES = st.none() | GRADES


def agreement_of(pairs: list[tuple[float, float]]) -> Agreement:
    """The agreement of pairs."""
    agreement = Agreement()
    for first, second in pairs:
        agreement.add(first, second)
    return agreement


def cohens_kappa(pairs: list[tuple[float, float]]) -> float | None:
    """Kappa as Cohen (1960) defines it: the observed share beyond the expected one."""
    first, second = np.array(pairs).T
    observed = float((first == second).mean())
    expected = sum(float((first == label).mean() * (second == label).mean()) for label in {*first, *second})
    return None if len({*first, *second}) == 1 else (observed - expected) / (1 - expected)


def weighted_kappa(pairs: list[tuple[float, float]]) -> float | None:
    """Weighted kappa from the whole matrix (Cohen, 1968), with squared distances of the values as weights."""
    first, second = np.array(pairs).T
    labels = np.array(sorted({*first, *second}))
    counts = np.array([[((first == a) & (second == b)).sum() for b in labels] for a in labels])
    expected = np.outer(counts.sum(1), counts.sum(0)) / len(pairs)
    weights = (labels[:, None] - labels[None, :]) ** 2
    return None if len(labels) == 1 else float(1 - (weights * counts).sum() / (weights * expected).sum())


@pytest.mark.parametrize(
    ("counts", "kappa"),
    [([[20, 5], [10, 15]], 0.4), ([[10, 0], [0, 10]], 1.0), ([[0, 10], [10, 0]], -1.0), ([[0, 10], [0, 10]], 0.0)],
)
def test_kappa_of_textbook_tables(counts: list[list[int]], kappa: float) -> None:
    """Kappa of tables that are computed by hand."""
    agreement = agreement_of([(float(a), float(b)) for a in (0, 1) for b in (0, 1) for _ in range(counts[a][b])])
    assert agreement.kappa == pytest.approx(kappa)
    assert agreement.kappa_name == "Cohen's kappa"
    assert agreement.table()[1] == counts


@given(pairs=st.lists(st.tuples(BINARY, BINARY), min_size=1, max_size=40))
def test_kappa_of_two_values_is_that_of_cohen(pairs: list[tuple[float, float]]) -> None:
    """Kappa of 0 and 1 equals (observed - expected) / (1 - expected)."""
    assert agreement_of(pairs).kappa == pytest.approx(cohens_kappa(pairs), abs=1e-9)


@given(pairs=st.lists(st.tuples(GRADES, GRADES), min_size=1, max_size=40))
def test_kappa_of_grades_is_the_weighted_one(pairs: list[tuple[float, float]]) -> None:
    """Kappa of grades equals the one from the matrix; it is symmetric, in range, and 1 only without disagreement."""
    agreement = agreement_of(pairs)
    kappa = agreement.kappa
    assert kappa == pytest.approx(weighted_kappa(pairs), abs=1e-9)
    assert agreement_of([(second, first) for first, second in pairs]).kappa == kappa
    agree, values = all(first == second for first, second in pairs), {value for pair in pairs for value in pair}
    assert (kappa == 1) == (agree and len(values) > 1)
    assert kappa is None or -1 <= kappa <= 1
    assert (kappa is None) == (len(values) == 1) == (agreement.undefined is not None)
    assert agreement.share == sum(first == second for first, second in pairs) / len(pairs)


def test_undefined_kappa_says_why() -> None:
    """One value for all rollouts, or no pair, has no kappa; the summary and the lines say so."""
    agreement = agreement_of([(1.0, 1.0)] * 3)
    assert (agreement.share, agreement.kappa) == (1.0, None)
    assert agreement.summary()["kappa_undefined"] == "all values are 1"
    assert next(agreement.lines("human", "reward")) == (
        "Agreement of human and reward: 100.0% of 3 rollouts, Cohen's kappa undefined: all values are 1"
    )
    empty = Agreement()
    empty.add(None, 1.0)
    empty.add(0.0, None)
    assert (empty.share, empty.kappa, empty.without_first, empty.without_second) == (None, None, 1, 1)
    assert list(empty.lines("human", "reward")) == [
        "Agreement of human and reward: Cohen's kappa undefined: no rollout has both values",
        "  1 rollout without human",
        "  1 rollout without reward",
    ]


def test_table_merges_values_beyond_the_limit() -> None:
    """Many different values take a table of bounded size, while kappa is over all of them."""
    agreement = agreement_of([(float(value), float(value + value % 2)) for value in range(1000)])
    labels, counts = agreement.table()
    assert (len(labels), labels[-1]) == (MAX_LABELS + 1, None)
    assert sum(map(sum, counts)) == 1000
    assert agreement.kappa == pytest.approx(1 - 0.5 / (2 * np.var(range(1000)) + 0.25), abs=1e-5)
    assert agreement.summary()["confusion"]["labels"][-1] == "other"
    assert list(agreement.lines("a", "b"))[1] == "  more than 20 different values: the summary file has their table"


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (True, 1.0),
        (False, 0.0),
        (0.25, 0.25),
        (2, 2.0),
        (" Correct", 1.0),
        ("FAIL", 0.0),
        ("no", 0.0),
        ("1", 1.0),
        (None, None),
        ("", None),
        (" ", None),
    ],
)
def test_labels_are_numbers(value: object, label: float | None) -> None:
    """Bools, numbers and the usual words are labels; an empty field is none."""
    assert label_of(value) == label


@pytest.mark.parametrize("value", ["maybe", [1], {"label": 1}, float("nan"), float("inf"), 10**400, "x" * 1000])
def test_other_labels_are_refused(value: object) -> None:
    """The message names the place and the value, shortened."""
    with pytest.raises(InputError, match=r"^r.jsonl, line 3, field human: ") as raised:
        label_of(value, "r.jsonl, line 3, field human")
    assert str(value)[:100] in str(raised.value)
    assert len(str(raised.value)) < 300


@given(rows=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3), SCORES, SCORES), max_size=60))
def test_changes_are_counted(rows: list[tuple[int, int, float | None, float | None]]) -> None:
    """Counts, tasks and the largest changes are those of the whole list, in any order."""
    changes = ScoreChanges()
    for task, rollout, previous, new in rows:
        changes.add(RolloutKey(task, rollout), previous, new)
    both = [(task, rollout, a, b) for task, rollout, a, b in rows if a is not None and b is not None]
    summary = changes.summary()
    assert summary["changed"] == sum(a != b for _, _, a, b in both)
    assert summary["changed"] + summary["unchanged"] == len(both)
    assert summary["newly_scored"] == sum(a is None and b is not None for _, _, a, b in rows)
    assert summary["lost"] == sum(a is not None and b is None for _, _, a, b in rows)
    for name, flip in (("to_one", (0, 1)), ("to_zero", (1, 0))):
        flipped = [task for task, _, a, b in both if (a, b) == flip]
        assert (summary[name], summary[f"tasks_{name}"]) == (len(flipped), len(set(flipped)))
    changed = [row for row in both if row[2] != row[3]]
    expected = sorted(changed, key=lambda row: (-abs(row[3] - row[2]), row[0], row[1]))[:10]
    assert [(*key, abs(b - a)) for key, a, b in changes.largest] == [(t, r, abs(b - a)) for t, r, a, b in expected]
    if both:
        agreement = summary["agreement"]
        assert agreement["mean_first"] == pytest.approx(np.mean([row[2] for row in both]))
        assert agreement["mean_second"] == pytest.approx(np.mean([row[3] for row in both]))


def test_changes_as_lines() -> None:
    """The lines for the terminal, as the documentation shows them."""
    changes = ScoreChanges()
    scores: list[tuple[Any, Any]] = [(1, 1)] * 5 + [(0, 0)] * 2 + [(0, 1)] * 2 + [(1, 0), (None, 1), (1, None)]
    for rollout, (previous, new) in enumerate(scores):
        changes.add(RolloutKey(rollout // 4, rollout % 4), previous, new)
    assert list(changes.lines()) == [
        "Changed scores: 3 of 10 rollouts with a score before and now",
        "  0.6000  mean before",
        "  0.7000  mean now",
        "  change              rollouts   share   tasks",
        "  from 0 to 1                2   20.0%       2",
        "  from 1 to 0                1   10.0%       1",
        "  another change             0    0.0%",
        "  unchanged                  7   70.0%",
        "  scored now only            1",
        "  scored before only         1",
        "Agreement of before and now: 70.0% of 10 rollouts, Cohen's kappa 0.348",
        "  before \\ now   0   1",
        "             0   2   2",
        "             1   1   5",
        "Largest changes",
        "        +1  0 to 1  task 1, rollout 3",
        "        +1  0 to 1  task 2, rollout 0",
        "        -1  1 to 0  task 2, rollout 1",
    ]


def test_memory_does_not_grow_with_the_rollouts() -> None:
    """Ten thousand tasks whose rollouts all flip take less than 20 bytes each, and more rollouts take none."""
    changes, grades = ScoreChanges(), np.random.default_rng(0)
    tracemalloc.start()
    try:
        for number in range(40_000):
            flip = float(number % 2)
            changes.add(RolloutKey(number % 10_000, number // 10_000), flip, 1 - flip)
        after_flips = tracemalloc.get_traced_memory()[0]
        for number, grade in enumerate(grades.random(20_000).tolist()):
            changes.add(RolloutKey(number % 10_000, 4), grade, 1 - grade)
        after_grades = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after_flips < 20 * 10_000
    assert after_grades - after_flips < 20_000
