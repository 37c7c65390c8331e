"""Replies and files with odd values: each costs its own rollout at most, never the run, a resume or a reading command."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.http.client import Reply
from ng_rollouts.http.json_reply import json_object
from ng_rollouts.metrics.result_rows import result_of
from ng_rollouts.types import Rollout, RolloutKey
from tests.conftest import FILES, RESUME, Ran, read_rows
from tests.rollout_files import write_rows
from tests.servers import serve_connections

Command = Callable[..., Ran]

OK = b'{"reward": 1.0, "response": {"output": []}}'
ROWS: dict[str, bytes] = {
    "surrogate in a score's name": rb'{"reward":1.0,"a\ud800":2.0}',
    "surrogate in the agent's name": rb'{"reward":1.0,"agent_ref":{"name":"x\udfff"}}',
    "surrogate in the answer": rb'{"reward":1.0,"extracted_answer":"\ud800","output":[{"role":"\udc00"}]}',
    "tokens of 400 digits": b'{"reward":1.0,"response":{"output":[],"usage":{"output_tokens":' + b"9" * 400 + b"}}}",
    "odd tokens": b'{"reward":1.0,"response":{"usage":{"input_tokens":-5,"output_tokens":"x","total_tokens":true}}}',
    "large integer": b'{"reward":1.0,"n":123456789012345678901234}',
    "other keys": b'{"reward":1.0,"_ng_task_index":99,"_ng_rollout_index":-1,"prompt_id":7}',
    "no name": b'{"reward":1.0,"":1,"\\u0000":2,"a\\nb\\u001b[31m":1}',
    "long name": b'{"reward":1.0,"' + b"n" * 100_000 + b'":1}',
    "response is text": b'{"reward":1.0,"response":"x"}',
    "output is an object": b'{"reward":1.0,"response":{"output":{"a":1}}}',
    "odd items": b'{"reward":1.0,"response":{"output":[1,null,"x",{"type":"message","content":5},{"arguments":7}]}}',
    "reward is a bool": b'{"reward":true}',
}
FAILURES: dict[str, bytes] = {
    "surrogate in the failure": rb'{"_ng_failure_class":"bad\ud800","_ng_failure_message":"m\udc00"}',
    "deep nesting with a large integer": b'{"n":12345678901234567890,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep nesting": b'{"reward":1.0,"x":' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    "integer of 5000 digits": b'{"reward":1.0,"n":' + b"1" * 5000 + b"}",
    "reward of 400 digits": b'{"reward":' + b"9" * 400 + b"}",
    "reward is infinite": b'{"reward":1e999}',
    "reward is text": b'{"reward":"1"}',
    "latin 1": b'{"reward":1.0,"t":"\xe9"}',
    "list": b"[1]",
    "empty": b"",
}


@pytest.mark.parametrize("body", [*ROWS.values(), *FAILURES.values()], ids=[*ROWS, *FAILURES])
def test_odd_reply_costs_its_rollout_at_most(command: Command, tmp_path: Path, body: bytes) -> None:
    """One of three replies is odd: the others are collected, a resume works, and every command reads the output."""
    rows = [{"responses_create_params": {"input": text}} for text in ("first", "odd", "last")]
    write_rows(tmp_path / "tasks.jsonl", rows)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            await answer_all(reader, writer)

    async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"content-length: (\d+)", head.lower())
            asked = await reader.readexactly(int(length[1])) if length else b""
            reply = body if b'"odd"' in asked else OK
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(reply) + reply)
            await writer.drain()

    with serve_connections(answer) as port:
        run = [*FILES, f"+agent_url=http://127.0.0.1:{port}", "+max_attempts=1"]
        code = 0 if body in ROWS.values() else 1
        for further in ([], [RESUME]):
            ran = command(*run, *further)
            assert (ran.code, "Traceback" in ran.stderr) == (code, False), ran.stderr
    assert len(read_rows(tmp_path / "r.jsonl")) == (3 if code == 0 else 2)
    for script, arguments in (
        ("ng_reward_profile", ["+rollouts_jsonl_fpath=r.jsonl", "+allow_partial_rollouts=true"]),
        ("ng_view_rollouts", ["+input_jsonl_fpath=r.jsonl"]),
        ("ng_export_rollouts", ["+recipe=sft", "+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=x.jsonl"]),
        ("ng_aggregate_rollouts", ["+input_glob=r.jsonl", "+output_jsonl_fpath=m.jsonl"]),
        ("ng_compare_rollouts", ["+rollouts_jsonl_fpaths=r.jsonl,m.jsonl"]),
    ):
        read = command(*arguments, script=script)
        assert read.code == (1 if code and script == "ng_aggregate_rollouts" else 0), (script, read.stderr)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["reward", "accuracy", "response", "output", "usage", "content", "type", "role", "input", "agent_ref", "name",
     "extracted_answer", "_ng_failure_class", "_ng_no_persist", "_ng_failure_message", "responses_create_params",
     "tool_calls", "function", "arguments", "summary", "incomplete_details", "output_tokens", "prompt_id"]
)  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    reply=st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5))
)
def test_any_reply_is_a_row_or_a_failed_attempt(reply: Any) -> None:
    """Whatever JSON a server sends becomes a row that can be read again, or a failure with a class."""
    row = {"responses_create_params": {"input": "q"}}
    rollout = Rollout(position=0, key=RolloutKey(0, 0), agent="a", prompt_id="0", row=row, seed=None)
    try:
        parsed = json_object(Reply(200, lambda _: None, lambda _: [], json.dumps(reply).encode()))
        result = result_of(rollout, parsed, training_view=True)
    except AttemptFailed as failure:
        assert failure.failure_class  # noqa: PT017 - both ends are right
        return
    assert json.loads(result.line)["_ng_task_index"] == 0
    assert all(isinstance(score, float) for score in result.stats.scores.values())


@pytest.mark.parametrize("name", ["r_manifest.json", "r_failures.jsonl", "r_incomplete.jsonl", "r_summary.json"])
@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "7", '"x"', "{}", '{"version": "1"}', '{"version": 1, "input_rows": "x"}', "{", "\0", "\ud800",
     '{"_ng_task_index": "0", "_ng_rollout_index": null}', '{"_ng_task_index": 1e400, "_ng_rollout_index": 0}',
     '{"_ng_task_index": 99999999999999999999, "_ng_rollout_index": 0, "num_attempts": -1}',
     '{"_ng_task_index": 0, "_ng_rollout_index": 0, "num_attempts": "x", "failure_class": 7, "agent_ref": []}'],
)  # fmt: skip
def test_damaged_side_file_is_one_line_or_ignored(command: Command, tmp_path: Path, name: str, content: str) -> None:
    """A side file with fields of the wrong type never ends a resume or a reading command with an unexpected error."""
    run = ["+agent_name=example_math_agent", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    write_rows(tmp_path / "tasks.jsonl", [{"responses_create_params": {"input": "1 + 1"}, "expected_answer": "2"}])
    assert command(*run).code == 0
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    for script, arguments in (
        ("ng_collect_rollouts", [*run, RESUME, "+num_repeats=2"]),
        ("ng_view_rollouts", ["+input_jsonl_fpath=r.jsonl"]),
        ("ng_reward_profile", ["+rollouts_jsonl_fpath=r.jsonl", "+allow_partial_rollouts=true"]),
        ("ng_aggregate_rollouts", ["+input_glob=r.jsonl", "+output_jsonl_fpath=m.jsonl"]),
    ):
        ran = command(*arguments, script=script)
        assert ran.code in (0, 1, 2), (script, ran.stderr)
        assert "Traceback" not in ran.stderr
