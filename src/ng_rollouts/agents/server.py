"""An agent behind `POST {agent}/run`, at one address or several."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from ng_rollouts.errors import MESSAGE_CHARACTERS, AttemptFailed
from ng_rollouts.http import Http, Reply
from ng_rollouts.jsonlines import dumps, loads
from ng_rollouts.records import Json
from ng_rollouts.redact import redact, remember_password_of
from ng_rollouts.retries import UNREACHED, is_retryable, retry_after_s

_FORBIDDING = (b"forbid", b"not permitted", b"not allowed", b"extra", b"unknown", b"unrecognized", b"unexpected")


REST_S = 5.0
"""An address at which nobody was there is left alone for so long, while there are others."""


@dataclass(slots=True)
class _Address:
    run_url: str
    in_flight: int = 0
    asked: int = 0
    rests_until: float = 0.0

    def burden(self) -> tuple[bool, int, int]:
        """What orders addresses, the one to ask first."""
        return time.monotonic() < self.rests_until, self.in_flight, self.asked


class ServerAgent:
    """An agent server; several addresses are used least busy first.

    A `seed` goes with the sampling parameters. An agent that refuses the key there, as NeMo Gym's do, has it from
    then on in `metadata.extra_body`, and the row that was refused is sent again at once.
    """

    def __init__(self, urls: list[str], http: Http) -> None:
        self.urls = urls
        for url in urls:
            remember_password_of(url)
        self._addresses = [_Address(_run_url(url)) for url in urls]
        self._http = http
        self._refuses_seed = False

    async def run(self, request: Json) -> Json:
        """Send the row to the least busy address."""
        address = min(self._addresses, key=_Address.burden)
        address.in_flight += 1
        address.asked += 1
        try:
            return await self._run_at(address.run_url, request)
        except AttemptFailed as failure:
            if failure.failure_class in UNREACHED:
                address.rests_until = time.monotonic() + REST_S
            raise
        finally:
            address.in_flight -= 1

    async def _run_at(self, url: str, request: Json) -> Json:
        has_seed = request["responses_create_params"].get("seed") is not None
        if has_seed and not self._refuses_seed:
            reply = await self._http.post(url, dumps(request))
            if not _refuses_seed(reply):
                return _result(reply)
            self._refuses_seed = True
        if has_seed:
            request = seed_in_extra_body(request)
        return _result(await self._http.post(url, dumps(request)))


def seed_in_extra_body(request: Json) -> Json:
    """The request with its seed moved into the JSON text of `metadata.extra_body`, beside what is there."""
    params = dict(request["responses_create_params"])
    metadata = dict(params.get("metadata") or {})
    try:
        extra = loads(str(metadata.get("extra_body") or "{}").encode())
    except ValueError:
        extra = {}
    extra = extra if isinstance(extra, dict) else {}
    metadata["extra_body"] = dumps({**extra, "seed": params.pop("seed")}).decode()
    return {**request, "responses_create_params": {**params, "metadata": metadata}}


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


def _result(reply: Reply) -> Json:
    if not 200 <= reply.status < 300:
        raise AttemptFailed(
            f"http_{reply.status}",
            _words(reply.body) or "no message",
            status=reply.status,
            retryable=is_retryable(reply.status),
            retry_after_s=retry_after_s(reply.header("retry-after"), time.time()),
        )
    try:
        result = loads(reply.body)
    except ValueError as error:
        if _is_json_but_for_numbers(reply.body):
            raise AttemptFailed("not_finite", "the reply has NaN or infinite numbers", status=reply.status) from error
        message = f"the reply is not JSON ({error}): {_words(reply.body[:200])}"
        raise AttemptFailed("not_json", message, status=reply.status, retryable=True) from error
    if not isinstance(result, dict):
        message = f"the reply is not an object: {_words(reply.body[:200])}"
        raise AttemptFailed("not_object", message, status=reply.status)
    return result


def _is_json_but_for_numbers(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _words(body: bytes) -> str:
    text = body[: 4 * MESSAGE_CHARACTERS].decode("utf-8", "replace")
    return redact(" ".join(text.split())[:MESSAGE_CHARACTERS])
