"""A fault-injecting agent server for tests; see `servers.py` for how it is started.

Written on bare asyncio streams, so that it can reset, stall or cut a reply where a framework would not. Options:

    delay           [least, most] seconds before a reply, drawn evenly
    faults          {kind: share}: which replies go wrong, drawn from the key and the number of its attempt
    sticky          faults depend on the key alone, so that no retry helps
    refuse_seed     422 for a seed among the parameters, as NeMo Gym's agents answer
    die_after       the process ends after this many requests
    pad             bytes of text to add to each reply
    head            {name: [host, port]}: serve as a head server that lists these agents
    config          the text of the configuration that it serves as a head server
    replies         the replies to `/run`, in the order of the requests; the last one repeats

`GET /stats` tells what was asked for.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
from collections import Counter
from typing import Any

TEXT = "reply to task {} rollout {}"
BODIES = {
    "malformed": b'{"reward": 1.0,,}',
    "empty": b"",
    "not_object": b"[1, 2, 3]",
    "nan": b'{"reward": NaN}',
    "no_reward": b'{"response": {}}',
    "null_reward": b'{"reward": null}',
    "failure_class": b'{"reward": 0.0, "_ng_failure_class": "sandbox_crashed"}',
    "terminal": b'{"reward": 0.0, "_ng_failure_class": "bad_task", "_ng_failure_terminal": true}',
    "null_params": b'{"reward": 1.0, "responses_create_params": null}',
    "odd_params": b'{"reward": 1.0, "responses_create_params": {"input": [{"tool_calls": {}}, {"type": "function_call"}]}}',
    "deep": b'{"reward": 1.0, "x": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    "deeper": b'{"reward": 1.0, "x": ' + b"[" * 9000 + b"]" * 9000 + b"}",
    "long_error": b'{"reward": 0, "_ng_failure_class": "crash", "error": "' + b"A" * 200000 + b'"}',
    "secret_class": b'{"reward": 0, "_ng_failure_class": "AuthError api_key=abcdef123456", "_ng_failure_terminal": true}',
    "no_persist": b'{"reward": 0.0, "_ng_no_persist": true}',
}


def reward_of(task_index: int, rollout_index: int) -> float:
    """The reward this server gives: the same for the same key, different for different ones."""
    return round(draw("reward", task_index, rollout_index), 3)


def draw(*parts: object) -> float:
    """A number from [0, 1) that depends on the parts alone."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


class AgentServer:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.authorization: str | None = None
        self.asked: Counter[str] = Counter()
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = self.most_in_flight = self.connections = 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *headers = head.decode("latin-1").split("\r\n")
                method, path, _ = request.split(" ")
                fields = {name.strip().lower(): value.strip() for name, _, value in (h.partition(":") for h in headers)}
                self.authorization = fields.get("authorization") or self.authorization
                self.headers = [*self.headers[-50:], fields]
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                if not await self.respond(method, path, body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def respond(self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        if path == "/stats":
            stats = {
                "asked": self.asked,
                "total": self.asked.total(),
                "most_in_flight": self.most_in_flight,
                "connections": self.connections,
                "authorization": self.authorization,
                "last": self.bodies[-50:],
                "headers": self.headers,
            }
            return await self.send(writer, 200, json.dumps(stats).encode())
        if path == "/global_config_dict_yaml" and ("head" in self.options or "config" in self.options):
            return await self.send(writer, 200, json.dumps(self.global_config()).encode())
        if path == "/" and method == "GET":
            return await self.send(writer, 200, b"{}")
        if path == "/aggregate_metrics" and "own_metrics" in self.options:
            self.bodies = [json.loads(body)]
            return await self.send(writer, *self.options["own_metrics"])
        if path != "/run":
            return await self.send(writer, 404, b'{"detail":"Not Found"}')
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self.run(json.loads(body), writer)
        finally:
            self.in_flight -= 1

    def global_config(self) -> str:
        if "config" in self.options:
            return str(self.options["config"])
        lines = []
        for name, (host, port) in self.options["head"].items():
            lines += [f"{name}:", "  responses_api_agents:", "    simple_agent:"]
            lines += ["      entrypoint: app.py", f"      host: {host}", f"      port: {port}"]
        return "\n".join([*lines, "policy_api_key: secret-of-the-head-server", ""])

    async def run(self, row: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        key = (row.get("_ng_task_index"), row.get("_ng_rollout_index"))
        name = f"{key[0]}/{key[1]}"
        self.asked[name] += 1
        self.bodies = [*self.bodies[-50:], row]
        if self.asked.total() >= self.options.get("die_after", float("inf")):
            os._exit(0)
        least, most = self.options.get("delay", [0, 0])
        if most:
            await asyncio.sleep(random.uniform(least, most))
        if self.options.get("refuse_seed") and "seed" in row["responses_create_params"]:
            error = {
                "type": "extra_forbidden",
                "loc": ["body", "responses_create_params", "seed"],
                "msg": "Extra inputs",
            }
            return await self.send(writer, 422, json.dumps({"detail": [error]}).encode())
        if replies := self.options.get("replies"):
            return await self.send(writer, 200, json.dumps(replies[min(self.asked.total(), len(replies)) - 1]))
        fault = self.fault(name)
        return await self.send_fault(fault, writer) if fault else await self.send(writer, 200, self.reply(row, key))

    def fault(self, name: str) -> str | None:
        attempt = 0 if self.options.get("sticky") else self.asked[name]
        value = draw("fault", self.options.get("fault_seed", 0), name, attempt)
        for kind, share in self.options.get("faults", {}).items():
            if value < share:
                return str(kind)
            value -= share
        return None

    def reply(self, row: dict[str, Any], key: tuple[Any, Any]) -> bytes:
        text = TEXT.format(*key) + " " * self.options.get("pad", 0)
        content = [{"type": "output_text", "text": text, "annotations": []}]
        message = {"id": "msg", "type": "message", "role": "assistant", "status": "completed", "content": content}
        reward = reward_of(*key)
        result = {
            "responses_create_params": row["responses_create_params"],
            "response": {"id": "resp", "object": "response", "output": [message], "usage": {"output_tokens": 7}},
            "reward": reward,
            "accuracy": reward >= 0.5,
        }
        return json.dumps(result).encode()

    async def send_fault(self, fault: str, writer: asyncio.StreamWriter) -> bool:
        if fault.isdecimal():
            return await self.send(writer, int(fault), b'{"detail":"made up by the test server"}')
        if fault.startswith("retry_after_"):
            return await self.send(writer, 429, b"slow down", {"retry-after": fault.removeprefix("retry_after_")})
        if fault in BODIES:
            return await self.send(writer, 200, BODIES[fault])
        body = b'{"reward": 1.0, "text": "' + b"x" * 1000 + b'"}'
        match fault:
            case "reset":
                writer.transport.abort()
            case "hang":
                await asyncio.sleep(3600)
            case "half":
                writer.write(self.head(200, len(body), {}) + body[: len(body) // 2])
                await writer.drain()
            case "slow":
                writer.write(self.head(200, len(body), {}))
                for place in range(0, len(body), 100):
                    writer.write(body[place : place + 100])
                    await writer.drain()
                    await asyncio.sleep(0.05)
                return True
            case _:
                raise ValueError(f"no fault is called {fault}")
        return False

    async def send(
        self, writer: asyncio.StreamWriter, status: int, body: bytes | str, headers: dict[str, str] | None = None
    ) -> bool:
        body = body.encode() if isinstance(body, str) else body
        writer.write(self.head(status, len(body), headers or {}) + body)
        await writer.drain()
        return True

    def head(self, status: int, length: int, headers: dict[str, str]) -> bytes:
        fields = {"content-type": "application/json", "content-length": str(length), **headers}
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in fields.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()
