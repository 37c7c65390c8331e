"""Collecting with a judge that compares the rollouts of a task: first all answers, then the scores of whole groups."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from ng_rollouts.agents.factory import open_factory
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import log
from ng_rollouts.errors import ConfigError, RolloutsFailed, WallTimeOver
from ng_rollouts.outputs.paths import output_paths
from ng_rollouts.rescoring.config import RescoreConfig
from ng_rollouts.rescoring.run import rescore
from ng_rollouts.run.run import run
from ng_rollouts.verifiers.registry import verifier_options

UNSCORED = "_unscored.jsonl"
"""Ending of the file with the answers, which is an output with side files itself."""


def collect_and_score_groups(config: CollectConfig, command: Sequence[str] = ()) -> int:
    """Collect answers into `<stem>_unscored.jsonl`, then score their groups into the output; the exit code.

    A resume continues both steps.

    Raises:
        UsageError: something is wrong that can be known before the first request.
        RolloutsFailed: more rollouts failed than allowed; everything that could be scored is in the output.
        StoppedEarly: continuing was pointless; everything collected is in one of the files.
        Interrupted: a signal ended the run; everything collected is in one of the files.
    """
    _check(config)
    asyncio.run(_check_judge(config))
    answers = output_paths(config.output_jsonl_fpath).side_file(UNSCORED)
    began = time.monotonic()
    failed: RolloutsFailed | None = None
    try:
        # stdout is for the results of the command, which are those of the second step.
        with redirect_stdout(sys.stderr) if not config.dry_run else nullcontext():
            run(_first_step(config, answers), command)
    except RolloutsFailed as error:
        failed = error
    except WallTimeOver as over:
        if not config.stop_ok:
            raise
        log(str(over))
        return 0
    if config.dry_run:
        return 0
    second = _second_step(config, answers, time.monotonic() - began)
    code = rescore(RescoreConfig.of_run(second, str(answers), config.verifier), command, second)
    if failed:
        raise failed
    return code


def _check(config: CollectConfig) -> None:
    if config.num_repeats == 1:
        raise ConfigError("verifier=group_judge compares the rollouts of a task: add +num_repeats=4, or another number")
    for name in ("shard_index", "shard_from", "upload_to"):
        if getattr(config, name) is not None:
            raise ConfigError(f"{name} and verifier=group_judge do not go together: collect with +scoring=defer first")


async def _check_judge(config: CollectConfig) -> None:
    """Check the judge before anything is collected.

    Raises:
        ConfigError: its options are not valid.
        Unreachable: its server does not respond.
    """
    async with AsyncExitStack() as stack:
        factory = await open_factory(config, stack)
        factory.group_verifier(verifier_options(config.verifier))
        await factory.wait_for_servers([])


def _first_step(config: CollectConfig, answers: Path) -> CollectConfig:
    """The run that collects the answers."""
    return replace(
        config,
        output_jsonl_fpath=str(answers),
        verifier={},
        scoring="defer",
        stop_ok=False,  # so that its end is not taken for that of a complete run
        min_mean={},
        export=None,
        report=False,
    )


def _second_step(config: CollectConfig, answers: Path, seconds: float) -> CollectConfig:
    """The run that scores the answers, `seconds` after the command's start."""
    return replace(
        config,
        input_jsonl_fpath=str(answers),
        verifier={},
        limit=None,
        prompt_config=None,
        max_total_tokens=None,
        dispatch_budget_s=None,
        materialized_inputs=False,
        **_time_left(config, seconds),
    )


def _time_left(config: CollectConfig, seconds: float) -> dict[str, Any]:
    """The parameters of the time that is left `seconds` after the command's start."""
    if config.max_wall_s is None:
        return {}
    left, margin_s = config.max_wall_s - seconds, config.wall_margin_s
    if left <= (margin_s or 0):  # over
        return {"max_wall_s": 0.001, "wall_margin_s": None}
    return {"max_wall_s": left}
