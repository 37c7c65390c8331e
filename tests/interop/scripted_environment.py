"""A resources server of NeMo Gym 0.7 whose verdicts are in the tasks: `outcomes`, one for each rollout.

Each outcome has the fields of the verifier's reply, such as `reward` and `mask_sample`. One with `judge_failed` is a
failed judge in the first attempt, and has the reward in later ones.
"""

from __future__ import annotations

from typing import Any

from nemo_gym.base_resources_server import (
    BaseResourcesServerConfig,
    BaseVerifyRequest,
    BaseVerifyResponse,
    SimpleResourcesServer,
)
from nemo_gym.judge import JudgeError
from nemo_gym.reward_profile import compute_pass_majority_metrics
from pydantic import ConfigDict


class Request(BaseVerifyRequest):  # type: ignore[misc] # NeMo Gym is not installed where mypy runs
    """A task with its outcomes and indices."""

    model_config = ConfigDict(extra="allow")


class Reply(BaseVerifyResponse):  # type: ignore[misc]
    """The task with an outcome."""

    model_config = ConfigDict(extra="allow")


class ScriptedEnvironment(SimpleResourcesServer):  # type: ignore[misc]
    """Scores each rollout as its task says."""

    config: BaseResourcesServerConfig

    async def verify(self, body: Request) -> Reply:
        """The outcome of the rollout's index."""
        task = body.model_dump()
        outcome = dict(task.pop("outcomes")[task["_ng_rollout_index"]])
        if outcome.pop("judge_failed", False) and not task.get("_ng_attempt_index"):
            raise JudgeError("the judge is not available")
        return Reply(**{**task, **outcome})

    def compute_metrics(self, tasks: list[list[dict[str, Any]]]) -> dict[str, Any]:
        """pass@k of the rewards."""
        metrics: dict[str, Any] = compute_pass_majority_metrics(tasks, score_fn=lambda row: {"best": row["reward"]})[0]
        return metrics


if __name__ == "__main__":
    ScriptedEnvironment.run_webserver()
