"""Hot plug and cables cancelled at each of their awaits, once and twice."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

import aioioth
from aioioth.testing import cancel_everywhere

pytestmark = pytest.mark.parametrize("times", [1, 2])


async def links(stack: aioioth.Stack) -> set[str]:
    return {each.get("ifname") async for each in await stack.netlink.get_links()}


async def test_add_interface(device: str, times: int) -> None:
    """The name is free at once, each time."""
    switch = aioioth.Switch()
    async with aioioth.Stack("null://", device=device) as stack:
        # The executor's threads are there to stay.
        await stack.add_interface(switch, "eth1")
        await stack.remove_interface("eth1")

        async def add() -> None:
            assert set(stack.interfaces) == {"vde0"}
            assert switch.ports == ()
            await stack.add_interface(
                switch, "eth1", ip=["10.0.0.1/24", "fd00::1/64"], mtu=1400
            )

        async def remove(_: Any) -> None:
            with suppress(aioioth.errors.ConfigurationError):
                await stack.remove_interface("eth1")

        assert await cancel_everywhere(add, undo=remove, times=times) > 2
        await stack.add_interface(switch, "eth1")
        assert await links(stack) == {"lo", "vde0", "eth1"}


async def test_remove_interface(device: str, times: int) -> None:
    """It is gone all the same."""
    switch = aioioth.Switch()
    async with aioioth.Stack("null://", device=device) as stack:
        await stack.add_interface(switch, "eth1")
        await stack.remove_interface("eth1")

        async def whole_life() -> None:
            await stack.add_interface(switch, "eth1")
            try:
                await stack.remove_interface("eth1")
            finally:
                assert set(stack.interfaces) == {"vde0"}
                assert switch.ports == ()

        assert await cancel_everywhere(whole_life, times=times) > 3
        assert await links(stack) == {"lo", "vde0"}


async def test_set_carrier(device: str, times: int) -> None:
    class Slow:
        def __init__(self) -> None:
            self.switch = aioioth.Switch()

        async def open(self, label: str) -> Any:
            for _ in range(3):
                await asyncio.sleep(0)
            return await self.switch.open(label)

    network = Slow()
    async with aioioth.Stack(network, device=device) as stack:
        interface = stack.interfaces["vde0"]
        await interface.set_carrier(False)
        plug_in = partial(interface.set_carrier, True)

        async def pull_out(_: Any) -> None:
            await interface.set_carrier(False)

        assert await cancel_everywhere(plug_in, undo=pull_out, times=times) > 2
        assert not interface.attached
        assert network.switch.ports == ()
        await interface.set_carrier(True)
        assert interface.attached


async def test_cable(times: int) -> None:
    async with aioioth.Stack():  # the manager is there to stay

        class Slow:
            async def open(self, label: str) -> Any:
                await asyncio.sleep(0)
                port = await switch.open(label)
                try:
                    await asyncio.sleep(0)
                except BaseException:
                    port.close()
                    raise
                return port

        switch = aioioth.Switch()

        async def whole_life() -> None:
            assert switch.ports == ()
            async with aioioth.Cable(Slow(), Slow()):
                await asyncio.sleep(0)

        assert await cancel_everywhere(whole_life, times=times) > 4
        assert switch.ports == ()

        async def close_it() -> None:
            cable = await aioioth.Cable("memory://a", "memory://b").open()
            try:
                await cable.aclose()
            finally:
                assert repr(cable).endswith("closed>")

        assert await cancel_everywhere(close_it, times=times) > 0
