"""A script over the same HTTP engine that only sends, parses and writes. usage: INPUT OUTPUT URL PARALLEL"""

import asyncio
import sys

import orjson
import uvloop
from pyreqwest.client import ClientBuilder


async def main(source: str, target: str, url: str, parallel: int) -> None:
    semaphore = asyncio.Semaphore(parallel)
    rewards: list[float] = []
    client = (
        ClientBuilder()
        .default_headers({"content-type": "application/json"})
        .http1_only()
        .tcp_nodelay(enabled=True)
        .build()
    )
    with open(source, "rb") as lines, open(target, "wb", buffering=0) as output:

        async def one(line: bytes) -> None:
            try:
                request = client.post(f"{url}/run").body_bytes(orjson.dumps(orjson.loads(line))).build()
                response = await request.send()
                result = orjson.loads(bytes(await response.bytes()))
                output.write(orjson.dumps(result) + b"\n")
                rewards.append(result["reward"])
            finally:
                semaphore.release()

        async with client, asyncio.TaskGroup() as tasks:
            for line in lines:
                await semaphore.acquire()
                tasks.create_task(one(line))
    print(sum(rewards) / len(rewards))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
