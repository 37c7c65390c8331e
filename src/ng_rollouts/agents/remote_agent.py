"""An agent behind `POST {agent}/run`, at one address or several."""

from __future__ import annotations

from ng_rollouts.http.client import Http, Reply
from ng_rollouts.http.json_reply import json_object
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.http.rate_limiter import RateLimiter
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.models.request import Request, total_tokens
from ng_rollouts.redaction import remember_password_of
from ng_rollouts.seeds import seed_in_extra_body
from ng_rollouts.types import AgentRequest, Json

_FORBIDDING = (b"forbid", b"not permitted", b"not allowed", b"extra", b"unknown", b"unrecognized", b"unexpected")


class RemoteAgent:
    """An agent server; several addresses share the load.

    A `seed` goes with the sampling parameters. An agent that refuses the key there, as NeMo Gym's do, has it from
    then on in `metadata.extra_body`, and the row that was refused is sent again at once.

    Args:
        is_listed: whether a head server told its address, so that it is one of NeMo Gym's.
    """

    scores = True
    is_remote = True
    model = None

    def __init__(
        self, urls: list[str], http: Http, rate_limiter: RateLimiter | None = None, *, is_listed: bool = False
    ) -> None:
        self._is_listed = is_listed
        self._urls = urls
        for url in urls:
            remember_password_of(url)
        self.load_balancers = [LoadBalancer([_run_url(url) for url in urls], rate_limiter)]
        self._http = http
        self._refuses_seed = False

    @property
    def aggregate_metrics_url(self) -> str | None:
        """NeMo Gym's `/aggregate_metrics`, if a head server listed this agent."""
        return self._urls[0].rstrip("/") + "/aggregate_metrics" if self._is_listed else None

    def check(self, row: Json) -> None:
        """The server checks its tasks itself."""

    def first_request(self, row: Json) -> Request:
        """What the server would be sent."""
        return Request("/run", {}, row)

    async def run(self, request: AgentRequest) -> Json:
        """Send the row to the best endpoint."""
        return await self.load_balancers[0].send(
            request.task_index,
            lambda url: self._run_at(url, request.body),
            tokens_of=lambda reply: total_tokens(usage_of(reply)),
        )

    async def _run_at(self, url: str, request: Json) -> Json:
        has_seed = request["responses_create_params"].get("seed") is not None
        if has_seed and not self._refuses_seed:
            reply = await self._http.post(url, dumps(request))
            if not _refuses_seed(reply):
                return json_object(reply)
            self._refuses_seed = True
        if has_seed:
            request = seed_in_extra_body(request)
        return json_object(await self._http.post(url, dumps(request)))


def usage_of(reply: Json) -> Json | None:
    """The usage that a reply's response tells."""
    response = reply.get("response")
    usage = response.get("usage") if isinstance(response, dict) else None
    return usage if isinstance(usage, dict) else None


def _run_url(url: str) -> str:
    base = url.rstrip("/")
    return base if base.endswith("/run") else f"{base}/run"


def _refuses_seed(reply: Reply) -> bool:
    """Whether a 422 says that `seed` is a key it forbids (pydantic's `extra_forbidden`, or words to that effect)."""
    if reply.status != 422:
        return False
    try:
        errors = [error for error in loads(reply.body)["detail"] if error["loc"][-1] == "seed"]
        text = dumps(errors)
    except (ValueError, KeyError, TypeError, IndexError):
        text = reply.body
    text = text.lower()
    return b"seed" in text and any(word in text for word in _FORBIDDING)
