"""Three services in one process, each on an address of its own, all at port 80.

Run it:     pip install aiohttp uvicorn; python examples/microservices.py
It prints:  shop at 10.0.0.1, prices at 10.0.0.2, stock at 10.0.0.3, all at port 80
            tea: 3.50, 12 left
            coffee: 4.20, sold out
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import uvicorn
from aiohttp import web

import aioioth
from aioioth.adapters import aiohttp as on_aiohttp, uvicorn as on_uvicorn

PRICES = {"/tea": b"3.50", "/coffee": b"4.20"}
STOCK = {"tea": 12, "coffee": 0}

# What each service is called. One table for all stacks; each could have its own.
HOSTS = aioioth.Hosts({"shop": "10.0.0.1", "prices": "10.0.0.2", "stock": "10.0.0.3"})


async def prices(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the price of the path's article: an ASGI application for uvicorn."""
    body = PRICES[scope["path"]]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def stock(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with how many there are, one article a line: plain asyncio."""
    while line := await reader.readline():
        writer.write(b"%d\n" % STOCK[line.decode().strip()])
    writer.close()


def shop(own: aioioth.Stack, session: aiohttp.ClientSession) -> web.Application:
    """Return the web shop, which asks the other two: an aiohttp server and client."""

    async def article(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        async with session.get(f"http://prices/{name}") as response:
            price = await response.text()
        reader, writer = await own.open_connection("stock", 80)
        writer.write(f"{name}\n".encode())
        left = int(await reader.readline())
        writer.close()
        return web.Response(text=f"{price}, {f'{left} left' if left else 'sold out'}")

    app = web.Application()
    app.router.add_get("/{name}", article)
    return app


async def main() -> None:
    """Start the services on a network of their own, and buy something."""
    async with AsyncExitStack() as until_end:

        async def host(name: str) -> aioioth.Stack:
            address = f"{HOSTS[name][0]}/24" if name in HOSTS else "10.0.0.9/24"
            stack = aioioth.Stack("memory://town", ip=address, name=name, hosts=HOSTS)
            return await until_end.enter_async_context(stack)

        async def session(stack: aioioth.Stack) -> aiohttp.ClientSession:
            made = aiohttp.ClientSession(connector=on_aiohttp.connector(stack))
            return await until_end.enter_async_context(made)

        config = uvicorn.Config(prices, port=80, host="prices", log_level="warning")
        asgi = on_uvicorn.open_server(await host("prices"), config)
        await until_end.enter_async_context(asgi)

        plain = await (await host("stock")).start_server(stock, "stock", 80)
        await until_end.enter_async_context(plain)

        own = await host("shop")
        runner = web.AppRunner(shop(own, await session(own)))
        await runner.setup()
        until_end.push_async_callback(runner.cleanup)
        await on_aiohttp.Site(own, runner, "shop", 80).start()

        print(*(f"{name} at {HOSTS[name][0]}," for name in HOSTS), "all at port 80")
        customer = await session(await host("customer"))
        for name in STOCK:
            async with customer.get(f"http://shop/{name}") as response:
                print(f"{name}: {await response.text()}")


if __name__ == "__main__":
    asyncio.run(main())
