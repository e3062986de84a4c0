"""Router advertisements, cancelled at each await, once and twice."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

import aioioth
from aioioth.servers.ra import RouterAdvertiser
from aioioth.testing import cancel_everywhere
from tests.kernel.routers import hurry, listening

pytestmark = pytest.mark.parametrize("times", [1, 2])


async def test_a_server(times: int) -> None:
    async with aioioth.Stack("memory://lan", ip="fd00::1/64") as stack:

        async def whole_life() -> None:
            async with RouterAdvertiser(stack):
                for _ in range(5):
                    await asyncio.sleep(0)

        assert await cancel_everywhere(whole_life, times=times) > 5


async def test_a_server_that_is_opened_and_closed(times: int) -> None:
    async with aioioth.Stack("memory://lan", ip="fd00::1/64") as stack:
        telling = RouterAdvertiser(stack)

        async def undo(_: object) -> None:
            await telling.aclose()

        assert await cancel_everywhere(telling.open, undo=undo, times=times)
        await telling.open()
        assert await cancel_everywhere(telling.aclose, times=times) <= 1
        await telling.aclose()


async def test_a_source(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    async with (
        aioioth.Stack("memory://lan", ip="fd00::1/64") as one,
        aioioth.Stack("memory://lan") as two,
        RouterAdvertiser(one),
    ):
        async with listening(two) as host:
            source = host.source
            await host.until(lambda found: found.addresses)

        # It runs until it is cancelled: as often as it is asked to be.
        async def a_while() -> None:
            running = asyncio.current_task()
            assert running is not None
            asyncio.get_running_loop().call_later(0.05, running.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await source.run()

        assert await cancel_everywhere(a_while, times=times) > 2
