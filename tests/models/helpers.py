"""An HTTP client whose replies are given, and the requests that it was asked to send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Self

from ng_rollouts.http.client import NO_HEADERS, Reply
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.models.client import ModelClient

Answer = Callable[[str, Any], Any]
"""From the path and the request's body to the reply: a JSON value, bytes of an event stream, or a status with either."""


class ScriptedHttp:
    """Answers by a function; `sent` has the bodies of all requests."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.sent: list[Any] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def post(self, url: str, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> Reply:
        self.sent.append(json.loads(body))
        await asyncio.sleep(0)  # so that concurrent requests are in flight together
        answer = self.answer(url.removeprefix("http://test/v1"), json.loads(body))
        status, value = answer if isinstance(answer, tuple) else (200, answer)
        kind = "text/event-stream; charset=utf-8" if isinstance(value, bytes) else "application/json"
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        fields = {"content-type": kind}
        return Reply(status, fields.get, lambda name: [fields[name]] if name in fields else [], content)

    async def get(self, url: str, headers: Mapping[str, str] = NO_HEADERS) -> Reply:
        raise NotImplementedError


def client_of(http: ScriptedHttp, api: str = "chat_completions", ids_mode: str = "never") -> ModelClient:
    """A client of the model server that `http` plays."""
    balancer = LoadBalancer(["http://test/v1"])
    return ModelClient(balancer, http, api=api, model="m", api_key=None, ids_mode=ids_mode)


def completion_of(message: Any, finish_reason: str | None = "stop", **fields: Any) -> Any:
    """A Chat Completions reply with one message."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    return {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], **fields}


def response_of(text: str, **fields: Any) -> Any:
    """A Response with one message."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    item = {"id": "msg_0", "type": "message", "role": "assistant", "status": "completed", "content": content}
    return {"id": "r", "object": "response", "status": "completed", "output": [item], **fields}


def stream_of(*events: Any) -> bytes:
    """Events as a server sends them."""
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
