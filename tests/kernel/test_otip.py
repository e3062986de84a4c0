"""Addresses that come and go, on a clock that a test turns."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.errors import BusyError, ConfigurationError
from aioioth.hashes import hash_address
from aioioth.otip import OneTimeAddresses, otip_address
from aioioth.testing import cancel_everywhere

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Callable

    from aioioth import Stack

PATIENCE = 20.0
BASE = "fd00::/64"


class Clock:
    """A wall clock."""

    def __init__(self) -> None:
        self.now = 3200.0

    def __call__(self) -> float:
        return self.now


def number(count: int) -> ipaddress.IPv6Address:
    return hash_address("srv.lab", BASE, password="secret", time=count)


def lan(*ip: str) -> Stack:
    return aioioth.Stack("memory://lan", ip=ip)


def rotating(stack: Stack, clock: Clock, **options: Any) -> OneTimeAddresses:
    """Return addresses that look at the clock all the time."""
    return OneTimeAddresses(
        stack, "srv.lab", BASE, password="secret", clock=clock, **options
    )


async def ip(stack: Stack, words: str) -> list[str]:
    """Return the lines that ``ip -6`` prints."""
    process = await stack.create_subprocess_exec(
        "ip", "-6", *words.split(), stdout=asyncio.subprocess.PIPE
    )
    return (await process.communicate())[0].decode().splitlines()


async def in_kernel(stack: Stack) -> dict[str, str]:
    """Return the addresses in the network that the kernel has, and what it says."""
    lines = await ip(stack, f"-o address show dev vde0 to {BASE}")
    return {line.split()[3].partition("/")[0]: line for line in lines}


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _awake(monkeypatch: pytest.MonkeyPatch) -> None:
    # The clock is ours: it is looked at often.
    monkeypatch.setattr("aioioth.otip._LONGEST_SLEEP", 0.02)
    monkeypatch.setattr("aioioth.otip._LONGEST_RENEWAL", 0.1)


async def test_addresses_of_this_moment() -> None:
    clock = Clock()
    async with lan() as stack:
        addresses = rotating(stack, clock)
        async with addresses:
            assert addresses.current == number(100)
            assert addresses.addresses == (number(99), number(100), number(101))
            kernel = await in_kernel(stack)
            assert set(kernel) == set(map(str, addresses.addresses))
            assert all("deprecated" in line for line in kernel.values())
            with pytest.raises(BusyError):
                await addresses.open()
            clock.now += 32
            assert addresses.current == number(101)
            await until(lambda: number(99) not in addresses.addresses)
            await until(lambda: number(102) in addresses.addresses)
            clock.now += 3200
            wanted = (number(200), number(201), number(202))
            await until(lambda: addresses.addresses == wanted)
        assert not await in_kernel(stack)
        async with addresses:
            assert addresses.addresses == wanted
        assert not addresses.addresses


async def test_a_client_that_knows_the_password(echo: Any) -> None:
    clock = Clock()
    async with lan() as one, lan("fd00::2/64") as two, rotating(one, clock):
        server = await one.start_server(echo, "::", 7)
        # Its clock is some seconds slow, and then fast.
        for now in clock.now - 20, clock.now + 50:
            address = otip_address("srv.lab", BASE, "secret", now)
            reader, writer = await two.open_connection(str(address), 7)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()


async def test_a_connection_keeps_its_address(echo: Any) -> None:
    clock = Clock()
    async with lan() as one, lan("fd00::2/64") as two:
        async with rotating(one, clock) as addresses:
            server = await one.start_server(echo, "::", 7)
            reader, writer = await two.open_connection(str(addresses.current), 7)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            clock.now += 320
            await until(lambda: number(110) in addresses.addresses)
            await until(lambda: number(99) not in addresses.addresses)
            assert addresses.addresses[0] == number(100)
            writer.write(b"again")
            assert await reader.readexactly(5) == b"again"
            writer.close()
            await writer.wait_closed()
            await until(lambda: number(100) not in addresses.addresses)
            assert str(number(100)) not in await in_kernel(one)
            server.close()
            await server.wait_closed()


async def test_but_not_for_ever() -> None:
    clock = Clock()
    loop = asyncio.get_running_loop()
    async with lan() as one, lan("fd00::2/64") as two:
        with (
            one.socket(socket.AF_INET6) as listener,
            two.socket(socket.AF_INET6) as client,
        ):
            async with rotating(one, clock, linger=0.0) as addresses:
                listener.bind(("::", 7))
                listener.listen()
                await loop.sock_connect(client, (str(addresses.current), 7))
                accepted, _ = await loop.sock_accept(listener)
                with accepted:
                    clock.now += 320
                    await until(lambda: number(100) not in addresses.addresses)
                    assert str(number(100)) not in await in_kernel(one)


async def test_its_own_network_keeps_its_route() -> None:
    # The kernel gives a route to the network the lifetime of the last address, even if
    # it belongs to one that is there for ever.
    async with lan("fd00::1/64") as stack, rotating(stack, Clock()):
        lines = await ip(stack, f"route show {BASE}")
        [own] = [line for line in lines if "proto kernel" in line]
        assert "expires" not in own


async def test_two_on_one_network_and_a_route_of_ones_own() -> None:
    async with lan() as stack:
        await ip(stack, f"route add {BASE} dev vde0 proto static")
        mine = await ip(stack, f"route show {BASE}")
        async with rotating(stack, Clock(), period=3600):
            first = [line.split("expires")[0] for line in await routes(stack)]
            async with rotating(stack, Clock(), period=1):
                assert len(await routes(stack)) == 3
            # Its short-lived one did not take the others' place.
            left = await routes(stack)
            assert [line.split("expires")[0] for line in left] == first
            assert len(left) == 2
        assert await routes(stack) == mine


async def routes(stack: Stack) -> list[str]:
    return await ip(stack, f"route show {BASE}")


async def test_a_clock_that_is_set_back() -> None:
    clock = Clock()
    async with lan() as stack, rotating(stack, clock) as addresses:
        clock.now -= 64
        await until(lambda: number(101) not in addresses.addresses)
        wanted = {number(97), number(98), number(99)}
        assert set(addresses.addresses) == wanted
        assert set(await in_kernel(stack)) == set(map(str, wanted))


async def test_an_interface_that_was_down() -> None:
    async with lan() as stack, rotating(stack, Clock(), period=3600):
        before = set(await in_kernel(stack))
        # Which takes all addresses and routes away.
        await ip(stack, "link set vde0 down")
        await ip(stack, "link set vde0 up")
        async with asyncio.timeout(PATIENCE):
            while set(await in_kernel(stack)) != before or not await routes(stack):
                await asyncio.sleep(0.01)


async def test_in_the_thread(echo: Any) -> None:
    clock = Clock()
    hidden = aioioth.Stack("memory://lan", pump_thread=True)
    async with hidden, lan("fd00::2/64") as two:
        async with rotating(hidden, clock) as addresses:
            server = await hidden.start_server(echo, "::", 7)
            reader, writer = await two.open_connection(str(addresses.current), 7)
            clock.now += 320
            await until(lambda: number(99) not in addresses.addresses)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.close()
            await writer.wait_closed()
            await until(lambda: number(100) not in addresses.addresses)
            server.close()
            await server.wait_closed()
        assert not await in_kernel(hidden)


async def test_an_interface_that_is_taken_away(caplog: Any) -> None:
    clock = Clock()
    async with lan() as stack, rotating(stack, clock):
        await stack.remove_interface("vde0")
        clock.now += 32
        await until(lambda: "one-time addresses of 'srv.lab'" in caplog.text)


async def test_no_interface() -> None:
    async with aioioth.Stack() as stack:
        with pytest.raises(ConfigurationError, match="has no interface"):
            await rotating(stack, Clock()).open()
    async with lan() as stack:
        with pytest.raises(OSError, match="No such device"):
            await rotating(stack, Clock(), dev="vde7").open()


async def test_a_stack_that_is_closed_takes_it_along() -> None:
    async with lan() as stack:
        addresses = await rotating(stack, Clock()).open()
        await stack.aclose()
        assert addresses.addresses == ()
        await addresses.aclose()


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled(times: int) -> None:
    async with lan() as stack:

        async def whole_life() -> None:
            async with rotating(stack, Clock()):
                await asyncio.sleep(0)

        assert await cancel_everywhere(whole_life, times=times) > 3
