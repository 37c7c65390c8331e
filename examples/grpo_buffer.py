"""Fill a trainer's buffer while rollouts are collected, and compute the advantages within each group.

Run it with `python examples/grpo_buffer.py`. After an interruption, run it again to resume.
"""

import asyncio
import statistics
from pathlib import Path

from ng_rollouts import collect_groups

BATCH = 8


def advantages(group: list[dict]) -> list[float]:
    """The rewards of a group, standardised by its mean and standard deviation (GRPO, arXiv:2402.03300)."""
    rewards = [row["reward"] for row in group]
    mean, deviation = statistics.mean(rewards), statistics.pstdev(rewards)
    return [(reward - mean) / (deviation + 1e-6) for reward in rewards]


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
    # groups arrive in the order in which they complete
    async for group in groups:
        if len({row["reward"] for row in group}) == 1:
            skipped += 1  # all advantages would be 0
            continue
        buffer.append((group, advantages(group)))
        if len(buffer) == BATCH:
            step += 1
            mean = statistics.mean(row["reward"] for rows, _ in buffer for row in rows)
            print(f"step {step}: {BATCH} groups, mean reward {mean:.3f}")  # put your optimiser step here
            buffer.clear()
    print(f"skipped {skipped} groups with equal rewards")


if __name__ == "__main__":
    asyncio.run(main())
