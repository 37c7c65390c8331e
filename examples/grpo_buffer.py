"""A trainer's buffer that fills while rollouts are collected: groups as they complete, advantages within each.

python examples/grpo_buffer.py    (started again after an interruption, it goes on with the same file)
"""

import asyncio
import statistics
from pathlib import Path

from ng_rollouts import collect_groups

BATCH = 8


def advantages(group: list[dict]) -> list[float]:
    """Rewards in units of their group's spread, as group-relative policy optimisation has them."""
    rewards = [row["reward"] for row in group]
    mean, spread = statistics.mean(rewards), statistics.pstdev(rewards)
    return [(reward - mean) / (spread + 1e-6) for reward in rewards]


async def main() -> None:
    buffer, step, skipped = [], 0, 0
    groups = collect_groups(
        agent_name="example_math_agent",
        input_jsonl_fpath=Path(__file__).parent / "arithmetic.jsonl",
        output_jsonl_fpath="outputs/grpo.jsonl",
        num_repeats=8,
        num_samples_in_parallel=32,
        limit=40,
        responses_create_params={"temperature": 0.9},
        resume_from_cache=True,
    )
    async for group in groups:
        if len({row["reward"] for row in group}) == 1:
            skipped += 1  # no signal
            continue
        buffer.append((group, advantages(group)))
        if len(buffer) == BATCH:
            step += 1
            mean = statistics.mean(row["reward"] for rows, _ in buffer for row in rows)
            print(f"step {step}: {BATCH} groups, mean reward {mean:.3f}")  # your optimiser's step goes here
            buffer.clear()
    print(f"{skipped} groups gave no signal")


if __name__ == "__main__":
    asyncio.run(main())
