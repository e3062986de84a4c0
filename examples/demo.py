"""An echo server on one stack, a client on another, and a picture of what happened.

Run it:     python examples/demo.py        (or: make demo)
It prints:  the two stacks and their switch, every frame between them, the echo, and
            what each interface counted. No root, no other program.
"""

from __future__ import annotations

import asyncio
import sys
import time

import aioioth
from aioioth.wire.ethernet import summarize

SERVER, CLIENT = "10.0.0.1", "10.0.0.2"
TEXT = b"Hello from a stack of my own!"
WIDTH = 46


class Picture:
    """Collects frames, and draws them as arrows between two stacks."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.start = time.perf_counter()

    def frame(self, data: bytes) -> None:
        """Draw one frame; called by the switch."""
        summary = summarize(data)
        milliseconds = (time.perf_counter() - self.start) * 1000
        text = f" {summary.text} "
        if summary.source == CLIENT:
            arrow = text.center(WIDTH - 1, "-") + ">"
        else:
            arrow = "<" + text.center(WIDTH - 1, "-")
        self.lines.append(f"{milliseconds:8.2f} ms   |{arrow}|")

    def show(self, client: aioioth.Stack, server: aioioth.Stack) -> None:
        """Print everything."""
        ends = [(client, CLIENT), (server, SERVER)]
        print(f"{'':14}{'client':<{WIDTH // 2}}{'server':>{WIDTH // 2 + 2}}")
        print(f"{'':14}{CLIENT:<{WIDTH // 2}}{SERVER:>{WIDTH // 2 + 2}}")
        print("\n".join(self.lines))
        print()
        for stack, address in ends:
            interface = stack.interfaces["vde0"]
            sent, received = interface.stats.sent, interface.stats.received
            print(
                f"{stack.name:6} {address}  {interface.name} {interface.mac} "
                f"({interface.device}): sent {sent.frames} frames, {sent.bytes} bytes; "
                f"received {received.frames}, {received.bytes}"
            )


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main() -> None:
    """Make a switch and two stacks, and let one talk to the other."""
    switch, picture = aioioth.Switch(name="the demo's switch"), Picture()
    async with (
        aioioth.Stack(switch, ip=f"{SERVER}/24", name="server") as server,
        aioioth.Stack(switch, ip=f"{CLIENT}/24", name="client") as client,
        await server.start_server(echo, SERVER, 7),
    ):
        print("client ---- switch ---- server      two TCP/IP stacks in one process\n")
        picture.start = time.perf_counter()
        switch.watch(picture.frame)
        reader, writer = await client.open_connection(SERVER, 7)
        writer.write(TEXT)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        picture.show(client, server)
        print(f"\nThe client said {TEXT.decode()!r} and heard {answer.decode()!r}.")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except aioioth.errors.AioiothError as error:
        sys.exit(f"demo: {error}")
