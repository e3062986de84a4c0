"""What is done by netlink, and waiting, cancelled at each await, once and twice."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

import aioioth
from aioioth import errors, events
from aioioth.iproute import Neighbour, Route, Rule
from aioioth.testing import cancel_everywhere

pytestmark = pytest.mark.parametrize("times", [1, 2])


async def test_changes(times: int) -> None:
    """Each has been carried out or not, and nothing is left of it."""
    async with aioioth.Stack("null://", ip=["10.0.0.1/24", "fd00::1/64"]) as stack:
        interface = stack.interfaces["vde0"]
        route = Route("10.1.0.0/16", via="10.0.0.9")
        await stack.ensure(route)
        await stack.qdiscs()  # pyroute2's socket is there to stay
        for make in (
            lambda: stack.replace(route),
            lambda: stack.ensure(route),
            lambda: stack.ensure(Route("10.1.0.0/16", via="10.0.0.8", mtu=1400)),
            lambda: stack.ensure(Rule(7, fwmark=7)),
            lambda: stack.ensure(Neighbour("10.0.0.7", dev="vde0", proxy=True)),
            lambda: stack.set_link("vde0", mtu=1400, up=True),
            lambda: stack.sysctl("net.ipv4.ip_forward"),
            lambda: stack.set_forwarding(True),
            lambda: interface.set_mtu(1500),
            lambda: interface.up(),
            lambda: stack.replace_qdisc(
                "vde0", "tbf", rate="1mbit", latency="50ms", burst=10000
            ),
        ):
            assert await cancel_everywhere(make, times=times) > 0
        assert await stack.ensure(Rule(7, fwmark=7)) is False


async def test_added_and_taken_away(times: int) -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        route = Route("10.1.0.0/16", via="10.0.0.9")

        async def add() -> None:
            with suppress(errors.NetlinkError):  # the one before went through
                await stack.add(route)

        async def remove() -> None:
            with suppress(errors.NetlinkError):
                await stack.remove(route)

        async def link() -> None:
            with suppress(errors.NetlinkError):
                await stack.add_link("v0", "veth", peer="v1")
            with suppress(errors.NetlinkError):
                await stack.del_link("v0")

        async def looked_for() -> None:
            with suppress(errors.NetlinkError):
                await stack.add_address("fd00::7/64", dev="vde0", nodad=False)
            with suppress(errors.NetlinkError):
                await stack.del_address("fd00::7/64", dev="vde0")

        for make in add, remove, link, looked_for:
            assert await cancel_everywhere(make, times=times) > 0
        await stack.ensure(route)
        assert await stack.ensure(route) is False


async def test_dumps(times: int) -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        for number in range(300):  # several parts
            await stack.add_route(f"10.1.{number % 250}.{number // 250}/32", dev="vde0")
        await stack.qdiscs()
        for make in (
            stack.links,
            stack.addresses,
            stack.routes,
            stack.neighbours,
            stack.rules,
            stack.qdiscs,
            stack.interfaces["vde0"].addresses,
        ):
            assert await cancel_everywhere(make, times=times) > 0


async def test_waiting(times: int) -> None:
    async with aioioth.Stack("null://") as stack:
        interface = stack.interfaces["vde0"]
        await interface.down()

        async def until_up(wait: Any) -> None:
            task = asyncio.create_task(wait())
            try:
                await asyncio.sleep(0)
                await interface.up()
                await task
            finally:
                task.cancel()
                await asyncio.wait([task])
                await interface.down()

        for wait in interface.wait_carrier, stack.wait_ready:
            assert await cancel_everywhere(partial(until_up, wait), times=times) > 1
        assert stack._parts().monitor.filenos() == ()


async def test_events_of_the_kernel(times: int) -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:

        async def listen() -> None:
            stream = stack.events(events.AddressEvent)
            try:
                with suppress(errors.NetlinkError):
                    await stack.add_address("10.0.0.7/24", dev="vde0")
                    await anext(stream)
                with suppress(errors.NetlinkError):
                    await stack.del_address("10.0.0.7/24", dev="vde0")
            finally:
                stream.close()

        assert await cancel_everywhere(listen, times=times) > 1
        assert stack._parts().monitor.filenos() == ()
