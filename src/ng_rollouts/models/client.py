"""A model server, at one address or several: a Responses request in, a Response object out."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from ng_rollouts.config.parameters import RESPONSES_PARAMETERS
from ng_rollouts.console import log
from ng_rollouts.errors import AttemptFailed, ConfigError, FailureClass, InputError, Unreachable
from ng_rollouts.http.client import Http, Reply
from ng_rollouts.http.json_reply import json_object
from ng_rollouts.http.load_balancer import Endpoint, LoadBalancer
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.models.from_chat_completions import error_message, to_response
from ng_rollouts.models.request import Request, total_tokens
from ng_rollouts.models.to_chat_completions import to_chat_request
from ng_rollouts.types import Json

RESPONSES, CHAT = "responses", "chat_completions"
PATHS = {RESPONSES: "/responses", CHAT: "/chat/completions"}
_NOT_THERE = (404, 405, 501)
_ASK_EVERY_S = 0.5
_LISTING_S = 10.0


class ModelClient:
    """Answers Responses requests over whichever of the two APIs the server speaks.

    Args:
        pool: base addresses, up to and with `/v1`.
        api: `responses`, `chat_completions`, or `auto`: the first call tells, by a 404 for the former.
        model: the name that requests carry, unless they have one.
        api_key: sent as a bearer token, if there is one.
    """

    def __init__(
        self, load_balancer: LoadBalancer, http: Http, *, api: str, model: str | None, api_key: str | None
    ) -> None:
        self.load_balancer = load_balancer
        self.model = model
        self._http = http
        self._api = api
        self._failure = AttemptFailed(FailureClass.CONNECT_FAILED, "")
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}

    async def respond(self, params: Json, task: int = 0) -> Json:
        """The Response object for a Responses request.

        Args:
            params: the request; null fields are left out, `metadata.extra_body` is laid over it.
            task: requests of one task stay with one address.

        Raises:
            AttemptFailed: there was none.
        """
        if self._api != "auto":
            return await self._respond_by(self._api, params, task)
        if params.get("seed") is not None:
            return await self._respond_by(CHAT, params, task)
        return await self._respond_and_find_out(params, task)

    async def _respond_and_find_out(self, params: Json, task: int) -> Json:
        """By `/responses` until it is known not to be there: whoever meets a 404 before anybody was answered tells."""
        try:
            response = await self._respond_by(RESPONSES, params, task)
        except AttemptFailed as failure:
            if failure.status not in _NOT_THERE or self._api == RESPONSES:
                raise
        else:
            self._api = RESPONSES
            return response
        response = await self._respond_by(CHAT, params, task)
        self._api = CHAT
        return response

    async def _respond_by(self, api: str, params: Json, task: int) -> Json:
        request = self.request(params, api)
        body = dumps(request.body)

        async def post(url: str) -> Json:
            reply = json_object(await self._http.post(url + request.path, body, request.headers))
            _check(reply)
            return reply if api == RESPONSES else to_response(reply, params)

        response = await self.load_balancer.send(
            task,
            post,
            characters=len(body),
            output_tokens=params.get("max_output_tokens"),
            tokens_of=lambda response: total_tokens(response.get("usage")),
        )
        if not isinstance(response.get("output"), list):
            raise AttemptFailed(FailureClass.ODD_REPLY, "the model server's reply has no output")
        return response

    def check(self, params: Json) -> None:
        """Make sure that there is an API for a request.

        Raises:
            InputError: it has a parameter that the API, or each of the two that may be there, has no place for.
        """
        refusals = []
        for api in PATHS if self._api == "auto" else (self._api,):
            try:
                self.request(params, api)
            except AttemptFailed as failure:
                refusals.append(failure.message)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                refusals.append(f"a field has the wrong shape ({type(error).__name__}: {error})")
            else:
                return
        raise InputError("responses_create_params: " + "; ".join(refusals))

    def request(self, params: Json, api: str | None = None) -> Request:
        """What would be sent.

        Raises:
            AttemptFailed: `unsupported_parameter`, naming what the API has no place for.
        """
        api = api or (self._api if self._api != "auto" else CHAT if params.get("seed") is not None else RESPONSES)
        given = {name: value for name, value in params.items() if value is not None}
        extra = _take_extra_body(given)
        given.setdefault("model", self.model)
        body = to_chat_request(given) if api == CHAT else _responses_request(given)
        return Request(PATHS[api], self._headers, {**body, **extra})

    async def resolve_model(self, seconds: float) -> None:
        """Make sure that a server is there, takes the key, and has the model; a lone model needs no name.

        Of several servers one will do: the others are left alone until they are tried again.

        Raises:
            Unreachable: none is there after so many seconds, or one refuses the key.
            ConfigError: they serve several models and none is named.
        """
        deadline = time.monotonic() + seconds
        while not (replies := await self._listings()):
            if time.monotonic() >= deadline or self._failure.failure_class == FailureClass.CERTIFICATE:
                shown = ", ".join(address.display_url for address in self.load_balancer.endpoints)
                told = f"{shown} cannot be reached ({self._failure.failure_class}: {self._failure.message})"
                cure = "start it, check policy_base_url, or have it waited for with +wait_for_agent_s=SECONDS"
                raise Unreachable(f"the model server at {told}: {cure}") from self._failure
            await asyncio.sleep(min(_ASK_EVERY_S, max(0.0, deadline - time.monotonic())))
        for address in self.load_balancer.endpoints:
            if address not in replies:
                log(
                    f"warning: the model server at {address.display_url} does not answer: it is tried again now and then"
                )
        for address, reply in replies.items():
            if reply.status in (401, 403):
                message = f"the model server at {address.display_url} refuses the credentials (HTTP {reply.status})"
                raise Unreachable(f"{message}: check policy_api_key")
        address, reply = next(iter(replies.items()))
        names = _models(reply)
        if self.model is None:
            self.model = _only_model(names, address.display_url)
        elif names and self.model not in names:
            log(f"warning: {address.display_url} lists no model {self.model!r}, but {', '.join(names[:20])}")

    async def _listings(self) -> dict[Endpoint, Reply]:
        """What each server that is there says of its models."""
        replies = {}
        for address in self.load_balancer.endpoints:
            try:
                async with asyncio.timeout(_LISTING_S):
                    replies[address] = await self._http.get(f"{address.url}/models", self._headers)
            except TimeoutError:
                self._failure = AttemptFailed(FailureClass.TIMEOUT, f"no list of models within {_LISTING_S:g} s")
            except AttemptFailed as failure:
                self._failure = failure
                address.record_failure(failure)
        return replies


def base_url(url: str) -> str:
    """A base address without what follows `/v1`, and with it if there is no path at all."""
    url = url.rstrip("/")
    for path in PATHS.values():
        url = url.removesuffix(path)
    return url if urlsplit(url).path else f"{url}/v1"


def _take_extra_body(given: Json) -> Json:
    """Take `extra_body` out of the metadata: fields for the body that the API does not know."""
    metadata = dict(given.get("metadata") or {})
    extra = metadata.pop("extra_body", None)
    if extra is None:
        return {}
    given["metadata"] = metadata
    if not metadata:
        del given["metadata"]
    try:
        parsed = loads(extra.encode()) if isinstance(extra, str) else extra
    except ValueError as error:
        raise AttemptFailed(FailureClass.BAD_REQUEST, f"metadata.extra_body is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise AttemptFailed(FailureClass.BAD_REQUEST, "metadata.extra_body is not a JSON object")
    return parsed


def _responses_request(given: Json) -> Json:
    unknown = sorted(given.keys() - (RESPONSES_PARAMETERS - {"seed"}))
    unknown += [f"{name}=true (the answer is waited for)" for name in ("background", "stream") if given.get(name)]
    if unknown:
        told = f"/responses has no place for {', '.join(unknown)}"
        cure = "leave it out, use policy_api=chat_completions, or put it in metadata.extra_body"
        raise AttemptFailed(FailureClass.UNSUPPORTED_PARAMETER, f"{told}: {cure}")
    return given


def _check(reply: Json) -> None:
    """Some servers answer 200 and put what went wrong into the body.

    Raises:
        AttemptFailed: `model_error`.
    """
    error = reply.get("error")
    if reply.get("status") not in (None, "completed", "incomplete"):
        told = error_message(error) if error else f"the response is {reply['status']}"
        raise AttemptFailed(FailureClass.MODEL_ERROR, told)
    if error and not reply.get("output") and not reply.get("choices"):
        raise AttemptFailed(FailureClass.MODEL_ERROR, error_message(error))


def _models(reply: Reply) -> list[str]:
    """The names in a listing of models; none if it is no such listing."""
    try:
        return [str(model["id"]) for model in json_object(reply)["data"]]
    except (AttemptFailed, KeyError, TypeError):
        return []


def _only_model(names: list[str], shown: str) -> str:
    if not names:
        raise ConfigError(f"{shown} does not list its models: give +policy_model_name=NAME")
    if len(names) != 1:
        told = ", ".join(names[:20])
        raise ConfigError(f"{shown} serves several models ({told}): choose one with +policy_model_name=NAME")
    return names[0]
