"""An echo server with an IP address of its own, on a virtual network.

Run it:     vde_switch -d -s /tmp/sw -p /tmp/sw.pid
            python examples/echo_server.py vde:///tmp/sw 10.0.0.50/24 fd00::50/64
Reach it:   vdens vde:///tmp/sw, and inside: ip addr add 10.0.0.1/24 dev vde0;
            ip link set vde0 up; ping 10.0.0.50; nc 10.0.0.50 5000
It prints:  echo server at 10.0.0.50, fd00::50, port 5000, on vde:///tmp/sw
            + 10.0.0.1 port 41234
            - 10.0.0.1 port 41234
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress

import aioioth


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, until the other side has nothing more to say."""
    host, port = writer.get_extra_info("peername")[:2]
    print(f"+ {host} port {port}", flush=True)
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError as error:
        print(f"! {host} port {port}: {error}", flush=True)
    finally:
        print(f"- {host} port {port}", flush=True)
        writer.close()


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="An echo server on a virtual network.")
    parser.add_argument("vnl", help="the network: vde:///tmp/sw, for example")
    parser.add_argument("address", nargs="+", help="10.0.0.50/24, fd00::50/64, ...")
    parser.add_argument("--port", type=int, default=5000)
    args = parser.parse_args()
    try:
        async with aioioth.Stack(args.vnl, ip=args.address, name="echo") as stack:
            server = await stack.start_server(echo, None, args.port)
            hosts = ", ".join(address.partition("/")[0] for address in args.address)
            print(
                f"echo server at {hosts}, port {args.port}, on {args.vnl}", flush=True
            )
            async with server:
                await server.serve_forever()
    except aioioth.errors.AioiothError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
