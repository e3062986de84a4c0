"""Two servers with the same address and port, in one process, on different networks.

Run it:     python examples/same_address_twice.py
It prints:  red:  10.0.0.1 port 80 says: this is the red network
            blue: 10.0.0.1 port 80 says: this is the blue network
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aioioth

COLOURS = ("red", "blue")


async def serve(stack: aioioth.Stack, colour: str) -> asyncio.Server:
    """Tell whoever connects which network this is."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"this is the {colour} network".encode())
        writer.close()
        await writer.wait_closed()

    return await stack.start_server(answer, "10.0.0.1", 80)


async def main() -> None:
    """Make both networks, with a server and a client on each, and ask both."""
    async with AsyncExitStack() as opened:
        clients = {}
        for colour in COLOURS:
            network = f"memory://{colour}"
            server = aioioth.Stack(network, ip="10.0.0.1/24")
            client = aioioth.Stack(network, ip="10.0.0.2/24")
            await opened.enter_async_context(server)
            clients[colour] = await opened.enter_async_context(client)
            await opened.enter_async_context(await serve(server, colour))
        for colour, client in clients.items():
            reader, writer = await client.open_connection("10.0.0.1", 80)
            text = (await reader.read()).decode()
            print(f"{colour + ':':5} 10.0.0.1 port 80 says: {text}")
            writer.close()
            await writer.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
