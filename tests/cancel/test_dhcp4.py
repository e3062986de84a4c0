"""The DHCPv4 client and server cancelled at each await, and closed at any state."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

import aioioth
from aioioth._autoconf.dhcp4_actions import State
from aioioth.servers.dhcp4 import Dhcp4Server
from aioioth.testing import cancel_everywhere, no_leaks
from tests.kernel.dhcp4_hosts import Host, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.parametrize("times", [1, 2])

SERVER = "10.0.0.1"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioioth._autoconf.dhcp4_machine._PROBE_PAUSE", 0.02)
    monkeypatch.setattr("aioioth._autoconf.dhcp4_lease._RENEWAL", 0.2)
    monkeypatch.setattr("aioioth._autoconf.dhcp4_lease._REBINDING", 0.4)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[aioioth.Stack, aioioth.Stack]]:
    async with (
        aioioth.Stack("memory://lan", ip=f"{SERVER}/24") as far,
        aioioth.Stack("memory://lan") as near,
    ):
        yield far, near


async def test_the_client(times: int) -> None:
    async with pair() as (far, near), Dhcp4Server(far):

        async def until_bound() -> None:
            host = Host(near)
            task = asyncio.create_task(host.source.run())
            try:
                await host.bound()
            finally:
                host.source.release()
                task.cancel()
                await asyncio.wait([task])

        assert await cancel_everywhere(until_bound, times=times) > 0


async def test_run_itself(times: int) -> None:
    async with pair() as (far, near), Dhcp4Server(far, lease_time=1):

        async def some_time() -> None:
            """Until the lease is renewed, and released."""
            host = Host(near)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    host.on_told = lambda: leave(host, limit)
                    await host.source.run()

        def leave(host: Host, limit: asyncio.Timeout) -> None:
            if len(host.told) == 2:
                host.source.release()
                limit.reschedule(0)

        assert await cancel_everywhere(some_time, times=times) > 2


async def test_the_server(times: int) -> None:
    async with pair() as (far, _):

        async def serve() -> None:
            async with Dhcp4Server(far):
                await asyncio.sleep(0)

        assert await cancel_everywhere(serve, times=times) > 0


@pytest.mark.parametrize(
    "state",
    [
        State.SELECTING,
        State.PROBING,
        State.BOUND,
        State.RENEWING,
        State.REBINDING,
        State.REBOOTING,
    ],
)
async def test_a_stack_is_closed_at_any_state(times: int, state: State) -> None:
    async with pair() as (far, _):
        server = Dhcp4Server(far, lease_time=2)
        if state is not State.SELECTING:
            await server.open()
        with no_leaks():
            async with aioioth.Stack("memory://lan") as near:
                host = Host(near)
                machine = host.source._machine
                async with running(host):
                    if state not in {State.SELECTING, State.PROBING}:
                        await host.bound()
                    if state in {State.RENEWING, State.REBINDING, State.REBOOTING}:
                        await server.aclose()
                    if state is State.REBOOTING:
                        host.source.refresh()
                    async with asyncio.timeout(20):
                        while machine.state is not state:
                            await asyncio.sleep(0.005)
                    if times == 2:  # the stack first
                        await near.aclose()
        await server.aclose()
