"""`ng_rescore_rollouts`: score collected rollouts again, without asking the model again."""

from __future__ import annotations

import sys
from typing import NoReturn

from ng_rollouts.cli.simple_command import run_command
from ng_rollouts.rescoring.config import RescoreConfig
from ng_rollouts.rescoring.run import rescore


def main() -> NoReturn:
    """Run `ng_rescore_rollouts`."""
    run_command(
        "ng_rescore_rollouts",
        RescoreConfig,
        run,
        example="+rollouts_jsonl_fpath=rollouts.jsonl +output_jsonl_fpath=rescored.jsonl +verifier=math",
    )


def run(config: RescoreConfig) -> int:
    """Score the rollouts of a file again, and return the exit code."""
    return rescore(config, ["ng_rescore_rollouts", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
