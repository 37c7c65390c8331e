"""An agent far cheaper than any client: a prebuilt reply, sent after a latency. Prints its port.

usage: stub_agent.py [--latency S] [--spread S] [--reply-bytes N] [--core N]

Latencies are drawn evenly from latency ± spread. It reads a request up to its Content-Length and looks at nothing else.
A GET is answered at once: `/times` with the times in seconds at which requests arrived and were answered, all else like
NeMo Gym's head server that lists the stub as the agent `stub`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import time
from array import array
from typing import Any, cast

import uvloop


def reply_of(size: int) -> bytes:
    """A reply of about this many bytes: a row as an agent returns it."""
    text = "x" * max(0, size - 700)
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content}
    usage = {"input_tokens": 400, "output_tokens": 800, "total_tokens": 1200}
    row = {
        "responses_create_params": {"input": [{"role": "user", "content": "What is it?"}], "temperature": 0.7},
        "response": {"id": "resp_1", "object": "response", "output": [message], "usage": usage},
        "reward": 1.0,
        "accuracy": True,
    }
    return as_reply(row)


def head_server_reply(port: int) -> bytes:
    """What a head server says of the stub itself: an agent, behind the environment server that NeMo Gym 0.7 needs."""
    server = {"entrypoint": "app.py", "host": "127.0.0.1", "port": port}
    before = {**server, "agent_server": {"type": "responses_api_agents", "name": "stub"}}
    servers = {
        "stub": {"responses_api_agents": {"stub_agent": server}},
        "stub_environment_server": {"environment_servers": {"legacy_agent": before}},
    }
    return as_reply(json.dumps(servers))


def as_reply(value: Any) -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


class Times:
    """When requests arrived and were answered, in seconds."""

    def __init__(self) -> None:
        self.arrived, self.answered = array("d"), array("d")


class Stub(asyncio.Protocol):
    def __init__(self, reply: bytes, latency: float, spread: float, times: Times) -> None:
        self.reply, self.latency, self.spread, self.times = reply, latency, spread, times
        self.loop = asyncio.get_running_loop()
        self.buffer = b""
        self.remaining = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.remaining < 0:
            self.buffer += data
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if self.buffer.startswith(b"GET"):
                self.transport.write(self.reply_to_get(self.buffer))
                self.buffer = b""
                return
            head = self.buffer[:end].lower()
            place = head.find(b"content-length:")
            length = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
            self.remaining = length - (len(self.buffer) - end - 4)
        else:
            self.remaining -= len(data)
        if self.remaining <= 0:
            self.buffer, self.remaining = b"", -1
            self.times.arrived.append(time.monotonic())
            delay = self.latency + self.spread * (2 * random.random() - 1)
            if delay > 0:
                self.loop.call_later(delay, self.answer)
            else:
                self.answer()

    def answer(self) -> None:
        self.times.answered.append(time.monotonic())
        if not self.transport.is_closing():
            self.transport.write(self.reply)

    def reply_to_get(self, head: bytes) -> bytes:
        if head.startswith(b"GET /times "):
            return as_reply({"arrived": list(self.times.arrived), "answered": list(self.times.answered)})
        return head_server_reply(self.transport.get_extra_info("sockname")[1])


async def main(options: argparse.Namespace) -> None:
    reply, times = reply_of(options.reply_bytes), Times()
    server = await asyncio.get_running_loop().create_server(
        lambda: Stub(reply, options.latency, options.spread, times), "127.0.0.1", 0, backlog=32768
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--spread", type=float, default=0.0)
    parser.add_argument("--reply-bytes", type=int, default=4000)
    parser.add_argument("--core", type=int, default=1)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main(arguments))
