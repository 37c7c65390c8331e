"""The same script over plain httpx.AsyncClient. usage: INPUT OUTPUT URL PARALLEL"""

import asyncio
import json
import sys

import httpx


async def main(source: str, target: str, url: str, parallel: int) -> None:
    semaphore = asyncio.Semaphore(parallel)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    with open(source) as lines, open(target, "w") as output:
        rows = [json.loads(line) for line in lines]
        async with httpx.AsyncClient(timeout=None, limits=limits) as client:

            async def one(row: dict) -> dict:
                async with semaphore:
                    response = await client.post(f"{url}/run", json=row)
                result = response.json()
                output.write(json.dumps(result) + "\n")
                return result

            results = await asyncio.gather(*(one(row) for row in rows))
    print(sum(result["reward"] for result in results) / len(results))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
