"""A stack that configures itself, cancelled at each await, once and twice."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import aioioth
from aioioth import errors
from aioioth._autoconf import dhcp4_machine
from aioioth.servers import Dhcp4Server, Lan
from aioioth.testing import cancel_everywhere

if TYPE_CHECKING:
    from aioioth import Stack

pytestmark = pytest.mark.parametrize("times", [1, 2])


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for somebody who has the same address."""
    monkeypatch.setattr(dhcp4_machine, "_PROBE_PAUSE", 0.001)


async def addresses(stack: Stack) -> set[str]:
    found = [each.address for each in await stack.addresses("vde0")]
    return {str(each) for each in found if each.version == 4}


async def test_by_hand(times: int) -> None:
    """Whatever was done is known, and can be undone."""
    async with aioioth.Stack("null://") as stack:
        given = "ip=10.0.0.1/24,gw=10.0.0.9,dns=10.0.0.3"
        macs = iter(f"02:00:00:00:00:{number:02x}" for number in range(256))
        for make in (
            lambda: stack.configure(given),
            lambda: stack.configure("-static"),
            lambda: stack.configure(f"eth,mac={next(macs)}"),
            lambda: stack.configure("-eth"),
        ):
            assert await cancel_everywhere(make, times=times) > 0
        await stack.configure(f"eth,{given}")
        assert await addresses(stack) == {"10.0.0.1/24"}
        await stack.configure("-static")
        assert await addresses(stack) == set()
        assert stack.resolv_conf() == ""


async def test_from_the_network(times: int) -> None:
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24") as there,
        Dhcp4Server(there),
    ):

        async def come_and_go() -> None:
            # What was begun goes on when it is cancelled, as long as the stack is open.
            async with aioioth.Stack("memory://lan") as stack:
                await stack.configure("dhcp,ip=10.0.0.200/24")
                await stack.configure("-dhcp")
                assert await addresses(stack) == {"10.0.0.200/24"}

        assert await cancel_everywhere(come_and_go, times=times) > 0


async def test_opening_and_closing(times: int) -> None:
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24") as there,
        Dhcp4Server(there),
    ):

        async def open_and_close() -> None:
            async with aioioth.Stack("memory://lan", dhcp=True):
                pass

        assert await cancel_everywhere(open_and_close, times=times) > 0


async def test_a_lan(times: int) -> None:

    async def open_and_close() -> None:
        async with Lan("memory://lan", ipv6=None):
            pass

    async with aioioth.Stack():  # the keeper is there all the time
        # libuv keeps /dev/null from a loop's first server.
        await open_and_close()
        assert await cancel_everywhere(open_and_close, times=times) > 0


async def test_another_name(times: int) -> None:
    """The stack's interfaces are called as the kernel calls them."""
    async with aioioth.Stack("null://") as stack:
        names = iter(f"name{number}" for number in range(1000))

        async def rename() -> None:
            [old] = stack.interfaces
            with suppress(errors.NetlinkError):  # before Linux 6.2
                await stack.set_link(old, name=next(names))

        assert await cancel_everywhere(rename, times=times) > 0
        [name] = stack.interfaces
        assert {each.name for each in await stack.links()} == {"lo", name}
