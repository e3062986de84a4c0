"""Two networks joined by a cable, and an interface that is plugged in while it runs.

Run it:     python examples/cable.py
It prints:  10.0.0.2 on memory://lab reached 10.0.0.1 on memory://office
            10.0.0.3 joined memory://lab later, and reached it too
            the cable carried frames both ways, and dropped none
"""

from __future__ import annotations

import asyncio

import aioioth


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say where the client is."""
    writer.write(writer.get_extra_info("peername")[0].encode())
    writer.close()


async def ask(stack: aioioth.Stack, local: str) -> str:
    """Return what the server says to a client with one of the stack's addresses."""
    reader, writer = await stack.open_connection("10.0.0.1", 80, local_addr=(local, 0))
    said = await reader.read()
    writer.close()
    await writer.wait_closed()
    return said.decode()


async def main() -> None:
    """Join two networks, and talk across."""
    async with (
        aioioth.Cable("memory://office", "memory://lab") as cable,
        aioioth.Stack("memory://office", ip="10.0.0.1/24") as office,
        aioioth.Stack("memory://lab", ip="10.0.0.2/24") as lab,
        aioioth.Stack() as visitor,
        await office.start_server(serve, "10.0.0.1", 80),
    ):
        print(await ask(lab, "10.0.0.2"), "on memory://lab", end=" ")
        print("reached 10.0.0.1 on memory://office")

        interface = await visitor.add_interface("memory://lab", ip="10.0.0.3/24")
        print(await ask(visitor, "10.0.0.3"), "joined", interface.vnl, end=" ")
        print("later, and reached it too")
        await visitor.remove_interface(interface.name)

        stats = cable.stats()
        assert stats.a_to_b.frames > 0
        assert stats.b_to_a.frames > 0
        dropped = sum([*stats.a_to_b.drops.values(), *stats.b_to_a.drops.values()])
        print(f"the cable carried frames both ways, and dropped {dropped or 'none'}")


if __name__ == "__main__":
    asyncio.run(main())
