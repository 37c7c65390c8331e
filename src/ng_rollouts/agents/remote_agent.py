"""An agent behind `POST {agent}/run`, with one URL or several."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from ng_rollouts.agents.episodes import result_of_episode
from ng_rollouts.http.client import Http, Reply
from ng_rollouts.http.json_reply import json_object
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.http.rate_limiter import RateLimiter
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.models.attempt import session_headers
from ng_rollouts.models.request import Request, total_tokens
from ng_rollouts.redaction import remember_url
from ng_rollouts.seeds import seed_in_extra_body
from ng_rollouts.types import AgentRequest, Json

if TYPE_CHECKING:
    from ng_rollouts.agents.server_config import EnvironmentServer

_REFUSALS = (b"forbid", b"not permitted", b"not allowed", b"extra", b"unknown", b"unrecognized", b"unexpected")
"""Parts of validation errors, in lower case, that mean that a key is not accepted."""


_ROLLOUT_ID = "_ng_rollout_id"
_ATTEMPT = "_ng_attempt_index"


class RemoteAgent:
    """An agent server; several URLs share the load.

    A `seed` is sent among the sampling parameters. NeMo Gym's agents reject that key with a 422. After the first such
    reply, this agent sends the seed in `metadata.extra_body`, and the rejected row is sent again at once.

    Args:
        is_listed: whether a head server lists the agent, which makes it an agent of NeMo Gym.
        environment: the environment server that answers for the agent, if there is one.
    """

    scores = True
    is_remote = True
    model = None

    def __init__(
        self,
        urls: list[str],
        http: Http,
        rate_limiter: RateLimiter | None = None,
        *,
        is_listed: bool = False,
        environment: EnvironmentServer | None = None,
    ) -> None:
        self._is_listed = is_listed
        self._environment = environment
        self._urls = urls
        for url in urls:
            remember_url(url)
        self.load_balancers = [LoadBalancer([_run_url(url) for url in urls], rate_limiter)]
        self._http = http
        self._refuses_seed = False
        self._run_id = secrets.token_hex(4)

    @property
    def environment_server(self) -> str | None:
        """The name of the environment server that answers for the agent."""
        return self._environment.name if self._environment else None

    @property
    def may_run_twice(self) -> bool:
        """True unless an environment server answers. The number of the attempt tells the names of both apart."""
        return self._environment is None

    @property
    def aggregate_metrics_url(self) -> str | None:
        """The URL of NeMo Gym's `/aggregate_metrics`; None unless a head server lists this agent."""
        return self._urls[0].rstrip("/") + "/aggregate_metrics" if self._is_listed else None

    def check(self, row: Json) -> None:
        """Accept every task: the server checks tasks itself."""

    def scores_again(self, response: Json) -> bool:  # noqa: ARG002 - the interface's
        """False: only the server can score, and it answers anew."""
        return False

    def first_request(self, row: Json) -> Request:
        """The first request for a row."""
        return Request("/run", {}, row)

    async def run(self, request: AgentRequest) -> Json:
        """Send the row to the endpoint that the load balancer picks."""
        marks = self._mark(request)
        reply = await self.load_balancers[0].send(
            request.task_index,
            lambda url: self._run_at(url, request.body),
            tokens_of=lambda reply: total_tokens(usage_of(reply)),
        )
        if "episode_id" in request.body:
            reply = result_of_episode(reply)
        return {**reply, **marks} if marks else reply

    def _mark(self, request: AgentRequest) -> Json:
        """Name a rollout of a listed agent, in its request; the fields that mark its row."""
        if not self._is_listed:
            return {}
        marks = self._environment.stamps if self._environment else {}
        body = request.body
        if "episode_id" in body:
            return marks
        # Captures of NeMo Gym's servers are files of this name. Neither one of an earlier run nor that of another
        # repeat must be written to again.
        task_index, rollout_index = body["_ng_task_index"], body["_ng_rollout_index"]
        if own := body.get(_ROLLOUT_ID):
            rollout_id = f"{own}.{rollout_index}" if rollout_index else own
        else:
            rollout_id = f"{self._run_id}.{task_index}-{rollout_index}"
        body[_ROLLOUT_ID] = rollout_id
        # From the second attempt on, the number of the attempt belongs to the name.
        attempt = {name: body[name] for name in (_ATTEMPT,) if body.get(name)}
        return {**marks, _ROLLOUT_ID: rollout_id, **attempt}

    async def _run_at(self, url: str, request: Json) -> Json:
        has_seed = (request.get("responses_create_params") or {}).get("seed") is not None
        # rollouts in flight at the first refusal each find out by themselves, which costs one request each
        if has_seed and not self._refuses_seed:
            reply = await self._http.post(url, dumps(request), session_headers())
            if not _refuses_seed(reply):
                return json_object(reply)
            self._refuses_seed = True
        if has_seed:
            request = seed_in_extra_body(request)
        return json_object(await self._http.post(url, dumps(request), session_headers()))


def usage_of(reply: Json) -> Json | None:
    """The usage in a reply's response; None if it has none."""
    response = reply.get("response")
    usage = response.get("usage") if isinstance(response, dict) else None
    return usage if isinstance(usage, dict) else None


def _run_url(url: str) -> str:
    base = url.rstrip("/")
    return base if base.endswith("/run") else f"{base}/run"


def _refuses_seed(reply: Reply) -> bool:
    """True if a server rejected the key `seed` with status 422."""
    if reply.status != 422:
        return False
    try:
        # FastAPI's validation errors: only those about `seed` count
        errors = [error for error in loads(reply.body)["detail"] if error["loc"][-1] == "seed"]
        text = dumps(errors)
    except (ValueError, KeyError, TypeError, IndexError):
        text = reply.body
    text = text.lower()
    return b"seed" in text and any(refusal in text for refusal in _REFUSALS)
