"""Second attempts at rollouts that take long."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran, keys_of, sums
from tests.servers import Served

FILES = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=rollouts.jsonl"]


def test_second_attempt_goes_to_another_server(
    serve_model: Callable[..., Served], command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Rollouts at a server that hangs are answered by the other one; each has one row, and the summary counts them."""
    hanging, healthy = serve_model(latency=600), serve_model()
    tasks(sums(5))
    urls = f"+policy_base_url=[{hanging.url}/v1,{healthy.url}/v1]"
    ran = command(*FILES, urls, "+policy_api=chat_completions", "+hedge_after=0.2", "+verifier=none")
    assert ran.code == 0, ran.stderr
    asked = hanging.stats()["asked"]["/v1/chat/completions"]
    summary = json.loads((tmp_path / "rollouts_summary.json").read_text())
    assert summary["hedged"] == summary["hedged_won"] == asked > 0
    assert keys_of(tmp_path / "rollouts.jsonl") == [(task, 0) for task in range(5)]
    assert healthy.stats()["asked"]["/v1/chat/completions"] == 5
    assert f"hedged: {asked} rollout" in ran.stderr
    assert f"had a second attempt, of which {asked} answered first" in ran.stderr


def test_agents_that_may_keep_state_get_no_second_attempt(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Python agents get none, and the command says so."""
    tasks(sums(5))
    (tmp_path / "napping.py").write_text(
        "import asyncio\nasync def answer(row, client):\n    await asyncio.sleep(0.1)\n    return {'reward': 1.0}\n"
    )
    ran = command(*FILES, "+agent_name=napping", "+agents.napping._target_=napping.answer", "+hedge_after=0.01")
    assert ran.code == 0, ran.stderr
    assert "note: hedge_after does not apply to napping" in ran.stderr
    assert "had a second attempt" not in ran.stderr


@pytest.mark.parametrize("value", ["0", "p5", "p100", "soon", "-1", "true"])
def test_wrong_threshold_is_an_error(collect_sums: Callable[..., Ran], value: str) -> None:
    """`hedge_after` is a positive number of seconds, or a percentile of two digits."""
    ran = collect_sums("http://127.0.0.1:1", f"+hedge_after={value}")
    assert ran.code == 2
    assert "hedge_after must be a number of seconds or a percentile such as p99" in ran.stderr
