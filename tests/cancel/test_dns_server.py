"""A DNS server cancelled at each of its awaits, and closed in the midst of its work."""

from __future__ import annotations

import asyncio
from typing import Any

import dns.message
import pytest

import aioioth
from aioioth.servers.dns import DnsFault, DnsServer
from aioioth.testing import cancel_everywhere, no_leaks

QUERY = dns.message.make_query("a.example", "A")


@pytest.mark.parametrize("times", [1, 2])
async def test_open_and_close(times: int) -> None:
    async with aioioth.Stack("memory://lan", ip=["10.0.0.1/24", "fd00::1/64"]) as stack:
        async with DnsServer(stack):
            pass  # libuv opens a descriptor in reserve with its first listener

        async def whole_life() -> None:
            async with DnsServer(stack, hosts={"a": "10.0.0.5"}):
                await asyncio.sleep(0)
            assert stack.sockets() == []

        assert await cancel_everywhere(whole_life, times=times) > 0

        async def close_it() -> None:
            server = await DnsServer(stack).open()
            try:
                await server.aclose()
            finally:
                server.close()

        assert await cancel_everywhere(close_it, times=times) >= 0
        async with DnsServer(stack):
            pass


async def ask(stack: aioioth.Stack, *, over_tcp: bool) -> Any:
    """Ask 10.0.0.1, and return the transport, which must be closed."""
    if over_tcp:
        tcp, _ = await stack.create_connection(asyncio.Protocol, "10.0.0.1", 53)
        tcp.write(QUERY.to_wire(prepend_length=True) * 3)
        return tcp
    transport, _ = await stack.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=("10.0.0.1", 53)
    )
    transport.sendto(QUERY.to_wire())
    return transport


async def until_asked(server: DnsServer, count: int) -> None:
    async with asyncio.timeout(20):
        while server.stats.queries.get("A", 0) < count:
            await asyncio.sleep(0)


@pytest.mark.parametrize("over_tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("how", ["delayed", "silent", "truncated"])
async def test_closed_while_it_waits(over_tcp: bool, how: str) -> None:
    """For a fault to pass, for others' datagrams, for others' TCP."""
    async with (
        aioioth.Stack() as stack,
        DnsServer(stack),  # libuv opens a descriptor in reserve with its first listener
    ):
        pass
    for ending in "close", "aclose", "stack":
        async with (
            aioioth.Stack("memory://lan", ip="10.0.0.2/24") as asks,
            aioioth.Stack("memory://lan", ip="10.0.0.3/24") as far,
        ):
            with no_leaks():
                await end_in_the_midst(asks, far, how, over_tcp=over_tcp, ending=ending)


async def end_in_the_midst(
    asks: aioioth.Stack, far: aioioth.Stack, how: str, *, over_tcp: bool, ending: str
) -> None:
    """Have a third stack's server asked, and end it while it asks the second one's."""
    near = await aioioth.Stack("memory://lan", ip="10.0.0.1/24").open()
    server = DnsServer(near, forward="10.0.0.3", forward_timeout=100)
    async with DnsServer(far) as other:
        if how == "delayed":
            server.add_fault(DnsFault(delay=1000))
        if how == "truncated":
            other.add_fault(DnsFault(truncate=True, count=1))
        other.add_fault(DnsFault(drop=True))
        await server.open()
        endpoint = await ask(asks, over_tcp=over_tcp)
        await until_asked(server, 1)
        await until_asked(other, {"delayed": 0, "silent": 1, "truncated": 2}[how])
        if ending == "stack":
            await near.aclose()
        elif ending == "close":
            server.close()
        await server.aclose()
        await near.aclose()
        endpoint.abort()
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_client_that_goes_away_takes_nobody_along() -> None:
    """The question stays asked for those who wait for the same."""
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24") as near,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24", dns="10.0.0.1") as asks,
        aioioth.Stack("memory://lan", ip="10.0.0.3/24") as far,
        DnsServer(far, hosts={"a.example": "10.0.0.5"}) as other,
        DnsServer(near, forward="10.0.0.3", forward_timeout=20) as server,
    ):
        other.add_fault(DnsFault(delay=0.1))
        first = await ask(asks, over_tcp=True)
        await until_asked(other, 1)
        first.abort()
        infos = await asks.getaddrinfo("a.example", 80, family=2)
        assert infos[0][4][0] == "10.0.0.5"
        assert other.stats.queries == {"A": 1}
        assert server.stats.queries["A"] >= 2
