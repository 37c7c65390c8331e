"""Client for an OpenAI-compatible model server: sends Responses requests, returns Response objects."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from ng_rollouts.console import log
from ng_rollouts.errors import AttemptFailed, ConfigError, FailureClass, InputError, Unreachable
from ng_rollouts.http.client import POLL_EVERY_S, Http, Reply
from ng_rollouts.http.json_reply import json_object
from ng_rollouts.http.load_balancer import Endpoint, LoadBalancer
from ng_rollouts.jsonl import dumps
from ng_rollouts.models.attempt import count_unusable, count_usage, session_headers
from ng_rollouts.models.event_stream import reply_object
from ng_rollouts.models.from_chat_completions import to_response
from ng_rollouts.models.from_responses import (
    check_error,
    has_logprobs,
    is_empty,
    normalised_response,
    with_limit_reached,
)
from ng_rollouts.models.refusals import LIMIT_NAMES, refuses_field
from ng_rollouts.models.request import (
    CHAT,
    PATHS,
    RESPONSES,
    Request,
    asks_for_logprobs,
    pop_extra_body,
    total_tokens,
    url_of,
)
from ng_rollouts.models.to_chat_completions import to_chat_request
from ng_rollouts.models.to_responses import to_responses_request
from ng_rollouts.models.token_ids import TokenIds
from ng_rollouts.threads import run_in_thread
from ng_rollouts.types import Json

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
        ids_mode: `never`, `auto` or `required`: whether replies should have token ids. Only `/chat/completions` has
            them, so `api=auto` tries it first if they are asked for.
        is_judge: whether its replies score answers, so that their tokens count apart.
    """

    def __init__(
        self,
        load_balancer: LoadBalancer,
        http: Http,
        *,
        api: str,
        model: str | None,
        api_key: str | None,
        ids_mode: str = "never",
        is_judge: bool = False,
    ) -> None:
        self.load_balancer = load_balancer
        self.model = model
        self._http = http
        self._api = api
        self._is_judge = is_judge
        self._last_failure = AttemptFailed(FailureClass.CONNECT_FAILED, "")
        self._limit_name = LIMIT_NAMES[0]
        self._token_ids = TokenIds(ids_mode, self._addresses)
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
        first, *others = self._apis(params)
        if not others:
            return await self._respond_with(first, params, task)
        return await self._respond_and_detect_api(first, others[0], params, task)

    def _apis(self, params: Json) -> tuple[str, ...]:
        """The APIs to try for a request, in this order."""
        if self._api != "auto":
            return (self._api,)
        if params.get("seed") is not None:  # only Chat Completions has a seed
            return (CHAT,)
        return (CHAT, RESPONSES) if self._token_ids.fields else (RESPONSES, CHAT)

    async def _respond_and_detect_api(self, first: str, second: str, params: Json, task: int) -> Json:
        """Try one API, then the other, and remember the one that replied.

        Concurrent first calls each try for themselves, so that none waits for another.
        """
        try:
            response = await self._respond_with(first, params, task)
        except AttemptFailed as failure:
            # once the API has replied to any call, a 404 is about this request: the model is unknown
            if failure.status not in _NO_SUCH_API or self._api == first:
                raise
        else:
            self._api = first
            return response
        # if this fails, too, the API stays undecided: a 404 from both is about the model
        response = await self._respond_with(second, params, task)
        self._api = second
        return response

    async def _respond_with(self, api: str, params: Json, task: int) -> Json:
        refused: set[str] = set()
        while True:
            sent = (self._limit_name, *self._token_ids.fields)
            try:
                return await self._send(api, params, task)
            except AttemptFailed as failure:
                # a field that is refused again is one of the parameters
                named = {name for name in sent if refuses_field(failure, name)}
                if api == CHAT and not named and self._token_ids.may_be_refused(failure):
                    return await self._without_token_ids(params, task, failure)
                names = named - refused
                if api != CHAT or not names:
                    raise
            refused |= names
            self._avoid(names)

    async def _without_token_ids(self, params: Json, task: int, refusal: AttemptFailed) -> Json:
        """Send a request without the fields for token ids, after a refusal that names no field.

        Raises:
            AttemptFailed: the refusal, if the request is refused without them as well; or the ids are required.
        """
        try:
            response = await self._send(CHAT, params, task, asks_for_ids=False)
        except AttemptFailed:
            raise refusal from None  # the fields were not the reason
        self._token_ids.drop(self._token_ids.fields)
        self._token_ids.check(response)
        return response

    def _avoid(self, refused: set[str]) -> None:
        """Remember for all further requests what the server does not accept.

        Concurrent requests get the same refusal, so the name of the limit is set, not switched.
        """
        for name in refused.intersection(LIMIT_NAMES):
            self._limit_name = LIMIT_NAMES[1 - LIMIT_NAMES.index(name)]
        self._token_ids.drop(refused)

    async def _send(self, api: str, params: Json, task: int, *, asks_for_ids: bool = True) -> Json:
        request = self.request(params, api, asks_for_ids=asks_for_ids)
        body = dumps(request.body)
        convert = partial(to_response, params=params, keeps_logprobs=request.asks_for_logprobs)
        headers = {**request.headers, **session_headers()}

        async def post(url: str) -> Json:
            received = await self._http.post(url_of(url, request.path), body, headers)
            is_small = len(received.body) < _LARGE_BYTES
            reply = reply_object(received) if is_small else await run_in_thread(partial(reply_object, received))
            check_error(reply)
            return normalised_response(reply if api == RESPONSES else convert(reply))

        response = await self.load_balancer.send(
            task,
            post,
            characters=len(body),
            output_tokens=params.get("max_output_tokens"),
            tokens_of=lambda response: total_tokens(response.get("usage")),
        )
        count_usage(response.get("usage"), is_judge=self._is_judge)
        try:
            self._check(response, asks_for_logprobs=request.asks_for_logprobs, asks_for_ids=asks_for_ids)
        except AttemptFailed:
            if not self._is_judge:
                count_unusable(response.get("usage"))
            raise
        return with_limit_reached(response, params.get("max_output_tokens"))

    def _check(self, response: Json, *, asks_for_logprobs: bool, asks_for_ids: bool) -> None:
        """Check that a response has what was asked for.

        Raises:
            AttemptFailed: it is empty, or lacks token ids that are required.
        """
        if is_empty(response):
            raise AttemptFailed(FailureClass.MODEL_ERROR, "the model server replied with an empty response")
        if asks_for_logprobs and not self._has_warned_of_logprobs and not has_logprobs(response):
            self._has_warned_of_logprobs = True
            log("warning: the model server sends no log probabilities, although the request asks for them")
        if asks_for_ids:
            self._token_ids.check(response)

    def check(self, params: Json) -> None:
        """Check that the API supports a request. With `auto`, one of the two APIs has to; with token ids, chat.

        Raises:
            InputError: no API supports all of its parameters, or a field has an unexpected structure.
        """
        errors = []
        for api in self._apis(params)[: 1 if self._token_ids.fields else 2]:
            try:
                self.request(params, api)
            except AttemptFailed as failure:
                errors.append(failure.message)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                errors.append(f"a field has an unexpected structure ({type(error).__name__}: {error})")
            else:
                return
        raise InputError("responses_create_params: " + "; ".join(errors))

    def request(self, params: Json, api: str | None = None, *, asks_for_ids: bool = True) -> Request:
        """Build the HTTP request without sending it.

        Args:
            params: the Responses request.
            api: the API to use; None for the one that `respond` tries first.
            asks_for_ids: whether it has the fields for token ids, if these are wanted.

        Raises:
            AttemptFailed: `unsupported_parameter`, naming the parameters that the API does not support.
        """
        api = api or self._apis(params)[0]
        fields = {name: value for name, value in params.items() if value is not None}
        extra_body = pop_extra_body(fields)
        fields.setdefault("model", self.model)
        body = to_chat_request(fields) if api == CHAT else to_responses_request(fields)
        if api == CHAT and "max_tokens" in body:
            body[self._limit_name] = body.pop("max_tokens")
        # Without it, some servers stream `/responses`.
        body.setdefault("stream", False)
        # extra_body comes last: it may replace any field of the body
        asked = dict.fromkeys(self._token_ids.fields if api == CHAT and asks_for_ids else (), True)
        with_logprobs = asks_for_logprobs({**body, **extra_body})
        return Request(PATHS[api], self._headers, {**body, **asked, **extra_body}, with_logprobs)

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
        while not (replies := await self._list_models()):
            failure = self._last_failure
            # waiting does not help against an untrusted certificate
            if time.monotonic() >= deadline or failure.failure_class == FailureClass.CERTIFICATE:
                reason = f"{failure.failure_class}: {failure.message}"
                problem = f"the model server at {self._addresses} cannot be reached ({reason})"
                fix = "start it, check policy_base_url, or wait for it with +wait_for_agent_s=SECONDS"
                raise Unreachable(f"{problem}: {fix}") from failure
            if not is_announced:
                log(
                    f"waiting up to {timeout_s:g} s for the model server at {self._addresses} ({failure.failure_class})"
                )
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

    @property
    def _addresses(self) -> str:
        return ", ".join(endpoint.display_url for endpoint in self.load_balancer.endpoints)

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
