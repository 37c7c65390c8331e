"""A resources server of NeMo Gym as a verifier of answers that were collected earlier."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from ng_rollouts.agents.resources_server import ResourcesSession
from ng_rollouts.errors import AttemptFailed, ConfigError
from ng_rollouts.http.client import Http
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.jsonl import loads
from ng_rollouts.redaction import without_credentials
from ng_rollouts.types import Json

_STATELESS = "stateless"

_NOT_OF_THE_SCORE = ("responses_create_params", "response", "agent_ref", "_ng_task_index", "_ng_rollout_index")
"""Fields of the reply to `/verify` that repeat its request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourcesScorer:
    """Asks `/verify` for a score, without the session in which the answer was given."""

    url: str
    http: Http
    load_balancers: Sequence[LoadBalancer] = ()
    scores: ClassVar[bool] = True

    async def check_stateless(self) -> None:
        """Ask the server whether a score depends on the row and the response only, as NeMo Gym's `reverify` does.

        Raises:
            ConfigError: it does not say so.
        """
        mode: object = None
        with suppress(AttemptFailed, ValueError):
            reply = await self.http.get(f"{self.url.rstrip('/')}/reverify_mode")
            mode = loads(reply.body) if reply.status == 200 else None
        mode = mode.get("mode", mode.get("reverify_mode")) if isinstance(mode, dict) else mode
        if mode != _STATELESS:
            says = f"says {mode!r}" if isinstance(mode, str) else "has no /reverify_mode"
            raise ConfigError(
                f"resources_base_url {without_credentials(self.url)} {says}, so its scores may depend on the session "
                "of the rollout: collect again, or add +force=true if you know that they do not"
            )

    def check(self, row: Json) -> None:
        """Accept every row: the server checks rows itself."""

    async def verify(self, row: Json, response: Json) -> Json:
        """Score a response.

        Raises:
            AttemptFailed: the server replied with an error, or not with a JSON object.
        """
        scored = await ResourcesSession(self.url, self.http, ()).verify(row, response)
        return {name: value for name, value in scored.items() if name not in _NOT_OF_THE_SCORE}
