"""An application and a client for the tests of servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx

from aioioth.adapters.httpx import transport

if TYPE_CHECKING:
    import aioioth


class App:
    """Greets who asks, and remembers what it was told of its life."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in "startup", "shutdown":
                event = (await receive())["type"]
                self.events.append(event)
                await send({"type": f"{event}.complete"})
            return
        assert scope["type"] == "http"
        self.asked.set()
        await self.may_answer.wait()
        text = f"hello {scope['client'][0]}".encode()
        headers = [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


async def get(stack: aioioth.Stack, url: str, **kwds: Any) -> str:
    async with httpx.AsyncClient(transport=transport(stack, **kwds)) as client:
        return (await client.get(url)).text


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    """An application that does not want to start."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "not today"})
