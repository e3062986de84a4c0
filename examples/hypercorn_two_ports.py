"""hypercorn on two addresses of a stack, until it is told to stop.

Run it:     python examples/hypercorn_two_ports.py
It prints:  10.0.0.1 says: hello 10.0.0.2
            fd00::1 says: hello fd00::2
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from hypercorn.config import Config

import aioioth
from aioioth.adapters.httpx import transport
from aioioth.adapters.hypercorn import open_server


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Greet who asks (ASGI)."""
    if scope["type"] == "lifespan":
        for _ in "startup", "shutdown":
            await send({"type": (await receive())["type"] + ".complete"})
        return
    text = f"hello {scope['client'][0]}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})


async def main() -> None:
    """Serve, and ask on both addresses."""
    config = Config()
    config.bind = ["10.0.0.1:80", "[fd00::1]:80"]
    config.errorlog = None
    async with (
        aioioth.Stack("memory://lan", ip=["10.0.0.1/24", "fd00::1/64"]) as server,
        aioioth.Stack("memory://lan", ip=["10.0.0.2/24", "fd00::2/64"]) as client,
        open_server(server, app, config) as sockets,
        httpx.AsyncClient(transport=transport(client)) as http,
    ):
        for sock in sockets:
            host, port = sock.getsockname()[:2]
            url = httpx.URL(scheme="http", host=host, port=port)
            print(host, "says:", (await http.get(url)).text)


if __name__ == "__main__":
    asyncio.run(main())
