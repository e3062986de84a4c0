"""uvicorn on one stack, httpx on another: on asyncio, and on trio in a thread.

Run it:     python examples/httpx_uvicorn.py
It prints:  asyncio: 200 hello 10.0.0.2
            trio: 200 hello 10.0.0.2      (if trio is installed)
"""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

import httpx
import uvicorn

import aioioth
from aioioth.adapters.httpx import transport
from aioioth.adapters.uvicorn import open_server


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Greet who asks (ASGI)."""
    text = f"hello {scope['client'][0]}".encode()
    headers = [(b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


async def ask(stack: aioioth.Stack) -> str:
    """Ask the server, on whichever event loop."""
    async with httpx.AsyncClient(transport=transport(stack)) as client:
        response = await client.get("http://10.0.0.1/")
        return f"{response.status_code} {response.text}"


async def main() -> None:
    """Serve, and ask."""
    settings: dict[str, Any] = {"lifespan": "off", "log_config": None}
    config = uvicorn.Config(app, host="10.0.0.1", port=80, **settings)
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24") as server,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24") as client,
        open_server(server, config),
    ):
        print("asyncio:", await ask(client))
        if importlib.util.find_spec("trio"):
            import trio

            print("trio:", await asyncio.to_thread(trio.run, ask, client))


if __name__ == "__main__":
    asyncio.run(main())
