"""Agents that call a model server and tools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from openai.types.responses import Response

from tests.conftest import Ran, read_rows
from tests.servers import Served

ServeModel = Callable[..., Served]
CollectSums = Callable[..., Ran]


@pytest.mark.parametrize("api", ["auto", "responses", "chat_completions"])
def test_rows_have_the_fields_of_an_agent_servers_rows(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path, api: str
) -> None:
    """With either API, rows have NeMo Gym's fields and the training view, in the order of tasks and rollouts."""
    ran = collect_sums(serve_model(think=True).url, f"+policy_api={api}", "+verifier=exact_match", "+num_repeats=2")
    assert ran.code == 0, ran.stderr
    assert ran.averages == {"reward": 1.0, "accuracy": 1.0}
    rows = read_rows(tmp_path / "rollouts.jsonl")
    assert [(row["_ng_task_index"], row["_ng_rollout_index"]) for row in rows] == [
        (t, r) for t in range(5) for r in (0, 1)
    ]
    for row in rows:
        Response.model_validate(row["response"])
        assert row["extracted_answer"] == row["expected_answer"] == str(3 * row["_ng_task_index"])
        assert row["output"][-1]["content"] == f"So it is \\boxed{{{3 * row['_ng_task_index']}}}."
        assert row["output"][-1]["reasoning_content"] == "Hm."
        assert row["response"]["usage"]["total_tokens"] > 0


def test_missing_verifier_gives_a_null_reward(serve_model: ServeModel, collect_sums: CollectSums) -> None:
    """Without a verifier, the mean reward is null and not 0, and a warning says so."""
    ran = collect_sums(serve_model().url)
    assert ran.code == 0
    assert ran.averages == {"reward": None}
    assert "no verifier" in ran.stderr


def test_max_steps_limits_model_requests(serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path) -> None:
    """A model that always calls a tool gets at most `max_steps` requests per rollout."""
    (tmp_path / "my_tools.py").write_text("def shout(text: str):\n    return text\n")
    server = serve_model(tool=True)
    assert collect_sums(server.url, "+verifier=none", "+tools=my_tools.py", "+max_steps=1", rows=1).code == 0
    assert server.stats()["asked"]["/v1/responses"] == 1
