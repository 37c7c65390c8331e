"""Client for an OpenAI-compatible model server: sends Responses requests, returns Response objects."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from urllib.parse import urlsplit

from ng_rollouts.console import log
from ng_rollouts.errors import AttemptFailed, ConfigError, FailureClass, InputError, Unreachable
from ng_rollouts.http.client import POLL_EVERY_S, Http, Reply
from ng_rollouts.http.json_reply import json_object
from ng_rollouts.http.load_balancer import Endpoint, LoadBalancer
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.models.event_stream import reply_object
from ng_rollouts.models.from_chat_completions import to_response
from ng_rollouts.models.from_responses import (
    check_error,
    has_logprobs,
    is_empty,
    normalised_response,
    with_limit_reached,
)
from ng_rollouts.models.refusals import LIMIT_NAMES, refuses_limit_name
from ng_rollouts.models.request import Request, total_tokens
from ng_rollouts.models.to_chat_completions import to_chat_request
from ng_rollouts.models.to_responses import to_responses_request
from ng_rollouts.threads import run_in_thread
from ng_rollouts.types import Json

RESPONSES, CHAT = "responses", "chat_completions"
PATHS = {RESPONSES: "/responses", CHAT: "/chat/completions"}
"""The path of each API below the base address."""

_NO_SUCH_API = (404, 405, 501)
"""Statuses by which a server says that it has no `/responses`: not found, method not allowed, not implemented."""

_MODELS_TIMEOUT_S = 10.0
"""Time limit of `GET /models`. The reply is small, so a server that needs longer is not ready."""

_MAX_NAMES_SHOWN = 20
"""Model names in one message. Some servers list hundreds."""

_LARGE_BYTES = 1_000_000
"""Replies of this size are read in a thread: an event stream takes 0.2 s per megabyte."""


class ModelClient:
    """Sends Responses requests to a model server, through the Responses API or Chat Completions.

    Args:
        load_balancer: the server's base addresses, each up to and including `/v1`.
        http: the HTTP client.
        api: `responses`, `chat_completions` or `auto`. `auto` tries `/responses` first and falls back to
            `/chat/completions` if the server does not have it.
        model: the model of requests that name none.
        api_key: sent as a bearer token; None sends no credentials.
    """

    def __init__(
        self, load_balancer: LoadBalancer, http: Http, *, api: str, model: str | None, api_key: str | None
    ) -> None:
        self.load_balancer = load_balancer
        self.model = model
        self._http = http
        self._api = api
        self._last_failure = AttemptFailed(FailureClass.CONNECT_FAILED, "")
        self._limit_name = LIMIT_NAMES[0]
        self._has_warned_of_logprobs = False
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}

    async def respond(self, params: Json, task: int = 0) -> Json:
        """Send a Responses request and return the Response object.

        Args:
            params: the request. Null fields are left out. `metadata.extra_body` is merged into the request body.
            task: the task index. Requests of one task go to the same address where possible.

        Raises:
            AttemptFailed: the request failed, or the reply is not a response.
        """
        if self._api != "auto":
            return await self._respond_with(self._api, params, task)
        if params.get("seed") is not None:  # only Chat Completions has a seed
            return await self._respond_with(CHAT, params, task)
        return await self._respond_and_detect_api(params, task)

    async def _respond_and_detect_api(self, params: Json, task: int) -> Json:
        """Try `/responses`, then `/chat/completions`, and remember the API that replied.

        Concurrent first calls each try for themselves, so that none waits for another.
        """
        try:
            response = await self._respond_with(RESPONSES, params, task)
        except AttemptFailed as failure:
            # once `/responses` has replied to any call, a 404 is about this request: the model is unknown
            if failure.status not in _NO_SUCH_API or self._api == RESPONSES:
                raise
        else:
            self._api = RESPONSES
            return response
        # if this fails, too, the API stays undecided: a 404 from both is about the model
        response = await self._respond_with(CHAT, params, task)
        self._api = CHAT
        return response

    async def _respond_with(self, api: str, params: Json, task: int) -> Json:
        sent = self._limit_name
        try:
            return await self._send(api, params, task)
        except AttemptFailed as failure:
            if api != CHAT or not refuses_limit_name(failure, sent):
                raise
        # The server accepts only the other name; it is remembered for all further requests. Concurrent requests get
        # the same refusal, so the name is set, not switched.
        self._limit_name = LIMIT_NAMES[1 - LIMIT_NAMES.index(sent)]
        return await self._send(api, params, task)

    async def _send(self, api: str, params: Json, task: int) -> Json:
        request = self.request(params, api)
        body = dumps(request.body)

        async def post(url: str) -> Json:
            received = await self._http.post(url_of(url, request.path), body, request.headers)
            is_small = len(received.body) < _LARGE_BYTES
            reply = reply_object(received) if is_small else await run_in_thread(partial(reply_object, received))
            check_error(reply)
            return normalised_response(reply if api == RESPONSES else to_response(reply, params))

        response = await self.load_balancer.send(
            task,
            post,
            characters=len(body),
            output_tokens=params.get("max_output_tokens"),
            tokens_of=lambda response: total_tokens(response.get("usage")),
        )
        if is_empty(response):
            raise AttemptFailed(FailureClass.MODEL_ERROR, "the model server replied with an empty response")
        if request.asks_for_logprobs and not self._has_warned_of_logprobs and not has_logprobs(response):
            self._has_warned_of_logprobs = True
            log("warning: the model server sends no log probabilities, although the request asks for them")
        return with_limit_reached(response, params.get("max_output_tokens"))

    def check(self, params: Json) -> None:
        """Check that the API supports a request. With `auto`, one of the two APIs has to.

        Raises:
            InputError: no API supports all of its parameters, or a field has an unexpected structure.
        """
        errors = []
        for api in PATHS if self._api == "auto" else (self._api,):
            try:
                self.request(params, api)
            except AttemptFailed as failure:
                errors.append(failure.message)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                errors.append(f"a field has an unexpected structure ({type(error).__name__}: {error})")
            else:
                return
        raise InputError("responses_create_params: " + "; ".join(errors))

    def request(self, params: Json, api: str | None = None) -> Request:
        """Build the HTTP request without sending it.

        Args:
            params: the Responses request.
            api: the API to use; None for the one that `respond` tries first.

        Raises:
            AttemptFailed: `unsupported_parameter`, naming the parameters that the API does not support.
        """
        api = api or (self._api if self._api != "auto" else CHAT if params.get("seed") is not None else RESPONSES)
        fields = {name: value for name, value in params.items() if value is not None}
        extra_body = _pop_extra_body(fields)
        fields.setdefault("model", self.model)
        body = to_chat_request(fields) if api == CHAT else to_responses_request(fields)
        if api == CHAT and "max_tokens" in body:
            body[self._limit_name] = body.pop("max_tokens")
        # Without it, some servers stream `/responses`.
        body.setdefault("stream", False)
        # extra_body comes last: it may replace any field of the body
        return Request(PATHS[api], self._headers, {**body, **extra_body})

    async def resolve_model(self, timeout_s: float) -> None:
        """Check that a server is up, accepts the API key and lists the model. The only model needs no name.

        One reachable address of several is enough. The load balancer retries the others later.

        Args:
            timeout_s: how long to wait for the first address to reply.

        Raises:
            Unreachable: no address replied within `timeout_s`, or one rejected the API key.
            ConfigError: no model is named, and the server does not list exactly one.
        """
        deadline = time.monotonic() + timeout_s
        is_announced = False
        urls = ", ".join(endpoint.display_url for endpoint in self.load_balancer.endpoints)
        while not (replies := await self._list_models()):
            failure = self._last_failure
            # waiting does not help against an untrusted certificate
            if time.monotonic() >= deadline or failure.failure_class == FailureClass.CERTIFICATE:
                problem = f"the model server at {urls} cannot be reached ({failure.failure_class}: {failure.message})"
                fix = "start it, check policy_base_url, or wait for it with +wait_for_agent_s=SECONDS"
                raise Unreachable(f"{problem}: {fix}") from failure
            if not is_announced:
                log(f"waiting up to {timeout_s:g} s for the model server at {urls} ({failure.failure_class})")
                is_announced = True
            await asyncio.sleep(min(POLL_EVERY_S, max(0.0, deadline - time.monotonic())))
        for endpoint in self.load_balancer.endpoints:
            if endpoint not in replies:
                message = f"the model server at {endpoint.display_url} does not answer"
                log(f"warning: {message}: it is retried during the run")
        for endpoint, reply in replies.items():
            if reply.status in (401, 403):
                message = f"the model server at {endpoint.display_url} rejected the API key (HTTP {reply.status})"
                raise Unreachable(f"{message}: check policy_api_key")
        endpoint, reply = next(iter(replies.items()))
        names = _model_names(reply)
        if self.model is None:
            self.model = _only_model(names, endpoint.display_url)
        elif names and self.model not in names:
            # not an error: some servers accept more names than they list
            listed = ", ".join(names[:_MAX_NAMES_SHOWN])
            log(f"warning: {endpoint.display_url} does not list the model {self.model!r}: it lists {listed}")

    async def _list_models(self) -> dict[Endpoint, Reply]:
        """The replies to `GET /models`, by the address that sent them."""
        replies = {}
        for endpoint in self.load_balancer.endpoints:
            try:
                async with asyncio.timeout(_MODELS_TIMEOUT_S):
                    replies[endpoint] = await self._http.get(url_of(endpoint.url, "/models"), self._headers)
            except TimeoutError:
                message = f"no reply to GET /models within {_MODELS_TIMEOUT_S:g} s"
                self._last_failure = AttemptFailed(FailureClass.TIMEOUT, message)
            except AttemptFailed as failure:
                self._last_failure = failure
                endpoint.record_failure(failure)
        return replies


def base_url(url: str) -> str:
    """Normalise a base address: remove the path of an API from its end, and add `/v1` if it has no path.

    A query, such as Azure's `api-version`, is kept.
    """
    url, mark, query = url.partition("?")
    url = url.rstrip("/")
    for path in PATHS.values():
        url = url.removesuffix(path)
    return (url if urlsplit(url).path else f"{url}/v1") + mark + query


def url_of(base: str, path: str) -> str:
    """The URL of a path under a base address, whose query stays behind the path."""
    url, mark, query = base.partition("?")
    return url + path + mark + query


def _pop_extra_body(fields: Json) -> Json:
    """Remove `extra_body` from the metadata and return it: body fields that the API itself does not define."""
    metadata = dict(fields.get("metadata") or {})  # a copy: all rollouts of a task share the row's own
    extra_body = metadata.pop("extra_body", None)
    if extra_body is None:
        return {}
    fields["metadata"] = metadata
    if not metadata:
        del fields["metadata"]
    try:
        # metadata values are strings in the API, so NeMo Gym's rows carry it as JSON text
        parsed = loads(extra_body.encode()) if isinstance(extra_body, str) else extra_body
    except ValueError as error:
        raise AttemptFailed(FailureClass.BAD_REQUEST, f"metadata.extra_body is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise AttemptFailed(FailureClass.BAD_REQUEST, "metadata.extra_body is not a JSON object")
    return parsed


def _model_names(reply: Reply) -> list[str]:
    """The names in a reply to `GET /models`; empty if it is not a list of models."""
    try:
        return [str(model["id"]) for model in json_object(reply)["data"]]
    except (AttemptFailed, KeyError, TypeError):
        return []


def _only_model(names: list[str], url: str) -> str:
    if not names:
        raise ConfigError(f"{url} does not list its models: set +policy_model_name=NAME")
    if len(names) != 1:
        listed = ", ".join(names[:_MAX_NAMES_SHOWN])
        raise ConfigError(f"{url} serves several models ({listed}): choose one with +policy_model_name=NAME")
    return names[0]
