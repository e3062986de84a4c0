"""A real Redis server in one stack, redis-py in another.

Run it:     python examples/redis_client.py        (needs redis-server)
It prints:  db says: hello
            it sees us as 10.0.0.2
"""

from __future__ import annotations

import asyncio
import shutil

import aioioth
from aioioth.adapters.redis import client

OPTIONS = ["--bind", "10.0.0.1", "--protected-mode", "no", "--save", ""]


async def main() -> None:
    """Start the server, write and read."""
    program = shutil.which("redis-server")
    if program is None:
        print("there is no redis-server here")
        return
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24") as one,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24") as two,
    ):
        two.hosts["db"] = "10.0.0.1"
        server = await one.create_subprocess_exec(
            program, *OPTIONS, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            await two.wait_listening("db", 6379, timeout=10)
            async with client(two, "db", decode_responses=True) as redis:
                await redis.set("greeting", "hello")
                print("db says:", await redis.get("greeting"))
                [us] = await redis.client_list()
                print("it sees us as", us["addr"].rpartition(":")[0])
        finally:
            server.terminate()
            await server.wait()


if __name__ == "__main__":
    asyncio.run(main())
