"""An agent in this process: it calls a model server, runs tools, and has a verifier score the answer.

Its rows have the fields of a NeMo Gym agent server's: `responses_create_params`, `response` with the items of all turns
and the sum of their usage, `reward`, and the verifier's fields.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, ClassVar

from ng_rollouts.agents.resources_server import ResourcesSession
from ng_rollouts.agents.rollout_limits import RolloutLimits
from ng_rollouts.agents.tools import PythonTools
from ng_rollouts.chat import tool_names
from ng_rollouts.chat_items import input_items
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.http.client import Http
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.inputs.exported_task import TASK_FIELDS
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.models.client import ModelClient
from ng_rollouts.models.refusals import is_context_overflow
from ng_rollouts.models.request import Request
from ng_rollouts.scheduling.retry import RetryPolicy, with_retries
from ng_rollouts.types import AgentRequest, Json, RolloutKey, key_of
from ng_rollouts.verifiers.base import Verifier

_CALL_TYPES = ("function_call", "custom_tool_call")

_IDENTITY_FIELDS = ("_ng_task_index", "_ng_rollout_index", "_ng_attempt_index", "agent_ref")
_NOT_OF_THE_TASK = frozenset({*_IDENTITY_FIELDS, "responses_create_params", "prompt_id"})
"""Fields that the run sets itself; copies in the scorer's reply are dropped."""


_DEFERRED: Json = {"_ng_scoring": "deferred"}
"""What a row has in place of a score, so that its reader knows that it was not scored."""


@dataclass(frozen=True, slots=True, eq=False)
class _Conversation:
    """The conversation of an attempt in flight: its parameters, and the items of its turns so far."""

    key: RolloutKey
    params: Json
    items: list[Json]


@dataclass(slots=True, kw_only=True)
class ModelAgent:
    """Calls the model and its tools in turn, until the model makes no more tool calls.

    Attributes:
        params: default sampling parameters; those of the row take precedence.
        resources_url: a resources server, which provides tools. It also scores the answer, unless `verifier` does.
        tools: functions in this process, as an alternative to a resources server.
        max_steps: maximum model requests per rollout.
        steps_parameter: the parameter that sets it, which is the reason of a response that ends there.
        limits: what the model requests of a rollout may use together.
        retries: when scoring is retried, and requests after a rollout's first one, which the scheduler retries.
        defers_scoring: whether its rows are left without a score, for `ng_rescore_rollouts`.
    """

    server: ModelClient
    verifier: Verifier
    http: Http
    params: Json
    resources_url: str | None = None
    tools: PythonTools | None = None
    max_steps: int = 32
    steps_parameter: str = "max_steps"
    limits: RolloutLimits = field(default_factory=RolloutLimits)
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    defers_scoring: bool = False
    is_remote: ClassVar[bool] = False
    environment_server: ClassVar[None] = None
    _conversations: dict[_Conversation, None] = field(default_factory=dict, init=False)  # oldest first
    aggregate_metrics_url: ClassVar[None] = None

    @property
    def scores(self) -> bool:
        """Whether its rows have a reward."""
        return not self.defers_scoring and (self.verifier.scores or self.resources_url is not None)

    @property
    def model(self) -> str | None:
        """The name of the model that it requests."""
        return self.server.model

    @property
    def may_run_twice(self) -> bool:
        """True without a resources server, whose sessions would be left open."""
        return self.resources_url is None

    @property
    def load_balancers(self) -> list[LoadBalancer]:
        """The servers that it sends requests to: the model's, and the judge's if there is one."""
        of_verifier = () if self.defers_scoring else self.verifier.load_balancers
        return list(dict.fromkeys([self.server.load_balancer, *of_verifier]))

    def check(self, row: Json) -> None:
        """Check a task before anything is sent.

        Raises:
            InputError: the verifier cannot score the task, or no API of the model server has a field for a parameter.
        """
        self.verifier.check(row)
        self.server.check(self._params(row))

    def scores_again(self, response: Json) -> bool:
        """True unless a resources server scores, and its tools were called: the state of their session is lost."""
        items = response.get("output")
        return self.verifier.scores or (
            isinstance(items, list)
            and not any(isinstance(each, dict) and each.get("type") in _CALL_TYPES for each in items)
        )

    def first_request(self, row: Json) -> Request:
        """The first request to the model server."""
        return self.server.request(self._params(row))

    async def run(self, request: AgentRequest) -> Json:
        """Run a rollout; of a request with an answer, only the scoring.

        Raises:
            AttemptFailed: the model server, the resources server or the verifier failed. If there is an answer, the
                failure has it and is not retried, because the model would be asked again.
        """
        try:
            return await self._run(request)
        # replies come from other programs: an unexpected structure must fail the attempt, not the run
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
            message = f"a reply has an unexpected structure: {type(error).__name__}: {error}"
            raise AttemptFailed(FailureClass.ODD_REPLY, message) from error

    async def _run(self, request: AgentRequest) -> Json:
        params = self._params(request.body)
        offered = tool_names(params.get("tools") or ())
        session = ResourcesSession(self.resources_url, self.http, offered) if self.resources_url else None
        if session and (request.answer is None or not self.verifier.scores):
            await session.seed(request.body)
        response = request.answer or await self._observed(params, request, session)
        task = {**request.body, "responses_create_params": params}
        scored = _DEFERRED if self.defers_scoring else await self._score(task, response, session)
        scored = {name: value for name, value in scored.items() if name not in _IDENTITY_FIELDS}
        # an export can be collected again by them
        own = {name: value for name, value in request.body.items() if name not in _NOT_OF_THE_TASK}
        task_fields = {TASK_FIELDS: own} if own else {}
        return {"responses_create_params": params, "response": response, **scored, **task_fields}

    async def _score(self, task: Json, response: Json, session: ResourcesSession | None) -> Json:
        """Score an answer, again as often as `retries` allows.

        Raises:
            AttemptFailed: it could not be scored; the failure has the answer.
        """
        verify = session.verify if session and not self.verifier.scores else self.verifier.verify
        try:
            return await with_retries(partial(verify, task, response), self.retries)
        except AttemptFailed as failure:
            raise _unscored(failure, task, response) from failure.__cause__
        except asyncio.CancelledError as error:
            # A time limit, or the end of the run. The answer was paid for, so the attempt fails instead of vanishing.
            ended = AttemptFailed(FailureClass.TIMEOUT, "the answer was not scored before the attempt was ended")
            raise _unscored(ended, task, response) from error

    def _params(self, row: Json) -> Json:
        """The parameters of a row, with defaults; the row's own tools replace those of `self.tools`."""
        params = {**self.params, **row["responses_create_params"]}
        if self.tools and not params.get("tools"):
            params["tools"] = self.tools.definitions
        return params

    def turns_of(self, key: RolloutKey) -> list[Json] | None:
        """The items of the conversation of a rollout in flight, so far; None if there is none now.

        Of two attempts at a time, those of the one that began first.
        """
        found = next((each for each in self._conversations if each.key == key), None)
        return None if found is None else [*_items(found.params["input"]), *found.items]

    async def _observed(self, params: Json, request: AgentRequest, session: ResourcesSession | None) -> Json:
        """The conversation, which `turns_of` shows until it ends."""
        items = list[Json]()
        if not (key := key_of(request.body)):
            return await self._converse(params, request.task_index, session, items)
        conversation = _Conversation(key, params, items)
        self._conversations[conversation] = None
        try:
            return await self._converse(params, request.task_index, session, items)
        finally:
            del self._conversations[conversation]

    async def _converse(self, params: Json, task: int, session: ResourcesSession | None, items: list[Json]) -> Json:
        """Request responses until one has no tool calls, is incomplete, or is the last that the limits allow.

        Args:
            items: receives the items of all turns.

        Returns:
            The last response, with the items and the usage of all of them.
        """
        call_ids = {str(item.get("call_id")) for item in input_items(_items(params["input"]))}
        usage: Json = {}
        response: Json = {}
        for step in range(self.max_steps):
            allowance = self.limits.allowance(usage, response.get("usage"))
            if step and allowance.tokens < 1:
                response = _incomplete(response, allowance.limit)
                break
            # every request has the whole conversation
            turn = {**params, "input": [*_items(params["input"]), *items]}
            try:
                # A failure of the first request is retried by the scheduler. A later one would repeat the conversation.
                request = partial(self.server.respond, allowance.lower(turn), task)
                response = await (request() if step == 0 else with_retries(request, self.retries))
                response = allowance.name_limit(turn, response)
            except AttemptFailed as failure:
                if step == 0 or not is_context_overflow(failure):
                    raise
                response = _incomplete(response, "context_length")
                break
            output = _with_unique_call_ids(response["output"], call_ids)
            items += output
            usage = _sum(usage, response.get("usage"))
            calls = [item for item in output if item.get("type") in _CALL_TYPES]
            # a response that was cut off may end in the middle of a call
            if not calls or response.get("incomplete_details") or not (session or self.tools):
                break
            # one after another: a resources server sets new cookies with each reply
            items += [await self._call_output(call, session) for call in calls]
        else:
            response = _incomplete(response, self.steps_parameter)
        return {**response, "output": items, "usage": usage or response.get("usage")}

    async def _call_output(self, call: Json, session: ResourcesSession | None) -> Json:
        """Run a tool call; arguments that are not valid give an output with `error`, which the model can react to."""
        try:
            arguments = _arguments(call)
        except ValueError as error:
            output = dumps({"error": f"the arguments cannot be read: {error}"}).decode()
        else:
            output = await self._run_tool(str(call.get("name")), arguments, session)
        return {"type": f"{call['type']}_output", "call_id": call.get("call_id"), "output": output}

    async def _run_tool(self, name: str, arguments: Json, session: ResourcesSession | None) -> str:
        if self.tools is not None:
            return await self.tools.call(name, arguments)
        assert session is not None  # noqa: S101 - tool calls are run only with one of the two
        return await session.call(name, dumps(arguments))


def _unscored(failure: AttemptFailed, task: Json, response: Json) -> AttemptFailed:
    """The failure, with the answer that could not be scored. Another attempt would ask the model again."""
    failure.retryable = False
    failure.kept = {"responses_create_params": task["responses_create_params"], "response": response}
    return failure


def _arguments(call: Json) -> Json:
    """The arguments of a call; the free text of a custom call is its argument `input`.

    Raises:
        ValueError: they are not a JSON object.
    """
    if call["type"] == "custom_tool_call":
        return {"input": call.get("input") or ""}
    arguments = loads((call.get("arguments") or "{}").encode())
    if arguments is None:  # of a tool without parameters
        return {}
    if not isinstance(arguments, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - handled like a syntax error
    return arguments


def _with_unique_call_ids(items: list[Json], call_ids: set[str]) -> list[Json]:
    """The items, with new ids for calls whose id is missing or was used before in the conversation.

    Some servers send no ids, or the same ones with each response. The output of a call has to name its call.
    """
    unique = []
    numbers = count()  # continued from call to call, so that many calls take linear time
    for item in items:
        if item.get("type") in _CALL_TYPES:
            call_id = item.get("call_id")
            if not call_id or call_id in call_ids:
                call_id = next(each for n in numbers if (each := f"call_{n}") not in call_ids)
                item = {**item, "call_id": call_id}  # noqa: PLW2901 - a reply may not be changed
            call_ids.add(call_id)
        unique.append(item)
    return unique


def _incomplete(response: Json, reason: str) -> Json:
    """A response whose conversation was cut off, although it is complete itself."""
    return {**response, "status": "incomplete", "incomplete_details": {"reason": reason}}


def _items(value: Any) -> list[Json]:
    """The input of a Responses request as a list of items."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else list(value)


def _sum(total: Json, usage: Any) -> Json:
    """Add a usage to a total, nested details included; of other values, the first is kept."""
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
