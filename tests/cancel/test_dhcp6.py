"""The DHCPv6 client and server cancelled at each await, and closed at any state."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

import aioioth
from aioioth.servers.dhcp6 import Dhcp6Server
from aioioth.testing import cancel_everywhere, no_leaks
from aioioth.wire.dhcp6 import Kind
from tests.kernel.dhcp6_hosts import PATIENCE, Host, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.parametrize("times", [1, 2])

VNL = "memory://dhcp6"


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[aioioth.Stack, aioioth.Stack]]:
    async with (
        aioioth.Stack(VNL, ip="fd00::1/64") as far,
        aioioth.Stack(VNL) as near,
    ):
        host = Host(near)
        await host.prepare()
        host.monitor.close()
        yield far, near


async def test_the_client(times: int) -> None:
    async with pair() as (far, near), Dhcp6Server(far):

        async def until_bound() -> None:
            async with running(Host(near)) as host:
                await host.bound()

        assert await cancel_everywhere(until_bound, times=times) > 0


async def test_run_itself(times: int) -> None:
    async with pair() as (far, near), Dhcp6Server(far):

        async def some_time() -> None:
            """Until the lease is confirmed, renewed, and released."""
            host = Host(near)
            loop = asyncio.get_running_loop()
            timers = [
                loop.call_later(0.05, host.source.refresh),
                loop.call_later(0.1, host.source.release),
            ]
            try:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.15):
                        await host.source.run()
            finally:
                for timer in timers:
                    timer.cancel()
                host.monitor.close()

        assert await cancel_everywhere(some_time, times=times) > 2


async def test_the_server(times: int) -> None:
    async with pair() as (far, _):

        async def serve() -> None:
            async with Dhcp6Server(far):
                await asyncio.sleep(0)

        assert await cancel_everywhere(serve, times=times) > 0


@pytest.mark.parametrize(
    "state", [Kind.SOLICIT, None, Kind.RENEW, Kind.REBIND, Kind.CONFIRM]
)
async def test_a_stack_is_closed_at_any_state(times: int, state: Kind | None) -> None:
    async with pair() as (far, _):
        server = Dhcp6Server(far, lease_time=2)
        if state is not Kind.SOLICIT:
            await server.open()
        with no_leaks():
            async with aioioth.Stack(VNL) as near:
                host = Host(near)
                await host.prepare()
                async with running(host):
                    if state is not Kind.SOLICIT:
                        await host.bound()
                    if state not in {Kind.SOLICIT, None}:
                        await server.aclose()
                    if state is Kind.CONFIRM:
                        host.source.refresh()
                    async with asyncio.timeout(PATIENCE):
                        while state_of(host) != state:
                            await asyncio.sleep(0.005)
                    if times == 2:  # the stack first
                        await near.aclose()
        await server.aclose()


def state_of(host: Host) -> Kind | None:
    """Return what is being asked."""
    exchange = host.source._machine._exchange
    return None if exchange is None else exchange.message.kind
