"""The diversity of completions and answers in a reward profile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Ran, read_rows
from tests.rollout_files import write_rows


def test_profile_counts_distinct_completions(command: Callable[..., Ran], tmp_path: Path) -> None:
    """A profile gives the share of distinct last messages over all rows and per task, for rows of NeMo Gym too."""
    texts = [["Four.", "four. ", "Five."], ["Four.", "Four.", "Four."]]
    rows = [
        {
            "reward": 1.0,
            "_ng_task_index": task,
            "_ng_rollout_index": index,
            "output": [{"role": "assistant", "content": text}],
        }
        for task, task_texts in enumerate(texts)
        for index, text in enumerate(task_texts)
    ]
    # a row as NeMo Gym writes it: the message is only in the response
    content = [{"type": "output_text", "text": "Four."}]
    rows[4] |= {"output": None, "response": {"output": [{"type": "message", "role": "assistant", "content": content}]}}
    write_rows(tmp_path / "r.jsonl", rows)
    ran = command("+rollouts_jsonl_fpath=r.jsonl", script="ng_reward_profile")
    assert "Distinct completions: 3/6 (50.0%), 2 ignoring case and white space" in ran.stdout
    first, second = read_rows(tmp_path / "r_reward_profiling.jsonl")
    assert (first["share_distinct_completions"], first["share_distinct_completions_normalised"]) == (1.0, 2 / 3)
    assert second["share_distinct_completions"] == 1 / 3
