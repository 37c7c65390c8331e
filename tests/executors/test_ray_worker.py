"""A Ray actor: its configuration, and what crosses the boundary of its process."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import time
from collections.abc import Callable, Iterator

import pytest

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import AttemptFailed
from ng_rollouts.executors.ray_worker import (
    AttemptOutcome,
    AttemptRequest,
    RayWorker,
    failure_from_values,
    failure_to_values,
    per_actor_config,
)
from ng_rollouts.models.attempt import AttemptTokens, count_usage
from ng_rollouts.types import Rollout, RolloutKey, Tokens
from tests.models.helpers import response_of
from tests.servers import Served


@pytest.fixture(autouse=True)
def enabled_logger() -> Iterator[None]:
    """An actor disables the logger of its process, which is that of the tests here."""
    yield
    logging.getLogger("ng_rollouts").disabled = False


def test_actors_share_the_rate_limit() -> None:
    """Each actor gets an equal share of `max_requests_per_minute`, so that together they respect it."""
    config = CollectConfig(input_jsonl_fpath="i", output_jsonl_fpath="o", max_requests_per_minute=240)
    assert per_actor_config(config, 2).max_requests_per_minute == 120
    assert per_actor_config(config, 2).max_tokens_per_minute is None


def test_kept_answer_crosses_the_boundary_of_the_process(serve_model: Callable[..., Served]) -> None:
    """An actor scores the answer of a request without asking its model, and a failure brings its answer back."""
    model = serve_model(text="5")
    config = CollectConfig(
        input_jsonl_fpath="i",
        output_jsonl_fpath="o",
        policy_base_url=f"{model.url}/v1",
        policy_api="responses",
        verifier={"kind": "exact_match"},
    )
    key, params = RolloutKey(0, 0), {"responses_create_params": {"input": "2 + 3?"}}
    scored = Rollout(0, key, "a", "p", {**params, "expected_answer": "5"})
    requests = [AttemptRequest(0, scored, 1, response_of("5"))]

    async def outcomes() -> list[AttemptOutcome]:
        worker = RayWorker(config, {"a": 1})
        await worker.start(1)
        await worker.submit(pickle.loads(pickle.dumps(requests)))
        taken = await worker.take(300)
        await worker.close()
        return taken

    [outcome] = asyncio.run(outcomes())
    assert outcome.result
    assert json.loads(outcome.result.line)["reward"] == 1.0
    assert "/v1/responses" not in model.stats()["asked"]
    failure = AttemptFailed("judge_timeout", "late", kept={"response": response_of("5")})
    values = pickle.loads(pickle.dumps(failure_to_values(failure)))
    assert failure_from_values(values).kept == failure.kept


def test_failure_keeps_how_long_ago_its_request_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The concurrency limit needs it, and the clock of the actor is another one."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    failure = AttemptFailed("http_429", "slow down")
    assert failure_from_values(failure_to_values(failure)).sent_at is None
    failure.sent_at = 993.0
    values = failure_to_values(failure)
    now = 50.0
    assert failure_from_values(values).sent_at == 43.0


def test_cancelled_attempt_reports_its_tokens() -> None:
    """They are spent; an attempt that is cancelled before its first step has an outcome, too."""

    class Waiting:
        async def call(self, *_: object) -> None:
            count_usage({"input_tokens": 1000, "output_tokens": 500})
            count_usage({"input_tokens": 70}, is_judge=True)
            await asyncio.Event().wait()

    async def outcomes() -> list[AttemptOutcome]:
        worker = RayWorker(CollectConfig(input_jsonl_fpath="i", output_jsonl_fpath="o"), {"a": 1})
        worker._executor = Waiting()  # type: ignore[assignment]
        rollout = Rollout(0, RolloutKey(0, 0), "a", "p", {})
        await worker.submit([AttemptRequest(0, rollout)])
        await asyncio.sleep(0)
        await worker.submit([AttemptRequest(1, rollout), *map(AttemptRequest.cancellation, (0, 1))])
        taken: list[AttemptOutcome] = []
        while len(taken) < 2:
            taken += await worker.take(300)
        return taken

    tokens = AttemptTokens(Tokens(1000, 500), Tokens(70, 0))
    assert sorted(asyncio.run(outcomes())) == [AttemptOutcome(each, tokens=tokens) for each in (0, 1)]
