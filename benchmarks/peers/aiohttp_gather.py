"""The script that most people write: aiohttp, gather, a semaphore. usage: INPUT OUTPUT URL PARALLEL"""

import asyncio
import json
import sys

import aiohttp


async def main(source: str, target: str, url: str, parallel: int) -> None:
    semaphore = asyncio.Semaphore(parallel)
    connector = aiohttp.TCPConnector(limit=0)
    with open(source) as lines, open(target, "w") as output:
        rows = [json.loads(line) for line in lines]
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

            async def one(row: dict) -> dict:
                async with semaphore, session.post(f"{url}/run", json=row) as response:
                    result = await response.json()
                output.write(json.dumps(result) + "\n")
                return result

            results = await asyncio.gather(*(one(row) for row in rows))
    print(sum(result["reward"] for result in results) / len(results))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
