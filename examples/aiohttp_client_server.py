"""aiohttp's server on one stack, aiohttp's client on another.

Run it:     python examples/aiohttp_client_server.py
It prints:  http://web/ says: hello 10.0.0.2
"""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web

import aioioth
from aioioth.adapters.aiohttp import Site, connector


async def hello(request: web.Request) -> web.Response:
    """Greet who asks."""
    return web.Response(text=f"hello {request.remote}")


async def main() -> None:
    """Serve, and ask by name."""
    app = web.Application()
    app.add_routes([web.get("/", hello)])
    runner = web.AppRunner(app)
    await runner.setup()
    hosts = {"web": "10.0.0.1"}
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24") as server,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24", hosts=hosts) as client,
    ):
        try:
            await Site(server, runner, "10.0.0.1", 80).start()
            async with (
                aiohttp.ClientSession(connector=connector(client)) as session,
                session.get("http://web/") as response,
            ):
                print(f"{response.url} says: {await response.text()}")
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
