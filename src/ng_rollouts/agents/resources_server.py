"""A NeMo Gym resources server: a session of tool calls that ends with a verdict, held together by cookies."""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.http.client import Http, Reply
from ng_rollouts.http.json_reply import json_object
from ng_rollouts.jsonl import dumps
from ng_rollouts.redaction import without_credentials
from ng_rollouts.types import Json


class ResourcesSession:
    """One rollout's session; the cookies of each reply that sets any replace those before it."""

    def __init__(self, url: str, http: Http) -> None:
        self._url = url.rstrip("/")
        self._http = http
        self._cookies: dict[str, str] = {}

    async def seed(self, row: Json) -> None:
        """Begin, with the whole row.

        Raises:
            AttemptFailed: the server refused.
        """
        reply = await self._post("seed_session", dumps(row))
        if reply.status == 404:
            what = f"{without_credentials(self._url)} has no /seed_session, so it is no such resources server"
            raise AttemptFailed("http_404", f"{what}: have its own agent asked, by +agent_name=", status=404)
        json_object(reply)

    async def call(self, name: str, arguments: bytes) -> str:
        """What a tool says, whatever its status."""
        reply = await self._post(name, arguments)
        return reply.body.decode("utf-8", "replace")

    async def verify(self, row: Json, response: Json) -> Json:
        """The verdict on a response.

        Raises:
            AttemptFailed: there is none.
        """
        return json_object(await self._post("verify", dumps({**row, "response": response})))

    async def _post(self, path: str, body: bytes) -> Reply:
        told = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        reply = await self._http.post(f"{self._url}/{path}", body, {"cookie": told} if told else {})
        set_now = dict(pair for header in reply.headers("set-cookie") for pair in _cookies(header))
        self._cookies = set_now or self._cookies
        return reply


def _cookies(header: str) -> list[tuple[str, str]]:
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(header)
    except CookieError:
        return []
    return [(name, morsel.coded_value) for name, morsel in jar.items()]
