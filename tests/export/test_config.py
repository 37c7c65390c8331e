"""Parameters of an export are checked before anything is read or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran
from tests.rollout_files import rollout_row, write_rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+recipe=ppo"], "recipe must be one of sft, dpo, kto, rl, rl_tokens, atif, got 'ppo'"),
        (["+recipe=sft", "+min_reward_gap=0.3"], "min_reward_gap is for recipe=dpo, not sft"),
        (["+recipe=dpo", "+pairing=best"], "pairing must be one of best_worst"),
        (
            ["+recipe=rl", "+min_pass_rate=0.9", "+max_pass_rate=0.1"],
            "min_pass_rate=0.9 is more than max_pass_rate=0.1",
        ),
        (["+recipe=atif", "+min_reward=0.5"], "min_reward is for recipe=dpo or kto or sft, not atif"),
        (["+recipe=sft", "+output_jsonl_fpath=out.parquet"], "out.parquet: Parquet is for recipe=rl_tokens, not sft"),
        (["+recipe=rl", "+on_drift=drop"], "on_drift is for recipe=rl_tokens, not rl"),
        (["+recipe=rl_tokens", "+advantage=gae"], "advantage must be one of grpo, rloo, none, got 'gae'"),
        (["+recipe=rl_tokens", "+threshold=1"], "threshold is for recipe=kto or rl, not rl_tokens"),
        (["+recipe=sft", "+group_by=position"], "group_by=position and num_repeats go together"),
        (["+recipe=sft", "+validation_fraction=1"], "validation_fraction must be >= 0 and less than 1, got 1"),
        (["+recipe=kto", "+threshold=nan"], "threshold must be a finite number, got nan"),
        (["+recipe=sft", "+min_rewards=1"], "did you mean +min_reward=?"),
    ],
)
def test_export_rejects_parameters_that_are_not_valid(
    command: Callable[..., Ran], tmp_path: Path, arguments: list[str], message: str
) -> None:
    """A parameter that is not valid ends with exit code 2 and a one-line message, and no file is written."""
    write_rows(tmp_path / "r.jsonl", [rollout_row(0, 0, 1.0)])
    files = ["+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=out.jsonl"]
    ran = command(*files, *arguments, script="ng_export_rollouts")
    assert (ran.code, message in ran.stderr, ran.stderr.count("\n")) == (2, True, 1), ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]
