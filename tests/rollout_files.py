"""Rows of rollouts, and files of them, for tests of the code that reads rollouts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def rollout_row(task: int, index: int, reward: float | None, text: str | None = None, **fields: Any) -> dict[str, Any]:
    """The row of a rollout with one assistant message; it has no reward if that is None."""
    text = f"answer {index}" if text is None else text
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    return {
        "responses_create_params": {"input": [{"role": "user", "content": f"question {task}"}]},
        "response": {"output": [message], "usage": {"output_tokens": len(text.split())}},
        **({} if reward is None else {"reward": reward}),
        "_ng_task_index": task,
        "_ng_rollout_index": index,
        **fields,
    }


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Write a JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_rewards(path: Path, rewards: dict[tuple[int, int], float], question: str = "q") -> Path:
    """Write a file of rollouts with these rewards, by task and rollout index, in this order.

    The answers of a task differ in case and white space only, and tasks alternate between two answers.
    """
    return write_rows(
        path,
        (
            {
                "responses_create_params": {"input": f"{question}{task}"},
                "reward": reward,
                "extracted_answer": f" A{task % 2} " if index else f"a{task % 2}",
                "_ng_task_index": task,
                "_ng_rollout_index": index,
                "agent_ref": {"name": "a"},
            }
            for (task, index), reward in rewards.items()
        ),
    )
