"""A resources server of NeMo Gym scores answers again, if it says that it is stateless."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import read_rows
from tests.rescoring.conftest import Rescore

Resources = Callable[..., str]


def test_a_stateless_server_scores_the_answers(
    rescore: Rescore, resources: Resources, sums_file: Path, tmp_path: Path
) -> None:
    """It gets the row with its response, and its reply gives the score; response and keys stay those of the row."""
    ran = rescore(f"+resources_base_url={resources('stateless')}", "+training_view=false")
    assert ran.code == 0, ran.stderr
    rows, old = read_rows(tmp_path / "new.jsonl"), read_rows(sums_file)
    assert [(row["reward"], row["previous_reward"]) for row in rows] == [(0.0, 0.5), (0.0, 0.5), (1.0, 0.5), (0.0, 0.5)]
    assert [row["response"] for row in rows] == [row["response"] for row in old]
    assert {"expected_answer", "response", "responses_create_params"} <= set(rows[0]["seen"])
    assert not {"reward", "_ng_transient_failure"} & set(rows[0]["seen"])


@pytest.mark.parametrize(
    ("mode", "says"),
    [("stateful", "says 'stateful'"), (None, "has no /reverify_mode"), (["odd"], "has no /reverify_mode")],
)
def test_another_server_is_refused(
    mode: object, says: str, rescore: Rescore, resources: Resources, sums_file: Path, tmp_path: Path
) -> None:
    """Its scores may depend on the session of the rollout; `force=true` uses it nevertheless."""
    url = resources(mode)
    ran = rescore(f"+resources_base_url={url}")
    assert ran.code == 2, ran.stderr
    assert says in ran.stderr
    assert "+force=true" in ran.stderr
    assert not (tmp_path / "new.jsonl").exists()
    assert rescore(f"+resources_base_url={url}", "+force=true").code == 0


def test_a_server_that_fails_costs_no_answer(
    rescore: Rescore, resources: Resources, sums_file: Path, tmp_path: Path
) -> None:
    """Each rollout is a failure with its answer, which can be scored later."""
    ran = rescore(f"+resources_base_url={resources('stateless', status=500)}", "+max_attempts=1")
    assert ran.code in (1, 3), ran.stderr
    lines = read_rows(tmp_path / "new_failures.jsonl")
    assert {line["failure_class"] for line in lines} == {"http_500"}
    assert all(line["response"] for line in lines)
    ran = rescore("+verifier=exact_match", "+only=failed", source="new.jsonl", output="again.jsonl")
    assert ran.code == 0, ran.stderr
    assert [row["reward"] for row in read_rows(tmp_path / "again.jsonl")] == [1.0, 0.0, 1.0, 0.0]
