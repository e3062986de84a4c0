"""A network that gives its members addresses and names: ``python lan.py [VNL]``.

Three stacks join it; nobody says an address. Each greets the next one by name.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from aioioth.servers import Lan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NAMES = ["alice", "bob", "carol"]


async def main(vnl: str) -> None:
    """Open the network and its members, and have them talk."""
    async with Lan(vnl) as lan, AsyncExitStack() as until_done:
        members = {name: lan.stack(name) for name in NAMES}
        # Side by side: each asks for a second whether its IPv6 address is another's.
        await asyncio.gather(*(stack.open() for stack in members.values()))
        for name, stack in members.items():
            until_done.push_async_callback(stack.aclose)
            server = await stack.start_server(answering(name), None, 7000)
            await until_done.enter_async_context(server)

        for name in lan.hosts:
            print(f"{name:12}", *lan.hosts[name])
        for name, other in zip(NAMES, NAMES[1:] + NAMES[:1], strict=True):
            reader, writer = await members[name].open_connection(other, 7000)
            print(f"{name} hears: {(await reader.read()).decode()}")
            writer.close()
            await writer.wait_closed()


def answering(
    name: str,
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Return what greets whoever connects."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("peername")[0]
        writer.write(f"hello {address}, this is {name}".encode())
        writer.close()

    return greet


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "bridge://lab"))
