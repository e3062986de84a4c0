"""A WebSocket server on one stack, a client on another.

Run it:     python examples/websockets_shout.py
It prints:  HELLO
            10.0.0.2 was here
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aioioth
from aioioth.adapters.websockets import connect, serve

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection


async def shout(connection: ServerConnection) -> None:
    """Send back what comes, louder."""
    async for message in connection:
        await connection.send(message.upper())
    print(connection.remote_address[0], "was here")


async def main() -> None:
    """Serve, and say hello."""
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24") as server,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24") as client,
        serve(server, shout, "10.0.0.1", 80),
        connect(client, "ws://10.0.0.1/") as connection,
    ):
        await connection.send("hello")
        print(await connection.recv())


if __name__ == "__main__":
    asyncio.run(main())
