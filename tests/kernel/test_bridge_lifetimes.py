"""Stacks come and go on a bridge, fork, are cancelled: what is left behind."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import threading
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

import aioioth
from aioioth import CarrierDown, CarrierUp, _manager, errors
from aioioth._keeper import meeting, orders
from aioioth._linux import netdevice
from aioioth.events import StackEvent
from aioioth.netlink import Netlink
from aioioth.testing import cancel_everywhere, no_leaks
from aioioth.wire import rtnetlink
from tests.kernel.bridges import (
    HOSTS,
    OURS,
    PATIENCE,
    PING,
    THEIRS,
    attached,
    joined,
    runtime,
    until,
    who,
)
from tests.kernel.children import forked
from tests.kernel.test_keeper import gone, keeper_pid

# Coming and going


async def test_the_cable_is_pulled_out(echo: Any, ask: Any) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        aioioth.Stack("bridge://lan", ip=OURS) as one,
        aioioth.Stack("bridge://lan", ip=THEIRS) as two,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        interface, events = one.interfaces["vde0"], one.events(StackEvent)
        reader, writer = await two.open_connection("10.0.0.1", 7)
        await interface.set_carrier(False)
        await interface.set_carrier(False)
        assert not attached(interface)
        [link] = [each async for each in await one.netlink.get_links(interface.index)]
        assert link.get("carrier") == 0
        assert await two.run(f"{PING} -W1 10.0.0.1") == 1
        await interface.set_carrier(True)
        assert attached(interface)
        assert await two.run(f"{PING} -W5 10.0.0.1") == 0
        writer.write(b"still there")
        assert await reader.readexactly(11) == b"still there"
        writer.close()
        await writer.wait_closed()
        assert await anext(events) == CarrierDown("vde0", "pulled out")
        assert await anext(events) == CarrierUp("vde0", 1)
    with pytest.raises(errors.ClosedError):
        await interface.set_carrier(False)


async def test_the_last_word_on_the_cable_counts() -> None:
    async with aioioth.Stack("bridge://lan", ip=OURS) as stack:
        interface = stack.interfaces["vde0"]
        for last in True, False:
            await asyncio.gather(
                interface.set_carrier(not last), interface.set_carrier(last)
            )
            index = interface.index
            [link] = [each async for each in await stack.netlink.get_links(index)]
            assert attached(interface) is bool(link.get("carrier")) is last


@pytest.mark.parametrize("on", [False, True])
async def test_the_cable_while_cancelled(on: bool) -> None:
    """It is in or out, and we know which."""
    async with aioioth.Stack("bridge://lan", ip=OURS) as stack:
        interface = stack.interfaces["vde0"]
        await interface.set_carrier(not on)

        async def change() -> None:
            try:
                await interface.set_carrier(on)
            except asyncio.CancelledError:
                assert attached(interface) is not on
                raise

        async def change_back(_: object) -> None:
            await interface.set_carrier(not on)

        stack.netlink.fileno()
        assert await cancel_everywhere(change, undo=change_back) > 0
        index = interface.index
        [link] = [each async for each in await stack.netlink.get_links(index)]
        assert bool(link.get("carrier")) is not on


async def test_plugged_in_while_it_runs(echo: Any, ask: Any) -> None:
    async with (
        aioioth.Stack("bridge://lan", ip="10.0.0.9/24"),  # the bridge stays
        aioioth.Stack() as one,
        aioioth.Stack("bridge://lan", ip=THEIRS) as two,
    ):
        for number in range(5):
            interface = await one.add_interface("bridge://lan", ip=OURS, mtu=9000)
            assert interface.device in {"veth", "tap", "packet"}
            async with await one.start_server(echo, HOSTS[number % 2], 7):
                assert await ask(two, HOSTS[number % 2], b"x") == b"x"
            await one.remove_interface("vde0")
            names = {each.get("ifname") async for each in await one.netlink.get_links()}
            assert names == {"lo"}
            for host in HOSTS:  # he shall not go on with the MAC address that is gone
                await two.run(f"/usr/sbin/ip neighbour flush to {host}")


@pytest.mark.parametrize("host", HOSTS)
async def test_who_is_closed_is_silent(host: str) -> None:
    """Though open sockets keep his stack alive, and somebody else has his address."""
    mac = "02:00:00:00:00:01"
    async with (
        asyncio.timeout(PATIENCE),
        aioioth.Stack("bridge://lan", ip="10.0.0.9/24"),  # the bridge stays
    ):
        for number in range(20):
            old = await aioioth.Stack("bridge://lan", ip=OURS, mac=mac).open()
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with old.socket(family) as server:
                server.bind((host, 7))
                server.listen()
                await old.aclose()
                same = mac if number % 2 else None
                async with (
                    aioioth.Stack("bridge://lan", ip=OURS, mac=same) as new,
                    aioioth.Stack("bridge://lan", ip=THEIRS) as two,
                    await new.start_server(who, host, 7),
                ):
                    reader, writer = await two.open_connection(host, 7)
                    assert await reader.read() == host.encode()
                    writer.close()
                    await writer.wait_closed()
                server.setblocking(False)
                with pytest.raises(BlockingIOError):
                    server.accept()


async def test_a_link_has_come_up_when_the_kernel_has_finished() -> None:
    """IFF_RUNNING is there before; and then what is left enables a disabled port."""
    async with aioioth.Stack("bridge://lan", ip=OURS) as stack:
        with stack.socket(socket.AF_NETLINK, socket.SOCK_RAW) as sock:
            sock.setblocking(True)
            known, unknown = (
                rtnetlink.get_link(rtnetlink.link_body(name=name))
                for name in ("vde0", "lo")
            )
            assert orders._is_running(sock, known)
            # It never says how it is, but has the flag.
            assert not orders._is_running(sock, unknown)
            assert netdevice.has_carrier(sock.fileno(), "lo")
            assert not orders._is_running(
                sock, rtnetlink.get_link(rtnetlink.link_body(name="none"))
            )


async def test_all_who_are_closed_at_once_are_silent() -> None:
    """Also if the kernel has nothing to do for one of them."""
    async with aioioth.Stack("bridge://lan", ip="10.0.0.100/24") as stack:
        async with AsyncExitStack() as undo:
            others = [
                await undo.enter_async_context(
                    aioioth.Stack("bridge://lan", ip=f"10.0.0.{number}/24")
                )
                for number in range(1, 4)
            ]
            kept = [other.socket() for other in others]
            await others[0].interfaces["vde0"].set_carrier(False)
        try:
            for number in range(1, 4):
                assert await stack.run(f"{PING} -W1 10.0.0.{number}") == 1
        finally:
            for sock in kept:
                sock.close()


async def test_closed_while_sockets_are_open() -> None:
    """They stay usable, and lead nowhere."""
    loop = asyncio.get_running_loop()
    async with (
        asyncio.timeout(PATIENCE),
        aioioth.Stack("bridge://lan", ip=OURS) as one,
    ):
        with ExitStack() as undo:
            async with aioioth.Stack("bridge://lan", ip=THEIRS) as two:
                server = undo.enter_context(one.socket())
                server.bind(("10.0.0.1", 7))
                server.listen()
                client = undo.enter_context(two.socket())
                await loop.sock_connect(client, ("10.0.0.1", 7))
                accepted = undo.enter_context((await loop.sock_accept(server))[0])
            async with (
                aioioth.Stack("bridge://lan", ip="10.0.0.3/24") as three,
                await three.start_server(who, "10.0.0.3", 7),
            ):
                reader, writer = await one.open_connection("10.0.0.3", 7)
                assert await reader.read() == b"10.0.0.3"
                writer.close()
                await writer.wait_closed()
            assert client.send(b"nobody hears this") == 17
            assert await one.run(f"{PING} -W1 10.0.0.2") == 1
            with pytest.raises(BlockingIOError):
                accepted.recv(100)


# Forks, threads, trio


async def test_a_forked_child(echo: Any, ask: Any) -> None:
    """It uses its parent's stack, joins the same bridge, and holds none of it."""
    async with (
        aioioth.Stack("bridge://lan", ip=OURS) as one,
        aioioth.Stack("bridge://lan[private]", ip=OURS) as alone,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        hidden = {
            os.fstat(joined(each).namespace.fileno()).st_ino for each in (one, alone)
        }

        def held() -> set[int]:
            found = set()
            for each in os.listdir("/proc/self/fd"):
                with suppress(OSError):
                    found.add(Path(f"/proc/self/fd/{each}").stat().st_ino)
            return found & hidden

        assert held() == hidden

        async def in_child() -> None:
            assert await ask(one, "10.0.0.1", b"mine") == b"mine"
            async with aioioth.Stack("bridge://lan", ip=THEIRS) as two:
                assert await ask(two, "10.0.0.1", b"joined") == b"joined"
            one.close()
            alone.close()

        def child() -> None:
            assert held() == set()
            asyncio.run(in_child())
            assert held() == set()
            assert _manager._keeper.pid is None

        await forked(child)
        assert await ask(one, "10.0.0.1", b"unharmed") == b"unharmed"


@pytest.mark.parametrize("vnl", ["bridge://lan", "bridge://lan[private]"])
async def test_loops_in_threads(vnl: str, echo: Any, ask: Any) -> None:
    """The bridge outlives the loop that was there first."""
    ready, done = threading.Event(), threading.Event()

    async def first() -> None:
        async with aioioth.Stack(vnl, ip="10.0.0.3/24"):
            ready.set()
            await asyncio.to_thread(done.wait)

    running = asyncio.get_running_loop().run_in_executor(None, asyncio.run, first())
    try:
        await asyncio.to_thread(ready.wait)
        async with (
            aioioth.Stack(vnl, ip=OURS) as one,
            await one.start_server(echo, "10.0.0.1", 7),
        ):
            assert await one.run(f"{PING} -W5 10.0.0.3") == 0
            done.set()
            await running

            async def other(number: int) -> bytes:
                async with aioioth.Stack(vnl, ip=f"10.0.0.{number}/24") as two:
                    answer: bytes = await ask(two, "10.0.0.1", b"%d" % number)
                    return answer

            answers = await asyncio.gather(
                *(asyncio.to_thread(asyncio.run, other(n)) for n in range(10, 18))
            )
            assert answers == [b"%d" % number for number in range(10, 18)]
    finally:
        done.set()


def test_under_trio() -> None:
    async def one(number: int) -> None:
        async with aioioth.Stack("bridge://lan", ip=f"10.0.0.{number}/24") as stack:
            await stack.add_address(f"10.0.1.{number}/24", dev="vde0")
            assert await stack.run(f"{PING} -W5 10.0.0.1") == 0

    async def main() -> None:
        async with aioioth.Stack("bridge://lan", ip=OURS) as first:
            async with trio.open_nursery() as nursery:
                for number in range(2, 8):
                    nursery.start_soon(one, number)
            await first.interfaces["vde0"].set_carrier(False)
            assert not first.interfaces["vde0"].attached
        assert not runtime().exists()

    with no_leaks():
        trio.run(main)


# What may go wrong


def _answered(name: str) -> bool:
    with meeting.new_socket() as sock:
        try:
            sock.connect(os.fspath(runtime() / name))
        except OSError:
            return False
        return bool(select.select([sock], [], [], PATIENCE)[0] and sock.recv(100))


async def test_the_keeper_is_killed(echo: Any, ask: Any) -> None:
    """Stacks go on, new ones join, and others find the bridge as before."""
    async with (
        aioioth.Stack("bridge://lan", ip=OURS) as one,
        aioioth.Stack("bridge://lan", ip=THEIRS) as two,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        for number in range(3):
            reader, writer = await two.open_connection("10.0.0.1", 7)
            first = keeper_pid()
            os.kill(first, signal.SIGKILL)
            writer.write(b"on")
            assert await reader.readexactly(2) == b"on"
            await gone(first)
            writer.close()
            await writer.wait_closed()
            async with aioioth.Stack(
                "bridge://lan", ip=f"10.0.0.{3 + number}/24"
            ) as new:
                assert await ask(new, "10.0.0.1", b"new") == b"new"
            for name in "user-namespace", "lan.bridge":
                await until(lambda name=name: _answered(name))  # type: ignore[misc]

            async def other() -> bytes:
                async with aioioth.Stack("bridge://lan", ip="10.0.0.9/24") as nine:
                    answer: bytes = await ask(nine, "10.0.0.1", b"found")
                    return answer

            assert await asyncio.to_thread(asyncio.run, other()) == b"found"
            assert keeper_pid() != first


async def test_closed_while_the_keeper_is_dead() -> None:
    """Its name stays in the directory, until somebody asks for it."""
    async with (
        aioioth.Stack("bridge://lan", ip=OURS),
        aioioth.Stack("bridge://lan", ip=THEIRS),
        aioioth.Stack("bridge://lan[private]", ip=THEIRS),
    ):
        os.kill(keeper_pid(), signal.SIGKILL)
    async with aioioth.Stack("bridge://lan", ip=OURS):
        pass


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("vnl", ["bridge://lan", "bridge://lan[private]"])
async def test_cancelled_while_it_is_opened_and_closed(vnl: str, times: int) -> None:
    async with aioioth.Stack():  # the manager is there to stay

        async def whole_life() -> None:
            assert not runtime().exists()
            stack = await aioioth.Stack(vnl, ip=OURS).open()
            try:
                await stack.aclose()
            finally:
                assert repr(stack).endswith("closed>")

        async def all_gone(_: object = None) -> None:
            await until(lambda: not runtime().exists())

        async def checked() -> None:
            try:
                await whole_life()
            except asyncio.CancelledError:
                await all_gone()
                raise

        assert await cancel_everywhere(checked, undo=all_gone, times=times) > 5


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_is_plugged_in(times: int) -> None:
    async with (
        aioioth.Stack("bridge://lan", ip="10.0.0.9/24"),  # the bridge stays
        aioioth.Stack() as stack,
    ):
        await stack.add_interface("bridge://lan", "eth1")
        await stack.remove_interface("eth1")  # the executor's threads stay

        async def add() -> None:
            assert set(stack.interfaces) == set()
            await stack.add_interface("bridge://lan", "eth1", ip=OURS)

        async def remove(_: object) -> None:
            with suppress(errors.ConfigurationError):
                await stack.remove_interface("eth1")

        assert await cancel_everywhere(add, undo=remove, times=times) > 2
        await stack.add_interface("bridge://lan", "eth1", ip=OURS)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_cable_cancelled(times: int) -> None:
    async with aioioth.Stack("bridge://lan", ip="10.0.0.9/24") as stack:

        async def whole_life() -> None:
            async with aioioth.Cable("bridge://lan", "memory://lan"):
                await asyncio.sleep(0)

        assert await cancel_everywhere(whole_life, times=times) > 2
        netlink = Netlink(joined(stack).namespace)
        try:
            async with asyncio.timeout(PATIENCE):
                # The bridge, the stack's port, and lo.
                while len([each async for each in await netlink.get_links()]) > 3:
                    await asyncio.sleep(0.01)
        finally:
            netlink.close()
