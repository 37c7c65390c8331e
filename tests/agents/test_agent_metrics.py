"""Agents of a head server provide metrics that they compute themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ran
from tests.servers import Served

AGENT_METRICS = {
    "agent_metrics": {"mean/reward": 9.0},
    "key_metrics": {"pass@4/best": 0.25},
    "group_level_metrics": [],
    "repeat_level_metrics": [{"_ng_rollout_index": 0, "mean/best": 0.25}],
    "perf_summary": None,
}


@pytest.mark.parametrize(
    ("answer", "choice", "message"),
    [
        ([200, json.dumps(AGENT_METRICS)], "auto", 'Key metrics for mine:\n{\n    "pass@4/best": 0.25\n}\n'),
        ([200, json.dumps(AGENT_METRICS)], "never", None),
        ([200, json.dumps([1])], "auto", "note: agent 'mine' did not return metrics"),
        (
            [200, json.dumps({"agent_metrics": 3})],
            "auto",
            "note: agent 'mine' returned metrics in an unexpected format",
        ),
        ([500, "broken"], "auto", "note: agent 'mine' did not return metrics"),
        (None, "auto", "note: agent 'mine' has no /aggregate_metrics"),
    ],
    ids=["metrics", "not requested", "a list", "wrong field type", "HTTP 500", "no endpoint"],
)
def test_agents_of_a_head_server_provide_their_metrics(
    command: Callable[..., Ran],
    serve: Callable[..., Served],
    tasks: Callable[..., Path],
    tmp_path: Path,
    answer: list[Any] | None,
    choice: str,
    message: str | None,
) -> None:
    """An agent's own metrics are printed and written to the aggregate metrics; an error is a note, not a failed run.

    Args:
        answer: HTTP status and body of the agent's `POST /aggregate_metrics`; None if it has no such endpoint.
        message: the text on stdout or stderr; None if nothing is reported.
    """
    agent = serve(**({} if answer is None else {"own_metrics": answer}))
    head = serve(head={"mine": ["127.0.0.1", agent.port]})
    tasks(6)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+num_repeats=2"]
    ran = command("+agent_name=mine", f"+head_server.port={head.port}", *files, f"+agent_side_metrics={choice}")
    assert ran.code == 0
    (written,) = json.loads((tmp_path / "r_aggregate_metrics.json").read_text())
    has_metrics = message is not None and message.startswith("Key")
    assert (written["agent_metrics"]["mean/reward"] == 9.0) == has_metrics
    assert written["statistics"]["rollouts"] == 12
    if message:
        assert message in (ran.stdout if has_metrics else ran.stderr)
    assert ("note:" in ran.stderr) == bool(message and not has_metrics)
    if has_metrics:
        assert written["repeat_level_metrics"] == AGENT_METRICS["repeat_level_metrics"]
        assert "perf_summary" not in written
        (sent,) = agent.stats()["last"]
        assert len(sent["verify_responses"]) == 12
        assert sent["verify_responses"][3]["response"] == {"usage": {"output_tokens": 7}}
        assert not {"input", "output", "responses_create_params"} & sent["verify_responses"][3].keys()


def test_proxy_that_httpx_does_not_support_leaves_out_the_metrics(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path]
) -> None:
    """The metrics are requested with httpx. If it cannot use the proxies of the environment, the run still succeeds."""
    agent = serve(own_metrics=[200, json.dumps(AGENT_METRICS)])
    head = serve(head={"mine": ["127.0.0.1", agent.port]})
    tasks(2)
    proxies = {"all_proxy": "nonsense://127.0.0.1:9", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    ran = command("+agent_name=mine", f"+head_server.port={head.port}", *files, env=proxies)
    assert ran.code == 0
    assert "note: agent 'mine' is not asked for its metrics (the proxy set in the environment" in ran.stderr


def test_agents_receive_rollouts_that_count_as_zero(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path]
) -> None:
    """With `count_as_zero`, the request has a row with reward 0 for each failure, and the rows that were set aside."""
    agent = serve(own_metrics=[200, json.dumps(AGENT_METRICS)], faults={"400": 0.4}, sticky=True)
    head = serve(head={"mine": ["127.0.0.1", agent.port]})
    tasks(10)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+num_repeats=2"]
    ran = command("+agent_name=mine", f"+head_server.port={head.port}", *files, "+count_as_zero=failed")
    assert ran.code == 1
    sent = agent.stats()["last"][0]["verify_responses"]
    keys = [(row["_ng_task_index"], row["_ng_rollout_index"]) for row in sent]
    assert keys == [(task, index) for task in range(10) for index in range(2)]
    zeros = [row for row in sent if "response" not in row]
    assert f"counted with reward 0: {len(zeros)} failed" in ran.stderr
    assert {row["reward"] for row in zeros} == {0.0}
