"""Programs of one user on the same network, joined inside the kernel. No root.

Run it:     python examples/bridge.py 1
            python examples/bridge.py 2      in another terminal: the two talk
It prints:  10.0.0.1 is on bridge://demo; Ctrl-C ends it
            and the second one:
            10.0.0.1 says hello to 10.0.0.2
            10.0.0.2 is on bridge://demo; Ctrl-C ends it

Without a number, both are in one program, which ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

import aioioth

VNL = "bridge://demo"


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say who we are to whom."""
    ours, theirs = (writer.get_extra_info(name)[0] for name in ("sockname", "peername"))
    writer.write(f"{ours} says hello to {theirs}".encode())
    writer.close()


async def node(number: int, *, stay: bool) -> None:
    """Be on the bridge, and ask all who came before."""
    ours = f"10.0.0.{number}"
    async with (
        aioioth.Stack(VNL, ip=f"{ours}/24") as stack,
        await stack.start_server(greet, ours, 7),
    ):
        for before in range(1, number):
            reader, writer = await stack.open_connection(f"10.0.0.{before}", 7)
            print((await reader.read()).decode())
            writer.close()
            await writer.wait_closed()
        print(f"{ours} is on {VNL}", end="; Ctrl-C ends it\n" if stay else "\n")
        if stay:
            await asyncio.Event().wait()
        elif number == 1:
            await node(2, stay=False)


def main() -> None:
    """Run the node that was asked for, or both."""
    parser = argparse.ArgumentParser(description="A node on a bridge of this user's.")
    parser.add_argument("number", type=int, nargs="?", help="1 for 10.0.0.1, and so on")
    number = parser.parse_args().number
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(node(number or 1, stay=number is not None))


if __name__ == "__main__":
    main()
