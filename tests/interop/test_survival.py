"""Needs vde_switch: it is killed, stopped or not there, and what happens then."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth import CarrierDown, CarrierUp, errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.interop.conftest import VdeSwitch

PATIENCE = 10


@contextlib.asynccontextmanager
async def two_stacks(
    vnl: str, device: str, echo: Any
) -> AsyncIterator[tuple[aioioth.Stack, aioioth.Stack]]:
    """A client and a server; it says on port 7 of 10.0.0.1 what it hears."""
    async with (
        aioioth.Stack(vnl, ip="10.0.0.2/24", device=device) as client,
        aioioth.Stack(vnl, ip="10.0.0.1/24", device=device) as server,
        await server.start_server(echo, "10.0.0.1", 7),
    ):
        yield client, server


async def carrier(stack: aioioth.Stack) -> bool:
    """Whether ``ip link`` shows a carrier."""
    links = [
        link
        async for link in await stack.netlink.get_links()
        if link.get("ifname") == "vde0"
    ]
    return bool(links[0].get("carrier"))


async def until_carrier(stack: aioioth.Stack, *, on: bool) -> None:
    async with asyncio.timeout(PATIENCE):
        while await carrier(stack) != on:
            await asyncio.sleep(0.002)


async def test_the_switch_is_killed_and_comes_back(
    vde_switch: VdeSwitch, device: str, echo: Any
) -> None:
    async with two_stacks(vde_switch.vnl, device, echo) as stacks:
        client = stacks[0]
        streams = [stack.events(aioioth.events.StackEvent) for stack in stacks]
        assert await carrier(client)
        async with asyncio.timeout(3 * PATIENCE):
            reader, writer = await client.open_connection("10.0.0.1", 7)
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"

            vde_switch.kill()
            for events in streams:
                assert isinstance(await anext(events), CarrierDown)
            assert [stack.interfaces["vde0"].attached for stack in stacks] == [
                False
            ] * 2
            await until_carrier(client, on=False)
            writer.write(b"meanwhile")

            vde_switch.start()
            for events in streams:
                assert isinstance(await anext(events), CarrierUp)
            assert [stack.interfaces["vde0"].attached for stack in stacks] == [True] * 2
            await until_carrier(client, on=True)

            # The same connection: TCP sends again what was lost.
            writer.write(b"after")
            writer.write_eof()
            assert await reader.read() == b"meanwhileafter"
            writer.close()
            await writer.wait_closed()


async def test_the_switch_stops_reading_for_a_while(
    vde_switch: VdeSwitch, device: str, echo: Any, ask: Any
) -> None:
    async with two_stacks(vde_switch.vnl, device, echo) as (client, _):
        # ARP is done when this is.
        assert await ask(client, "10.0.0.1", 7, "before") == "before"
        vde_switch.signal(signal.SIGSTOP)
        with client.socket(socket.AF_INET, socket.SOCK_DGRAM) as load:
            load.connect(("10.0.0.1", 9))
            async with asyncio.timeout(PATIENCE):
                while not client.stats()["vde0"].sent.pauses:
                    with contextlib.suppress(BlockingIOError):
                        load.send(bytes(1400))
                    await asyncio.sleep(0)
        # The keeper and the loop do not wait for the switch.
        async with asyncio.timeout(PATIENCE):
            client.socket().close()
            await asyncio.sleep(0)
        assert client.interfaces["vde0"].attached
        vde_switch.signal(signal.SIGCONT)
        assert await ask(client, "10.0.0.1", 7, "after") == "after"


@contextlib.contextmanager
def listening(directory: Path) -> Iterator[socket.socket]:
    """A control socket with nobody behind it who speaks."""
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as ctl:
        ctl.bind(os.fspath(directory / "ctl"))
        ctl.listen()
        yield ctl


async def refusal(directory: Path) -> errors.BrokenTransportError:
    """Try to plug in, and return why not."""
    with pytest.raises(errors.BrokenTransportError) as caught:
        await aioioth.Stack(f"vde://{directory}").open()
    assert aioioth.stacks() == ()
    if directory.exists():
        assert os.listdir(directory) == ["ctl"]
    return caught.value


async def test_a_switch_that_says_nothing(home: Path) -> None:
    with listening(home / "sw"):
        error = await refusal(home / "sw")
    assert isinstance(error, errors.HandshakeTimeoutError)
    assert "did not answer within" in str(error)


async def test_a_switch_that_hangs_up(home: Path) -> None:
    async def hang_up(ctl: socket.socket) -> None:
        connection, _ = await asyncio.get_running_loop().sock_accept(ctl)
        connection.close()

    with listening(home / "sw") as ctl:
        ctl.setblocking(False)
        hanging_up = asyncio.create_task(hang_up(ctl))
        error = await refusal(home / "sw")
        await hanging_up
    assert type(error) is errors.BrokenTransportError


async def test_a_switch_that_has_ended(home: Path) -> None:
    with listening(home / "sw"):
        pass
    error = await refusal(home / "sw")
    assert type(error) is errors.BrokenTransportError
    assert error.errno == errno.ECONNREFUSED
    assert "the switch has ended" in str(error)


async def test_no_switch_at_all(home: Path) -> None:
    error = await refusal(home / "sw")
    assert type(error) is errors.BrokenTransportError
    assert error.errno == errno.ENOENT
    assert f"Start one: vde_switch -d -s {home}/sw" in str(error)
