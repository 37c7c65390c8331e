"""The packaged example agents."""

from __future__ import annotations

import asyncio
import statistics
from contextlib import AsyncExitStack
from typing import Any

import pytest

from ng_rollouts.agents.example.problems import Step, count_correct_steps, final_answer, solve
from ng_rollouts.agents.factory import resolve_agents
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.types import AgentRequest

PROBLEM = "Ana has 6 pens. Ana buys 2, buys 5 and then loses 1 pens. How many?"


def test_problems_are_solved_step_by_step() -> None:
    """The steps come from a word problem or from an expression; a text with neither has no steps."""
    story = "Ana has 6 pens. Ana gives away 2, buys 5 and then loses 1 pens. How many?"
    assert [step.result for step in solve(story)] == [4, 9, 8]
    assert solve("What is 2 + 3 x 4?") == [Step(2, "+", 3), Step(5, "*", 4)]
    assert solve("Who are you?") == []
    assert count_correct_steps("6 - 2 = 4\n4 + 5 = 8") == (1, 2)
    assert (final_answer("5 and -3."), final_answer("none")) == (-3, None)


def run_example(count: int = 1, name: str = "example_math_agent", **params: Any) -> list[Any]:
    """The replies of a packaged example to `count` rollouts of one task."""

    async def run() -> list[Any]:
        params_of_row = {"input": [{"role": "user", "content": PROBLEM}], **params}
        config = CollectConfig(input_jsonl_fpath="i", output_jsonl_fpath="o")
        async with AsyncExitStack() as stack:
            agent = (await resolve_agents({name: 1}, config, stack))[name]
            rows = [
                {"_ng_task_index": 0, "_ng_rollout_index": index, "responses_create_params": params_of_row}
                for index in range(count)
            ]
            return [await agent.run(AgentRequest(0, row)) for row in rows]

    return asyncio.run(run())


def answer_text(reply: Any) -> str:
    """The text of the last output item."""
    return str(reply["response"]["output"][-1]["content"][0]["text"])


def test_temperature_lowers_rewards_and_raises_their_spread() -> None:
    """With temperature, the mean reward falls, its standard deviation rises, and more answers are distinct."""
    cold, warm, hot = ([*run_example(200, temperature=t)] for t in (0.2, 0.5, 0.9))
    means = [statistics.mean(reply["reward"] for reply in replies) for replies in (cold, warm, hot)]
    spreads = [statistics.stdev(reply["reward"] for reply in replies) for replies in (cold, warm, hot)]
    distinct = [len({answer_text(reply) for reply in replies}) / 200 for replies in (cold, warm, hot)]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.85
    assert spreads == sorted(spreads)
    assert 0.2 < distinct[0] < 0.5 < distinct[1] < 0.8 < distinct[2] < 0.96


def test_seed_determines_the_answer() -> None:
    """Temperature 0 or a seed, also one in `extra_body`, gives the same answer each time; otherwise answers differ."""
    assert len({answer_text(reply) for reply in run_example(20, temperature=0)}) == 1
    assert all(reply["reward"] == 1 for reply in run_example(20, temperature=0))
    assert len({answer_text(reply) for reply in run_example(20, temperature=1, seed=3)}) == 1
    [direct] = run_example(temperature=1, seed=3)
    [routed] = run_example(temperature=1, metadata={"extra_body": '{"seed": 3}'})
    assert answer_text(direct) == answer_text(routed)
    assert len({answer_text(reply) for reply in run_example(20, temperature=1)}) > 10


def test_tool_agent_returns_a_call_its_output_and_a_message() -> None:
    """The output of the example tool agent has several items."""
    [reply] = run_example(name="example_tool_agent")
    assert [item["type"] for item in reply["response"]["output"]] == [
        "function_call",
        "function_call_output",
        "message",
    ]


@pytest.mark.parametrize("name", ["example_math_agent", "example_tool_agent"])
def test_prompt_without_a_problem_gets_reward_zero(name: str) -> None:
    """An example agent answers a prompt without an arithmetic problem by saying so, with reward 0."""
    [reply] = run_example(name=name, input="Who are you?")
    assert reply["reward"] == 0
    assert "could not find" in answer_text(reply)
