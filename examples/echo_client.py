"""A client that watches the terminal and the socket at once.

Run it:     python examples/echo_client.py vde:///tmp/sw 10.0.0.51/24 10.0.0.50
            and type; Ctrl-D ends it.
It prints:  connected to 10.0.0.50 port 5000 from 10.0.0.51
            hello        (what you type)
            < hello      (what comes back)
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import suppress

import aioioth


async def send_lines(writer: asyncio.StreamWriter) -> None:
    """Send what is typed, line by line, until the end of file."""
    loop = asyncio.get_running_loop()
    keyboard = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(keyboard), sys.stdin
    )
    try:
        while line := await keyboard.readline():
            writer.write(line)
            await writer.drain()
        writer.write_eof()
    finally:
        transport.close()


async def main() -> None:
    """Talk to the server until one side has enough."""
    parser = argparse.ArgumentParser(description="An echo client on a virtual network.")
    parser.add_argument("vnl", help="the network: vde:///tmp/sw, for example")
    parser.add_argument("address", help="our own: 10.0.0.51/24 or fd00::51/64")
    parser.add_argument("server", help="the server's: 10.0.0.50 or fd00::50")
    parser.add_argument("--port", type=int, default=5000)
    args = parser.parse_args()
    try:
        async with aioioth.Stack(args.vnl, ip=args.address, name="client") as stack:
            reader, writer = await stack.open_connection(args.server, args.port)
            own = writer.get_extra_info("sockname")[0]
            print(f"connected to {args.server} port {args.port} from {own}", flush=True)
            sending = asyncio.create_task(send_lines(writer))
            while line := await reader.readline():
                print("<", line.decode(errors="replace").rstrip(), flush=True)
            sending.cancel()
            writer.close()
    except (aioioth.errors.AioiothError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
