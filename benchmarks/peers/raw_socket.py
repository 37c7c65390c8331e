"""The floor: a socket a slot, bytes out, reply parsed, line written. usage: INPUT OUTPUT URL PARALLEL"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import BinaryIO, cast
from urllib.parse import urlsplit

import httptools
import orjson
import uvloop


class Slot(asyncio.Protocol):
    """A connection that sends the next row once it has a reply."""

    def __init__(self, rows: Iterator[bytes], output: BinaryIO, rewards: list[float]) -> None:
        self.rows, self.output, self.rewards = rows, output, rewards
        self.done = asyncio.get_running_loop().create_future()
        self.body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.parser = httptools.HttpResponseParser(self)
        self.send_next()

    def send_next(self) -> None:
        row = next(self.rows, None)
        if row is None:
            self.done.set_result(None)
            self.transport.close()
            return
        body = orjson.dumps(orjson.loads(row))
        head = b"POST /run HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % len(body) + body)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self.body.append(part)

    def on_message_complete(self) -> None:
        result = orjson.loads(b"".join(self.body))
        self.body.clear()
        self.rewards.append(result["reward"])
        self.output.write(orjson.dumps(result) + b"\n")
        self.send_next()


async def main(source: str, target: str, url: str, parallel: int) -> None:
    loop, parts = asyncio.get_running_loop(), urlsplit(url)
    rewards: list[float] = []
    with open(source, "rb") as rows, open(target, "wb") as output:
        slots = []
        for _ in range(parallel):
            _, slot = await loop.create_connection(lambda: Slot(rows, output, rewards), parts.hostname, parts.port)
            slots.append(slot)
        await asyncio.gather(*(slot.done for slot in slots))
    print(sum(rewards) / len(rewards))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
