"""The httpx engine."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import httpx
import pytest
import respx

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.http.client import TimeLimits
from ng_rollouts.http.httpx_client import HttpxClient


@pytest.mark.parametrize(
    ("error", "failure_class"),
    [
        (httpx.ConnectTimeout("t"), "connect_timeout"),
        (httpx.ReadError(""), "connection_lost"),
        (httpx.WriteError(""), "connection_lost"),
        (httpx.RemoteProtocolError("peer closed connection without sending complete message body"), "truncated"),
        (httpx.RemoteProtocolError("illegal header line"), "malformed_reply"),
        (RuntimeError("a defect of a library"), "connection_lost"),
        (httpx.ReadTimeout("t"), "timeout"),
        (httpx.ConnectError("no such host"), "connect_failed"),
        (httpx.UnsupportedProtocol("x"), "bad_request"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_httpx_error_has_a_failure_class(error: Exception, failure_class: str) -> None:
    """Each exception of httpx, and any other, becomes an `AttemptFailed` with the failure class of its kind."""

    async def post() -> None:
        async with HttpxClient(TimeLimits()) as client:
            await client.post("http://a.test/run", b"{}")

    with respx.mock:
        respx.post("http://a.test/run").mock(side_effect=error)
        with pytest.raises(AttemptFailed) as failure:
            asyncio.run(post())
    assert failure.value.failure_class == failure_class


def test_reply_is_freed_without_the_garbage_collector() -> None:
    """A reply is in no reference cycle, because bodies may be large and the collector runs rarely."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def post() -> None:
        async with HttpxClient(TimeLimits(), app=app) as client:
            assert (await client.post("http://freed.test/run", b"{}")).status == 200

    gc.collect()
    gc.disable()
    try:
        asyncio.run(post())
        requests = [each for each in gc.get_objects() if isinstance(each, httpx.Request)]
        assert "freed.test" not in {each.url.host for each in requests}
    finally:
        gc.enable()
