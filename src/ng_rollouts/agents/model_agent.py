"""An agent in the process: a model server answers, tools are called, a verifier scores.

The row that comes out is the one that a NeMo Gym agent server returns: `responses_create_params`, `response` with all
items of all turns and the sum of their usage, `reward`, and the verifier's fields.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from ng_rollouts.agents.resources_server import ResourcesSession
from ng_rollouts.agents.tools import PythonTools
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.http.client import Http
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.models.client import ModelClient
from ng_rollouts.models.request import Request
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.types import AgentRequest, Json
from ng_rollouts.verifiers.base import Verifier

_ATTEMPTS_WITHIN = 3
_OWN_FIELDS = ("_ng_task_index", "_ng_rollout_index", "_ng_attempt_index", "agent_ref")


@dataclass(slots=True, kw_only=True)
class ModelAgent:
    """Asks the model until it has said its last word.

    Attributes:
        params: sampling parameters of this agent, under those of the row.
        resources_url: a resources server, whose tools are called and whose verdict counts unless `verifier` scores.
        tools: functions in the process, for those without such a server.
        max_steps: calls of the model in one rollout.
    """

    server: ModelClient
    verifier: Verifier
    http: Http
    params: Json
    resources_url: str | None = None
    tools: PythonTools | None = None
    max_steps: int = 32
    is_remote: ClassVar[bool] = False
    aggregate_metrics_url: ClassVar[None] = None

    @property
    def scores(self) -> bool:
        """Whether its rows have a reward."""
        return self.verifier.scores or self.resources_url is not None

    @property
    def model(self) -> str | None:
        """The model that it asks for."""
        return self.server.model

    @property
    def load_balancers(self) -> list[LoadBalancer]:
        """What it sends by."""
        return list(dict.fromkeys([self.server.load_balancer, *self.verifier.load_balancers]))

    def check(self, row: Json) -> None:
        """Look at a task before anything is sent.

        Raises:
            InputError: the verifier has no use for it, or no API for its parameters.
        """
        self.verifier.check(row)
        self.server.check(self._params(row))

    def first_request(self, row: Json) -> Request:
        """What the model server would be sent first."""
        return self.server.request(self._params(row))

    async def run(self, request: AgentRequest) -> Json:
        """The reply to a whole row.

        Raises:
            AttemptFailed: the model, a tool's server or the verifier did not do its part.
        """
        try:
            return await self._run(request)
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
            message = f"a reply cannot be made sense of: {type(error).__name__}: {error}"
            raise AttemptFailed(FailureClass.ODD_REPLY, message) from error

    async def _run(self, request: AgentRequest) -> Json:
        session = ResourcesSession(self.resources_url, self.http) if self.resources_url else None
        if session:
            await session.seed(request.body)
        params = self._params(request.body)
        response = await self._converse(params, request.task_index, session)
        asked = {**request.body, "responses_create_params": params}
        if session and not self.verifier.scores:
            scored = await session.verify(asked, response)
        else:
            scored = await self.verifier.verify(asked, response)
        scored = {name: value for name, value in scored.items() if name not in _OWN_FIELDS}
        return {"responses_create_params": params, "response": response, **scored}

    def _params(self, row: Json) -> Json:
        params = {**self.params, **row["responses_create_params"]}
        if self.tools and not params.get("tools"):
            params["tools"] = self.tools.described
        return params

    async def _converse(self, params: Json, task: int, session: ResourcesSession | None) -> Json:
        items: list[Json] = []
        usage: Json = {}
        for step in range(self.max_steps):
            asked = {**params, "input": [*_items(params["input"]), *items]}
            response = await (self.server.respond(asked, task) if step == 0 else self._respond_again(asked, task))
            items += response["output"]
            usage = _sum(usage, response.get("usage"))
            calls = [item for item in response["output"] if item.get("type") == "function_call"]
            if not calls or response.get("incomplete_details") or not (session or self.tools):
                break
            items += [await self._called(call, session) for call in calls]
        return {**response, "output": items, "usage": usage or response.get("usage")}

    async def _respond_again(self, params: Json, task: int) -> Json:
        """A response within a conversation, which is too dear to be begun anew over one request."""
        policy, tried = RetryPolicy(max_attempts=_ATTEMPTS_WITHIN, patient=True), 0
        while True:
            tried += 1
            try:
                return await self.server.respond(params, task)
            except AttemptFailed as failure:
                wait_s = policy.wait_s(failure, tried)
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)

    async def _called(self, call: Json, session: ResourcesSession | None) -> Json:
        try:
            arguments = loads((call.get("arguments") or "{}").encode())
            if not isinstance(arguments, dict):
                raise ValueError("not a JSON object")  # noqa: TRY004 - as what does not parse
        except ValueError as error:
            output = dumps({"error": f"the arguments cannot be read: {error}"}).decode()
        else:
            output = await self._output(str(call.get("name")), arguments, session)
        return {"type": "function_call_output", "call_id": call.get("call_id"), "output": output}

    async def _output(self, name: str, arguments: Json, session: ResourcesSession | None) -> str:
        if self.tools is not None:
            return await self.tools.call(name, arguments)
        assert session is not None  # noqa: S101 - one of them is there when calls are answered
        return await session.call(name, dumps(arguments))


def _items(value: Any) -> list[Json]:
    return [{"role": "user", "content": value}] if isinstance(value, str) else list(value)


def _sum(total: Json, usage: Any) -> Json:
    """Two usages in one, details included."""
    if not isinstance(usage, dict):
        return total
    summed = dict(total)
    for name, value in usage.items():
        if isinstance(value, dict):
            summed[name] = _sum(total.get(name) or {}, value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            summed[name] = (total.get(name) or 0) + value
        else:
            summed.setdefault(name, value)
    return summed
