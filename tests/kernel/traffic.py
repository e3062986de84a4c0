"""Much data through TCP, what the kernels say of it, and networks of single frames."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from aioioth.nested import NestedTransport
from aioioth.networks import find_network

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aioioth

DATA = os.urandom(1 << 20) * 8
ECHOED = DATA[: 4 << 20]

ONE, TWO = ["10.0.0.1/24", "fd00::1/64"], ["10.0.0.2/24", "fd00::2/64"]
HOSTS = pytest.mark.parametrize("host", ["10.0.0.2", "fd00::2"])

# RFC 1213's names, and RFC 4293's.
RECEIVED, RECEIVED_6 = ("Ip", "InReceives"), ("Ip6", "InReceives")
BAD = ("Tcp", "InCsumErrors")


async def counted(stack: aioioth.Stack) -> Mapping[tuple[str, str], int]:
    """Return what the stack's kernel counts, by protocol and name."""
    process = await stack.create_subprocess_exec(
        "/bin/cat",
        "/proc/net/snmp",
        "/proc/net/snmp6",
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    lines = [line.split() for line in out.decode().splitlines()]
    found = {}
    for names, values in pairwise(lines):
        if names[0] == values[0]:
            for name, value in zip(names[1:], values[1:], strict=True):
                found[names[0].rstrip(":"), name] = int(value)
    for line in lines:
        if line[0].startswith("Ip6"):
            found["Ip6", line[0].removeprefix("Ip6")] = int(line[1])
    return found


async def wrong_checksums(stack: aioioth.Stack) -> int:
    """Return how many segments the stack's kernel has found to be damaged."""
    return (await counted(stack))[BAD]


async def transfer(source: aioioth.Stack, sink: aioioth.Stack, host: str) -> None:
    """Send DATA and see that it arrives."""
    arrived = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set_result(await reader.read(-1))
        writer.close()

    async with asyncio.timeout(60), await sink.start_server(take, host, 7):
        _, writer = await source.open_connection(host, 7)
        writer.write(DATA)
        await writer.drain()
        writer.write_eof()
        assert await arrived == DATA
        writer.close()
        await writer.wait_closed()


async def there_and_back(source: aioioth.Stack, sink: aioioth.Stack, host: str) -> None:
    """Send ECHOED there and back, at once, and see that it arrives."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
        writer.close()

    async with asyncio.timeout(60), await sink.start_server(echo, host, 7):
        reader, writer = await source.open_connection(host, 7)
        answer = asyncio.create_task(reader.read(-1))
        writer.write(ECHOED)
        await writer.drain()
        writer.write_eof()
        assert await answer == ECHOED
        writer.close()
        await writer.wait_closed()


class Nothing:
    """Changes nothing, and has frames that are complete because it sees them."""

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()

    def outgoing(self, frame: memoryview) -> memoryview:
        return frame

    def incoming(self, frame: memoryview) -> memoryview:
        return frame

    def close(self) -> None:
        pass


def plain(vnl: str, transform: Nothing | None = None) -> NestedTransport:
    """Return a network that carries single frames."""
    return NestedTransport(find_network(vnl), lambda: transform or Nothing(), 0)
