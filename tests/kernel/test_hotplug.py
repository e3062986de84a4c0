"""Interfaces that come and go on a running stack, and cables pulled out."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import textwrap
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio

import aioioth
from aioioth import CarrierDown, CarrierUp, InterfaceAdded, InterfaceRemoved, errors
from aioioth.testing import no_leaks

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 30


async def links(stack: aioioth.Stack) -> set[str]:
    """Return the kernel's list of the stack's interfaces."""
    return {each.get("ifname") async for each in await stack.netlink.get_links()}


class Away:
    """A network that can be reached or not, as it is told."""

    def __init__(self) -> None:
        self.switch = aioioth.Switch(name="away")
        self.here = True

    async def open(self, label: str) -> Any:
        await asyncio.sleep(0)
        if not self.here:
            vnl = "away://"
            raise errors.BrokenTransportError(vnl, "not there")
        port = await self.switch.open(label)
        port.mtu = 9000
        return port


def attached(interface: aioioth.Interface) -> bool:
    return interface.attached


# Interfaces


@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1"])
async def test_added_and_removed(device: str, host: str, echo: Any, ask: Any) -> None:
    async with (
        aioioth.Stack(device=device) as stack,
        aioioth.Stack("memory://lan", ip=["10.0.0.2/24", "fd00::2/64"]) as peer,
    ):
        events = stack.events(aioioth.events.StackEvent)
        interface = await stack.add_interface(
            "memory://lan",
            ip=["10.0.0.1/24", "fd00::1/64"],
            mac="02:00:00:00:00:17",
            mtu=1400,
        )
        assert dict(stack.interfaces) == {"vde0": interface}
        assert (interface.name, interface.vnl) == ("vde0", "memory://lan")
        assert (interface.mac, interface.mtu) == ("02:00:00:00:00:17", 1400)
        assert (interface.device, interface.attached) == (device, True)
        assert repr(stack).endswith("on memory://lan, open>")
        assert await links(stack) == {"lo", "vde0"}
        async with await stack.start_server(echo, host, 7):
            assert await ask(peer, host, b"hot" * 10_000) == b"hot" * 10_000
        await stack.remove_interface("vde0")
        assert await links(stack) == {"lo"}
        assert dict(stack.interfaces) == {}
        assert not attached(interface)
        assert await anext(events) == InterfaceAdded("vde0", "memory://lan")
        assert await anext(events) == InterfaceRemoved("vde0")
        with pytest.raises(errors.ClosedError, match=r"vde0 of .* is closed"):
            await interface.set_carrier(True)


async def test_names(device: str) -> None:
    async with aioioth.Stack("null://", "null://", device=device) as stack:
        add = stack.add_interface
        assert (await add("null://")).name == "vde2"
        assert (await add("eth1:null://")).name == "eth1"
        assert (await add("null://", "eth2")).name == "eth2"
        assert (await add("eth3:null://", "eth3")).name == "eth3"
        await stack.remove_interface("vde1")
        assert (await add("null://")).name == "vde1"
        assert await links(stack) == {"lo", *stack.interfaces}
        assert len(stack.interfaces) == 6


async def test_what_is_refused_is_refused_before_anything_is_opened() -> None:
    away = Away()
    async with aioioth.Stack("null://") as stack:
        await stack.netlink.link("add", ifname="br0", kind="bridge")
        for name in "vde0", "br0":  # ours, and one that the user has made
            with pytest.raises(errors.ConfigurationError, match=f"{name!r} is used al"):
                await stack.add_interface(away, name)
        for message, keywords in (
            ("the VNL says 'eth1'", {"vnl": "eth1:null://", "name": "eth2"}),
            ("must have 1 to 15 characters", {"name": "x" * 16}),
            ("has a meaning of its own", {"name": "lo"}),
            ("has no prefix length", {"ip": "10.0.0.1"}),
            ("IPv6 needs 1280", {"ip": "fd00::1/64", "mtu": 1000}),
            ("must be 68 to", {"mtu": 3}),
            ("expected six bytes", {"mac": "x"}),
            ("expected a VNL", {"vnl": 5}),
            ("no transport serves", {"vnl": "nope://x"}),
        ):
            options: dict[str, Any] = {"vnl": away, **keywords}
            with pytest.raises(errors.ConfigurationError, match=message):
                await stack.add_interface(options.pop("vnl"), **options)
        with pytest.raises(errors.ConfigurationError, match=r"'x'; there are: vde0$"):
            await stack.remove_interface("x")
        with pytest.raises(errors.ConfigurationError, match=r"'lo'; there are: vde0$"):
            await stack.remove_interface("lo")
        assert not away.switch.ports
        assert await links(stack) == {"lo", "vde0", "br0"}


async def test_a_network_that_cannot_be_reached(device: str) -> None:
    away = Away()
    away.here = False
    async with aioioth.Stack(device=device) as stack:
        events = stack.events(aioioth.events.StackEvent)
        with pytest.raises(errors.BrokenTransportError, match="not there"):
            await stack.add_interface(away)
        assert await links(stack) == {"lo"}
        away.here = True
        with pytest.raises(errors.ConfigurationError, match=r"9001 for vde0: .* 9000"):
            await stack.add_interface(away, mtu=9001)
        assert (await stack.add_interface(away)).name == "vde0"
        assert isinstance(await anext(events), InterfaceAdded)


async def test_an_address_that_the_kernel_refuses(device: str) -> None:
    """Nothing is left, and the name is free again."""
    async with aioioth.Stack(device=device) as stack:
        switch = aioioth.Switch()
        for _ in range(3):
            with pytest.raises(
                errors.NetlinkError, match=r"10.0.0.1/24 dev vde0: File"
            ):
                await stack.add_interface(switch, ip=["10.0.0.1/24"] * 2)
            assert dict(stack.interfaces) == {}
            assert not switch.ports
        assert (await stack.add_interface(switch, ip="10.0.0.1/24")).name == "vde0"
        assert await links(stack) == {"lo", "vde0"}


async def test_many_times(device: str) -> None:
    """Nothing is left: no descriptor, no interface, no task."""
    async with aioioth.Stack("null://", device=device) as stack:
        await stack.add_interface("memory://lan", "eth1")
        await stack.remove_interface("eth1")
        await links(stack)  # by netlink, which is opened when it is asked for
        with no_leaks():
            for _ in range(25):
                await stack.add_interface("memory://lan", "eth1", ip="10.0.0.1/24")
                await stack.add_interface("memory://lan", ip="fd00::1/64")
                await stack.remove_interface("vde1")
                await stack.remove_interface("eth1")
                assert set(stack.interfaces) == {"vde0"}
            assert await links(stack) == {"lo", "vde0"}


async def test_several_at_once(device: str) -> None:
    async with aioioth.Stack(device=device) as stack:
        async with asyncio.TaskGroup() as group:
            adding = [
                group.create_task(stack.add_interface("memory://lan")) for _ in range(6)
            ]
        names = {task.result().name for task in adding}
        assert names == {f"vde{number}" for number in range(6)}
        assert await links(stack) == {"lo", *names}
        both = await asyncio.gather(
            stack.add_interface("null://", "eth1"),
            stack.add_interface("null://", "eth1"),
            return_exceptions=True,
        )
        [refused] = [each for each in both if isinstance(each, Exception)]
        assert isinstance(refused, errors.ConfigurationError)
        async with asyncio.TaskGroup() as group:
            for name in [*stack.interfaces, "vde3", "eth1"]:  # two of them twice
                group.create_task(stack.remove_interface(name))
        assert await links(stack) == {"lo"}
        assert dict(stack.interfaces) == {}


async def test_removed_and_at_once_added_again(device: str) -> None:
    """Also while the kernel is still at the old one."""
    async with aioioth.Stack(device=device) as stack:
        await stack.add_interface("memory://one", "eth1")
        for vnl in "memory://two", "memory://three":
            removing = asyncio.create_task(stack.remove_interface("eth1"))
            while "eth1" in stack.interfaces:
                await asyncio.sleep(0)
            interface = await stack.add_interface(vnl, "eth1", ip="10.0.0.1/24")
            await removing
            assert dict(stack.interfaces) == {"eth1": interface}
            assert await links(stack) == {"lo", "eth1"}


async def test_removed_under_traffic(device: str, echo: Any, ask: Any) -> None:
    async with (
        aioioth.Stack("memory://one", ip="10.1.0.1/24", device=device) as stack,
        aioioth.Stack("memory://one", ip="10.1.0.2/24", device=device) as near,
        aioioth.Stack("memory://two", ip="10.2.0.2/24", device=device) as far,
        await near.start_server(echo, "10.1.0.2", 7),
    ):
        await stack.add_interface("memory://two", "eth1", ip="10.2.0.1/24")

        async def flood(source: aioioth.Stack, target: str) -> None:
            with source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                while True:
                    for _ in range(20):
                        with suppress(OSError):
                            sock.sendto(bytes(1000), (target, 9))
                    await asyncio.sleep(0)

        floods = [
            asyncio.create_task(flood(stack, "10.2.0.2")),
            asyncio.create_task(flood(far, "10.2.0.1")),
        ]
        interface = stack.interfaces["eth1"]
        async with asyncio.timeout(PATIENCE):
            while not (interface.stats.sent.frames and interface.stats.received.frames):
                await asyncio.sleep(0)
        await stack.remove_interface("eth1")
        assert await links(stack) == {"lo", "vde0"}
        # The other one does not mind.
        assert await ask(stack, "10.1.0.2", b"still") == b"still"
        for task in floods:
            task.cancel()
        await asyncio.wait(floods)


async def test_what_was_queued_is_sent_first(device: str) -> None:
    switch = aioioth.Switch()
    frames: list[bytes] = []
    unwatch = switch.watch(frames.append)
    async with aioioth.Stack(device=device) as stack:
        await stack.add_interface(switch, ip="10.0.0.1/24")
        with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.sendto(b"last words", ("10.0.0.255", 9))
            await stack.remove_interface("vde0")
    unwatch()
    assert any(b"last words" in frame for frame in frames)


async def test_an_interface_that_somebody_has_deleted(device: str) -> None:
    async with aioioth.Stack(device=device) as stack:
        interface = await stack.add_interface("memory://lan")
        await stack.netlink.link("del", index=interface.index)
        await stack.remove_interface("vde0")
        assert (await stack.add_interface("memory://lan")).name == "vde0"
        assert await links(stack) == {"lo", "vde0"}


async def test_an_interface_that_somebody_has_renamed(device: str) -> None:
    async with aioioth.Stack(device=device) as stack:
        interface = await stack.add_interface("memory://lan")
        index = interface.index
        await stack.netlink.link("set", index=index, state="down")
        await stack.netlink.link("set", index=index, ifname="other")
        await stack.remove_interface("vde0")
        assert await links(stack) == {"lo"}


async def test_the_stack_is_closed_meanwhile(device: str) -> None:
    opened = asyncio.Event()
    go_on = asyncio.Event()
    switch = aioioth.Switch()

    class Slow:
        async def open(self, label: str) -> Any:
            opened.set()
            await go_on.wait()
            return await switch.open(label)

    stack = await aioioth.Stack(device=device).open()
    adding = asyncio.create_task(stack.add_interface(Slow()))
    await opened.wait()
    stack.close()
    go_on.set()
    with pytest.raises((errors.ClosedError, OSError)):
        await adding
    assert not switch.ports

    stack = await aioioth.Stack("null://", device=device).open()
    removing = asyncio.create_task(stack.remove_interface("vde0"))
    await asyncio.sleep(0)
    await stack.aclose()
    await removing
    with pytest.raises(errors.ClosedError):
        await stack.add_interface("null://")
    with pytest.raises(errors.ClosedError):
        await stack.remove_interface("vde0")


async def test_where_it_cannot_be() -> None:
    async with aioioth.Stack("null://") as owner, aioioth.Stack(kind="kernel") as host:
        async with aioioth.Stack.attach(owner.share()) as guest:
            for stack in guest, host:
                for use in (
                    stack.add_interface("null://"),
                    stack.remove_interface("vde0"),
                ):
                    with pytest.raises(
                        errors.ConfigurationError, match="for the process that made"
                    ):
                        await use
            with pytest.raises(
                errors.ConfigurationError, match="pulled out by the process that"
            ):
                await guest.interfaces["vde0"].set_carrier(False)

        def elsewhere() -> None:
            for use in (
                lambda: owner.add_interface("null://"),
                lambda: owner.remove_interface("vde0"),
                lambda: owner.interfaces["vde0"].set_carrier(False),
            ):
                with pytest.raises(errors.WrongLoopError, match="another event loop"):
                    asyncio.run(use())

        await asyncio.to_thread(elsewhere)
        assert owner.interfaces["vde0"].attached


async def test_an_attached_stack_sees_what_was_added() -> None:
    async with aioioth.Stack("null://") as owner:
        await owner.add_interface("memory://lan", "eth1")
        async with aioioth.Stack.attach(owner.share()) as guest:
            assert set(guest.interfaces) == {"vde0", "eth1"}


# Carriers


async def carrier(stack: aioioth.Stack, name: str = "vde0") -> bool:
    [link] = [
        each
        async for each in await stack.netlink.get_links()
        if each.get("ifname") == name
    ]
    return bool(link.get("carrier"))


async def until_carrier(stack: aioioth.Stack, *, on: bool) -> None:
    async with asyncio.timeout(PATIENCE):
        while await carrier(stack) != on:
            await asyncio.sleep(0.002)


async def test_pulled_out_and_plugged_in(device: str, echo: Any, ask: Any) -> None:
    switch = aioioth.Switch()
    async with (
        aioioth.Stack(switch, ip="10.0.0.1/24", device=device) as stack,
        aioioth.Stack(switch, ip="10.0.0.2/24", device=device) as peer,
        await stack.start_server(echo, "10.0.0.1", 7),
    ):
        interface = stack.interfaces["vde0"]
        events = stack.events(aioioth.events.StackEvent)
        theirs = switch.ports[1]
        assert await ask(peer, "10.0.0.1", b"before") == b"before"
        before = asyncio.all_tasks()
        for _ in range(2):
            await interface.set_carrier(False)
            await interface.set_carrier(False)
            assert not attached(interface)
            assert list(switch.ports) == [theirs]
            await until_carrier(stack, on=False)
            assert asyncio.all_tasks() == before  # nobody tries
            await interface.set_carrier(True)
            await interface.set_carrier(True)
            assert attached(interface)
            assert len(switch.ports) == 2
            await until_carrier(stack, on=True)
            assert await anext(events) == CarrierDown("vde0", "pulled out")
            assert await anext(events) == CarrierUp("vde0", 1)
        assert await ask(peer, "10.0.0.1", b"after") == b"after"


async def test_plugged_in_where_there_is_nothing(device: str) -> None:
    away = Away()
    async with aioioth.Stack(away, device=device) as stack:
        interface = stack.interfaces["vde0"]
        await interface.set_carrier(False)
        away.here = False
        for _ in range(2):
            with pytest.raises(errors.BrokenTransportError, match="not there"):
                await interface.set_carrier(True)
            assert not attached(interface)
            await until_carrier(stack, on=False)
        away.here = True
        await interface.set_carrier(True)
        await until_carrier(stack, on=True)


async def test_pulled_out_while_the_network_is_away(device: str) -> None:
    """It is not tried any more."""
    away = Away()
    async with aioioth.Stack(away, device=device) as stack:
        interface = stack.interfaces["vde0"]
        events = stack.events(aioioth.events.StackEvent)
        before = asyncio.all_tasks()
        away.here = False
        [port] = away.switch.ports
        interface._link._attachment.lose("broken")  # type: ignore[union-attr]
        assert port not in away.switch.ports
        await interface.set_carrier(True)  # the cable is in
        assert not attached(interface)
        await interface.set_carrier(False)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        away.here = True
        await interface.set_carrier(True)
        assert attached(interface)
        assert await anext(events) == CarrierDown("vde0", "broken")
        assert await anext(events) == CarrierUp("vde0", 1)


async def test_in_and_out_at_the_same_time(device: str) -> None:
    async with aioioth.Stack(Away(), device=device) as stack:
        interface = stack.interfaces["vde0"]
        await asyncio.gather(*(interface.set_carrier(n % 2 > 0) for n in range(10)))
        assert attached(interface)
        await until_carrier(stack, on=True)


async def test_a_deleted_interface_has_no_carrier_to_set(device: str) -> None:
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24", device=device) as stack,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24", device=device) as peer,
    ):
        interface = stack.interfaces["vde0"]
        events = stack.events(aioioth.events.StackEvent)
        await stack.netlink.link("del", index=interface.index)
        with peer.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.sendto(b"anybody?", ("10.0.0.255", 9))
            assert isinstance(await anext(events), CarrierDown)
        with pytest.raises(errors.ClosedError, match="gone: somebody deleted it"):
            await interface.set_carrier(True)
        await stack.remove_interface("vde0")
        assert await anext(events) == InterfaceRemoved("vde0")


# Elsewhere


def test_under_trio() -> None:
    async def main() -> None:
        async with aioioth.Stack() as stack:
            interface = await stack.add_interface("memory://lan", ip="10.0.0.1/24")
            await interface.set_carrier(False)
            assert not attached(interface)
            await interface.set_carrier(True)
            assert attached(interface)
            await stack.remove_interface("vde0")
            assert dict(stack.interfaces) == {}

    with no_leaks():
        trio.run(main)


def run(program: str) -> Callable[[], subprocess.CompletedProcess[str]]:
    def running() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
            capture_output=True,
            text=True,
            timeout=60,
        )

    return running


def test_in_a_forked_child() -> None:
    done = run(
        """
        import asyncio, os, aioioth

        async def main():
            async with aioioth.Stack("null://") as stack:
                interface = await stack.add_interface("memory://lan", "eth1")
                if (child := os.fork()) == 0:
                    code = 1
                    try:
                        use = stack.remove_interface("eth1"), interface.set_carrier(0)
                        for each in use:
                            try:
                                await each
                            except aioioth.errors.WrongLoopError:
                                code += 1
                    finally:
                        os._exit(code)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
                assert interface.attached
                await stack.remove_interface("eth1")
                print(*stack.interfaces)

        asyncio.run(main())
        """
    )()
    assert (done.stdout, done.stderr) == ("vde0\n", "")
