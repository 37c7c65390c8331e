"""A client for a NeMo Gym resources server: a session of tool calls that ends with a score."""

from __future__ import annotations

from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.http.client import Http, Reply
from ng_rollouts.http.json_reply import json_object
from ng_rollouts.jsonl import dumps
from ng_rollouts.redaction import without_credentials
from ng_rollouts.types import Json

_OWN_PATHS = frozenset({"verify", "seed_session", ".", ".."})
"""Paths that a tool call must not reach: they score and start sessions, or lead elsewhere."""


class ResourcesSession:
    """One rollout's session, which the server identifies by cookies.

    Each reply that sets cookies replaces all earlier ones.

    Args:
        tools: names of the tools that the row offers. The model chooses the name of a call, a part of a URL.
    """

    def __init__(self, url: str, http: Http, tools: Collection[str]) -> None:
        self._url = url.rstrip("/")
        self._tools = tools
        self._http = http
        self._cookies: dict[str, str] = {}

    async def seed(self, row: Json) -> None:
        """Start the session, with the whole row.

        Raises:
            AttemptFailed: the server replied with an error.
        """
        reply = await self._post("seed_session", dumps(row))
        if reply.status == 404:
            # servers in the style of Gymnasium have /reset and /step instead, which only their own agents call
            message = f"{without_credentials(self._url)} has no /seed_session"
            fix = "use the agent of this resources server, with +agent_name=NAME"
            raise AttemptFailed("http_404", f"{message}: {fix}", status=404)
        json_object(reply)

    async def call(self, name: str, arguments: bytes) -> str:
        """Call a tool, if the row offers it and the server's own paths are not called so.

        Returns:
            The body of the reply; error replies are included, because the model can react to them.
        """
        if name not in self._tools or name in _OWN_PATHS:
            return dumps({"error": f"the tool {name!r} does not exist"}).decode()
        reply = await self._post(quote(name, safe=""), arguments)
        return reply.body.decode("utf-8", "replace")

    async def verify(self, row: Json, response: Json) -> Json:
        """Score a response.

        Raises:
            AttemptFailed: the server replied with an error, or not with a JSON object.
        """
        return json_object(await self._post("verify", dumps({**row, "response": response})))

    async def _post(self, path: str, body: bytes) -> Reply:
        # the HTTP client is shared by all rollouts and keeps no cookies, so each session keeps its own
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        reply = await self._http.post(f"{self._url}/{path}", body, {"cookie": cookies} if cookies else {})
        new_cookies = dict(pair for header in reply.headers("set-cookie") for pair in _cookies(header))
        self._cookies = new_cookies or self._cookies
        return reply


def _cookies(header: str) -> list[tuple[str, str]]:
    """The names and values in a `Set-Cookie` header; empty if it is malformed."""
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(header)
    except CookieError:
        return []
    # the coded value is sent back as it was received, quotes included
    return [(name, morsel.coded_value) for name, morsel in jar.items()]
