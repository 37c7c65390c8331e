"""The rules about one response: each finds its problem, and nothing where an agent may mean it that way."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ng_rollouts.health.checks import Check, findings_in, unobserved_in, verdict_of
from ng_rollouts.health.response import ends_in_loop, is_error
from ng_rollouts.health.rollout import health_of
from tests.conftest import SHARED_DATA
from tests.health.rows import call, findings, message, reasoning, result, row_of

LOOP = "I will check the list again. " * 30


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (row_of(message("42")), []),
        (row_of(reasoning(), message("42")), []),
        (row_of(message(" \n")), ["empty"]),
        (row_of(), ["empty"]),
        (row_of(reasoning()), ["empty", "only_reasoning"]),
        (row_of(message("<think>hm</think>")), ["only_reasoning"]),
        (row_of(message("<think>hm</think>42")), []),
        (row_of(reasoning(), cut="max_output_tokens"), ["only_reasoning", "token_limit"]),
        (row_of(message("cut"), cut="max_output_tokens"), ["token_limit"]),
        (row_of(message("cut"), cut="context_length"), ["token_limit"]),
        (row_of(message("cut"), cut="content_filter"), []),
        (row_of(call("a"), result("a"), cut="max_steps"), ["step_limit"]),
        (row_of(call("a"), result("a"), cut="max_rollout_turns"), ["step_limit"]),
        (row_of(message(LOOP)), ["repetition"]),
        (row_of(reasoning(LOOP), cut="max_output_tokens"), ["only_reasoning", "repetition", "token_limit"]),
        (row_of({"type": "web_search_call"}, reward=1.0), []),
        (row_of({"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}), []),
    ],
)
def test_rule_about_text_and_end(row: dict[str, Any], found: list[str]) -> None:
    """Empty, only reasoning, loops, limits."""
    assert findings(row) == found


@pytest.mark.parametrize(
    ("row", "found"),
    [
        # the call is the answer: the agent runs no tools
        (row_of(call("a")), []),
        (row_of(call("a"), result("a"), message("42")), []),
        (row_of(call("a"), call("b"), result("a"), message("42")), ["tool_never_ran"]),
        (row_of(call("a"), result("a"), call("b")), ["ended_on_tool_call"]),
        (row_of(call("a"), result("a")), ["ended_on_tool_call"]),
        # the environment ended the rollout, and rewarded it
        (row_of(call("a"), result("a"), reward=1.0), []),
        (row_of(call("a"), result("a"), call("b", "submit_answer")), []),
        (row_of(call("a"), result("a"), call("b", "send_email")), ["ended_on_tool_call"]),
        (row_of(call("a"), result("a"), call("b"), cut="max_output_tokens"), ["token_limit"]),
        (row_of(call("a"), result("a", "Error: no"), message("42")), ["tools_always_failed"]),
        (row_of(call("a"), result("a", '{"error": "no"}'), message("42"), reward=1.0), []),
        (row_of(call("a"), result("a", "Error: no"), call("b"), result("b"), message("42")), []),
        (row_of(call(""), call("b"), result("b"), message("42")), []),
        (
            row_of(
                {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "a", "content": "Traceback (most recent call last):"},
                {"role": "assistant", "content": "sorry"},
            ),
            ["tools_always_failed"],
        ),
    ],
)
def test_rule_about_tools(row: dict[str, Any], found: list[str]) -> None:
    """Tools that did not run or only failed, and rollouts that end with a tool; chat messages as well as items."""
    assert findings(row) == found


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        ({"input_tokens": 5, "output_tokens": 0}, ["no_tokens"]),
        ({"input_tokens": 0, "output_tokens": 0}, []),
        ({"output_tokens": None}, []),
        (None, []),
    ],
)
def test_no_tokens_needs_a_server_that_counts(usage: Any, found: list[str]) -> None:
    """0 output tokens are a finding, unless the server reports 0 for everything."""
    row = row_of(message("42"))
    row["response"]["usage"] = usage
    assert findings(row) == found


@pytest.mark.parametrize(
    ("reward", "declared", "found"),
    [
        (1.5, [0, 1], ["reward_out_of_range"]),
        (1.0, [0, 1], []),
        (-0.1, [0, 1], ["reward_out_of_range"]),
        (7.0, None, []),
        (7.0, "0-1", []),
        (7.0, [1, 0], []),
    ],
)
def test_reward_out_of_range_needs_a_range(reward: float, declared: Any, found: list[str]) -> None:
    """A reward is compared with the range in the row, or with that of the task in it; a masked one is not."""
    fields = {"reward_range": declared}
    assert findings(row_of(message("42"), reward=reward, **fields)) == found
    assert findings(row_of(message("42"), reward=reward, _ng_task_fields=fields)) == found
    assert findings(row_of(message("42"), reward=reward, mask_sample=True, **fields)) == []


@pytest.mark.parametrize(
    ("text", "is_loop"),
    [
        (LOOP, True),
        ("A long introduction, which is not repeated. " + LOOP + "I will ch", True),
        (LOOP + "So the answer is 42.", False),
        ("no " * 40, False),
        ("no " * 400, True),
        ("-" * 400, False),
        ("0 0 0 0 0 0 0 0\n" * 30, False),
        ("!" * 5000, True),
        ("".join(f"{n}. item\n" for n in range(500)), False),
        ("same line\n" * 5, False),
    ],
)
def test_loop_is_the_same_passage_many_times_at_the_end(text: str, *, is_loop: bool) -> None:
    """Rulers, grids of numbers, numbered lists and short repetitions are not loops."""
    assert ends_in_loop(text) is is_loop


def test_loop_of_a_long_passage() -> None:
    """A passage of 1,000 characters is found as well."""
    rng = random.Random(0)
    passage = "".join(rng.choice("abcdefgh ") for _ in range(1000))
    assert ends_in_loop(passage * 9)
    assert not ends_in_loop(passage * 4)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ('{"error": "unknown tool"}', True),
        ('{"error": null, "result": 1}', False),
        ('{"error": ""}', False),
        ('{"error"', False),
        ("Error: not found", True),
        ("error executing tool 'f': no", True),
        ("Traceback (most recent call last):\n", True),
        ("Error rate: 3 %", False),
        ("errors found: 0", False),
        ("The error: x", False),
        ([{"type": "input_text", "text": "Error: no"}], True),
        (None, False),
    ],
)
def test_error_of_a_tool_is_recognised_conservatively(output: Any, *, expected: bool) -> None:
    """A text that only mentions an error is a result."""
    assert is_error(output) is expected


@pytest.mark.parametrize("response", [None, {}, {"output": None}, {"usage": {"output_tokens": 0}}, "text", []])
def test_row_without_an_output_has_no_findings(response: Any) -> None:
    """Absent evidence is not a finding."""
    assert findings({"_ng_task_index": 0, "_ng_rollout_index": 0, "response": response}) == []


def test_check_that_fails_is_a_finding() -> None:
    """An odd row never raises an exception."""
    assert findings(row_of({"type": "message", "role": "assistant", "content": [{"text": {}}]})) == ["empty"]
    odd = row_of({"type": ["a"], "content": 1})
    assert findings(odd) == ["check_execution_error"]
    assert verdict_of(health_of(odd).mask) == "unhealthy"


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="needs real rollouts")
def test_real_rollouts_have_no_findings() -> None:
    """None of 40 real rollouts of 8 NeMo Gym servers has a finding.

    Read one by one, each is complete, runs its tools without an error and ends with an answer. Ten have a reward of 0
    because the answer is wrong, which is not a problem of health.
    """
    rows = [
        json.loads(line)
        for path in SHARED_DATA.glob("*/example_rollouts.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(rows) == 40
    assert [found for row in rows if (found := findings(row))] == []


def test_mask_has_findings_and_unobserved_checks() -> None:
    """A mask can be kept as an integer of 64 bits, and gives back its checks in their order."""
    health = health_of(row_of(reasoning(), cut="max_output_tokens"))
    assert health.mask < 2**64
    assert findings_in(health.mask) == (Check.ONLY_REASONING, Check.TOKEN_LIMIT)
    assert len(unobserved_in(health.mask)) == 9
