"""pyroute2 on a stack's socket: on both loops, in bursts, overflowing, closed."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest
from pyroute2.netlink.exceptions import NetlinkError as PyrouteError

import aioioth
from aioioth import errors
from aioioth.netlink import Netlink


async def names(stack: aioioth.Stack) -> list[str]:
    return [link.get("ifname") async for link in await stack.netlink.get_links()]


async def test_pyroute2s_calls_act_in_the_stack() -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24", gw="10.0.0.254") as stack:
        assert await names(stack) == ["lo", "vde0"]
        (index,) = await stack.netlink.link_lookup(ifname="vde0")
        assert index == stack.interfaces["vde0"].index
        routes = [
            (route["dst_len"], route.get("RTA_GATEWAY"))
            async for route in await stack.netlink.get_default_routes(
                family=socket.AF_INET
            )
        ]
        assert routes == [(0, "10.0.0.254")]
        with pytest.raises(PyrouteError) as caught:
            await stack.netlink.link("get", ifname="nope")
        assert caught.value.code == errno.ENODEV


async def test_a_burst_of_requests() -> None:
    """A thousand at once do not overflow the socket."""
    async with aioioth.Stack("null://") as stack:
        index = stack.interfaces["vde0"].index
        await asyncio.gather(
            *(
                stack.netlink.addr(
                    "add",
                    index=index,
                    address=f"10.{n // 250}.{n % 250}.1",
                    prefixlen=24,
                )
                for n in range(1000)
            )
        )
        count = 0
        async for _ in await stack.netlink.get_addr(index=index, family=socket.AF_INET):
            count += 1
        assert count == 1000


async def test_overflow_is_told_and_survived() -> None:
    """ENOBUFS: who waits gets the error, and the next request is answered."""
    async with aioioth.Stack("null://") as stack:
        netlink: Any = stack.netlink
        await names(stack)
        netlink._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least
        # Announcements that nobody reads in between: the real way to overflow.
        await netlink.bind()
        for n in range(200):
            netlink._sock.send(address_request(n, stack.interfaces["vde0"].index))
        with pytest.raises(OSError) as caught:
            await netlink.link("get", ifname="vde0")
        assert caught.value.errno == errno.ENOBUFS
        assert await names(stack) == ["lo", "vde0"]


def address_request(number: int, index: int) -> bytes:
    """RTM_NEWADDR for 10.1.N.1/24, without acknowledgement."""
    import struct

    address = bytes([10, 1, number, 1])
    attributes = b"".join(struct.pack("=HH4s", 8, kind, address) for kind in (1, 2))
    body = struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, index) + attributes
    return struct.pack("=IHHII", 16 + len(body), 20, 0x0601, number, 0) + body


@pytest.mark.parametrize("used", [True, False])
async def test_announcements(used: bool) -> None:
    """`bind` works on a socket that has been used before, unlike pyroute2's."""
    async with aioioth.Stack("null://") as stack:
        watching = Netlink(stack._parts().space)
        try:
            if used:
                await watching.link("get", ifname="vde0")
            await watching.bind()
            await stack.add_address("10.0.0.1/24", dev="vde0")
            async with asyncio.timeout(10):
                while True:  # the address has a route, which is announced too
                    async for message in watching.get():
                        if message["event"] == "RTM_NEWADDR":
                            assert message.get("address") == "10.0.0.1"
                            return
        finally:
            watching.close()


async def test_cancelled_requests_leave_nothing() -> None:
    async with aioioth.Stack("null://") as stack:
        for _ in range(100):
            task = asyncio.create_task(names(stack))
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.sleep(0)
        assert await names(stack) == ["lo", "vde0"]
        assert list(stack.netlink.msg_queue.queues) == [0]
        assert stack.netlink.msg_queue.root.empty()


async def test_interfaces_are_not_made_in_the_host() -> None:
    """pyroute2 would make a TAP in the caller's namespace."""
    async with aioioth.Stack() as stack:
        with pytest.raises(errors.NetlinkError, match="use a VNL instead"):
            await stack.netlink.link("add", ifname="tap9", kind="tuntap", mode="tap")
        assert await names(stack) == ["lo"]


async def test_closed_while_somebody_waits() -> None:
    stack = await aioioth.Stack("null://").open()
    netlink = stack.netlink
    waiting = asyncio.create_task(names(stack))
    await asyncio.sleep(0)
    stack.close()
    with pytest.raises(PyrouteError) as caught:
        await waiting
    assert caught.value.code == errno.ECONNRESET
    with pytest.raises(OSError, match="Bad file descriptor"):
        await netlink.get_links()
    with pytest.raises(errors.ClosedError):
        stack.netlink  # noqa: B018
