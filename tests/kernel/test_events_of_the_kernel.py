"""Events that the kernel announces, and what waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth import _dumps, _netstate, errors, events
from aioioth._iproute import change
from aioioth._keeper import orders
from aioioth.iproute import Address, Neighbour, Route
from tests.kernel.children import forked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

MAC = "02:00:00:00:00:01"


@contextlib.asynccontextmanager
async def told(
    stack: aioioth.Stack, *kinds: type[events.Event]
) -> AsyncIterator[aioioth.EventStream]:
    """Yield a stack's events; fail rather than wait for long."""
    async with asyncio.timeout(20):
        stream = stack.events(*kinds)
        try:
            yield stream
        finally:
            stream.close()


def monitor_of(stack: aioioth.Stack) -> _netstate.Monitor:
    return stack._parts().monitor


def at_once(stack: aioioth.Stack, things: Iterable[Any], command: str = "add") -> None:
    """Have the kernel do all of it before the event loop has its next turn."""
    space = stack._parts().space
    index = stack.interfaces["vde0"].index
    requests = [
        (0, orders.REQUEST, request.payload)
        for thing in things
        for request in change(command, thing, lambda _: index, is_up=False)
    ]

    def open_socket(_: int) -> socket.socket:
        return space.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)

    orders.perform(requests, open_socket, ())


async def same_as_a_dump(stack: aioioth.Stack) -> None:
    """Wait until the monitor knows what there is."""
    addresses = set(await stack.addresses())
    routes = {each for each in await stack.routes(None) if each.table != 255}
    neighbours = set(await stack.neighbours())
    async with asyncio.timeout(20):
        await monitor_of(stack).wait_for(
            lambda now: (
                set(now.addresses) == addresses
                and set(now.routes) == routes
                and set(now.neighbours) == neighbours
            )
        )


# One after the other


async def test_addresses() -> None:
    async with aioioth.Stack("null://") as stack:
        async with told(stack, events.AddressEvent) as stream:
            await stack.add_address("10.0.0.7/24", dev="vde0")
            ours = Address("10.0.0.7/24", "vde0")
            assert await anext(stream) == events.AddressAdded("vde0", ours)
            assert await anext(stream) == events.AddressUsable("vde0", ours)
            await stack.del_address("10.0.0.7/24", dev="vde0")
            assert await anext(stream) == events.AddressRemoved("vde0", ours)


async def test_routes() -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        async with told(stack, events.RouteEvent) as stream:
            one, other = (
                Route("10.1.0.0/16", via=f"10.0.0.{n}", dev="vde0") for n in (8, 9)
            )
            await stack.add(one)
            assert await anext(stream) == events.RouteAdded("vde0", one)
            await stack.replace(other)
            assert await anext(stream) == events.RouteRemoved("vde0", one)
            assert await anext(stream) == events.RouteAdded("vde0", other)
            # IPv4's go with the interface, and the kernel does not say so.
            await stack.interfaces["vde0"].down()
            gone = {(await anext(stream)).route.destination for _ in range(2)}  # type: ignore[attr-defined]
            assert {str(each) for each in gone} == {"10.0.0.0/24", "10.1.0.0/16"}


async def test_neighbours() -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        async with told(stack, events.NeighbourEvent) as stream:
            him = Neighbour("10.0.0.9", MAC, dev="vde0")
            await stack.add(him)
            assert await anext(stream) == events.NeighbourChanged("vde0", him)
            await stack.remove(him)
            # Some kernels say first that nobody knows him any more.
            while not isinstance(event := await anext(stream), events.NeighbourRemoved):
                assert isinstance(event, events.NeighbourChanged)
            proxy = Neighbour("10.0.0.77", dev="vde0", proxy=True)
            await stack.add(proxy)
            assert await anext(stream) == events.NeighbourChanged("vde0", proxy)
            await stack.remove(proxy)
            assert await anext(stream) == events.NeighbourRemoved("vde0", proxy)


async def test_links() -> None:
    async with aioioth.Stack("null://") as stack:
        async with told(stack, events.LinkEvent) as stream:
            await stack.add_link("left", "veth", peer="right")
            assert {(await anext(stream)).interface for _ in range(2)} == {
                "left",
                "right",
            }
            await stack.set_link("left", mtu=1400)
            while not (
                isinstance(event := await anext(stream), events.LinkChanged)
                and "mtu" in event.changed
            ):
                pass
            assert event.link.mtu == 1400
            await stack.del_link("left")
            kinds = {type(await anext(stream)) for _ in range(2)}
            assert events.LinkRemoved in kinds


async def test_from_the_very_call_on() -> None:
    """What happens before the loop has its next turn is told, and once."""
    async with aioioth.Stack("null://") as stack:
        before = Address("10.0.0.1/24", "vde0")
        async with told(stack, events.AddressEvent) as first:
            at_once(stack, [before])
            async with told(stack, events.AddressEvent) as stream:
                after = Address("10.0.0.2/24", "vde0")
                at_once(stack, [after])
                assert await anext(stream) == events.AddressAdded("vde0", after)
                assert await anext(first) == events.AddressAdded("vde0", before)


async def test_only_what_is_wanted() -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        async with told(stack, events.StackEvent, aioioth.CarrierDown) as stream:
            assert monitor_of(stack).filenos() == ()
            await stack.add_address("10.0.0.7/24", dev="vde0")
            await stack.add_interface("null://", "eth1")
            assert await anext(stream) == aioioth.InterfaceAdded("eth1", "null://")
        async with told(stack) as stream:
            await stack.add_address("10.0.0.8/24", dev="vde0")
            await stack.add_interface("null://", "eth2")
            found = [type(await anext(stream)) for _ in range(4)]
            assert events.AddressAdded in found
            while not isinstance(await anext(stream), aioioth.InterfaceAdded):
                pass


# Too many at once


async def test_lost_announcements_are_made_up_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_netstate, "_RECEIVE_BYTES", 1)  # the least there is
    many = [Address(f"10.1.{n // 250}.{n % 250}/32", "vde0") for n in range(1500)]
    routes = [Route(f"10.2.{n}.0/24", via="10.0.0.9", dev="vde0") for n in range(250)]
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        async with told(stack, events.AddressAdded, events.AddressRemoved) as stream:
            at_once(stack, many + routes)
            await same_as_a_dump(stack)
            assert monitor_of(stack)._lost > 0
            at_once(stack, many, "del")
            await same_as_a_dump(stack)
            assert set(await stack.addresses("vde0")) == {
                Address("10.0.0.1/24", "vde0")
            }
            # All of it came, as far as somebody who does not read may have it.
            stream.close()
            last = [event async for event in stream]
            missing, *rest = last
            assert isinstance(missing, events.EventsLost)
            assert missing.count >= 2 * len(many) - 1024
            assert len(rest) == 1024
            assert all(isinstance(event, events.AddressRemoved) for event in rest)


async def test_every_lost_one_is_told_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_netstate, "_RECEIVE_BYTES", 1)
    many = [Address(f"10.1.{n // 250}.{n % 250}/32", "vde0") for n in range(3000)]
    async with aioioth.Stack("null://") as stack:
        async with told(stack, events.AddressAdded) as stream:
            at_once(stack, many)
            found = {(await anext(stream)).address for _ in many}  # type: ignore[attr-defined]
            assert found == set(many)


async def test_much_is_looked_at_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is told or seen half, and nobody is told of what was before he came."""
    monkeypatch.setattr(_netstate, "_STEPS_AT_ONCE", 1)
    monkeypatch.setattr(_netstate, "_AT_ONCE", 1)
    first, second, third = (Address(f"10.7.0.{n}/32", "vde0") for n in (1, 2, 3))
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        monitor = monitor_of(stack)
        at_once(stack, [first])
        async with told(stack, events.AddressAdded) as stream:
            assert monitor._renewal is not None  # still at it
            at_once(stack, [second])
            async with told(stack, events.AddressAdded) as later:
                never = stack.events()
                never.close()
                at_once(stack, [third])
                seen: list[int] = []

                def is_complete(now: _netstate.Monitor) -> bool:
                    seen.append(len(now.addresses))
                    return third in now.addresses

                await monitor.wait_for(is_complete)
                assert seen == [6]
                for each in (second, third):
                    assert await anext(stream) == events.AddressAdded("vde0", each)
                assert await anext(later) == events.AddressAdded("vde0", third)
        async with told(stack, events.AddressAdded) as stream:
            monkeypatch.setattr(_netstate, "_MOST_HELD", 2)
            many = [Address(f"10.8.0.{n}/32", "vde0") for n in range(9)]
            at_once(stack, many)
            # Came while too much was waiting, and is told of what comes all the same.
            async with told(stack, events.AddressRemoved) as later:
                at_once(stack, many, "del")
                await monitor.wait_for(lambda now: len(now.addresses) == 6)
                await stack.remove(third)
                while (event := await anext(later)).address != third:  # type: ignore[attr-defined]
                    assert isinstance(event, events.AddressRemoved)


async def test_while_everything_changes() -> None:
    """Announcements that come while the kernel is asked are not forgotten."""
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        async with told(stack) as stream:
            for number in range(300):
                there = Route(f"10.1.{number % 7}.0/24", via="10.0.0.9")
                await (
                    stack.ensure(there) if number % 3 else stack.add_link("b", "bridge")
                )
                if not number % 3:
                    await stack.del_link("b")  # asks for routes again
                elif number % 2:
                    await stack.remove(there)
            await same_as_a_dump(stack)
            stream.close()


async def test_events_add_up_although_some_are_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is added twice, or removed that was not there, whatever is lost."""
    monkeypatch.setattr(_netstate, "_RECEIVE_BYTES", 1)
    monkeypatch.setattr(_netstate, "_AT_ONCE", 3)
    routes = [Route(f"10.1.{n}.0/24", via="10.0.0.9", dev="vde0") for n in range(90)]
    routes += [Route(f"fd01:{n:x}::/64", via="fd00::9", dev="vde0") for n in range(90)]
    async with aioioth.Stack("null://", ip=["10.0.0.1/24", "fd00::1/64"]) as stack:
        there = {route for route in await stack.routes(None) if route.table != 255}
        followed = set(there)
        async with told(stack, events.RouteEvent) as stream:

            async def follow() -> None:
                async for event in stream:
                    assert isinstance(event, events.RouteEvent)
                    is_new = isinstance(event, events.RouteAdded)
                    assert is_new != (event.route in followed), event
                    followed.symmetric_difference_update({event.route})

            following = asyncio.create_task(follow())
            for number in range(12):
                some = routes[number % 5 :: 1 + number % 4]
                at_once(stack, [each for each in some if each in there], "del")
                at_once(stack, [each for each in some if each not in there])
                there.symmetric_difference_update(some)
                await asyncio.sleep(0)
            await same_as_a_dump(stack)
            assert monitor_of(stack)._lost > 0
            stream.close()
            await following
            assert followed == there


async def test_no_descriptors_are_left_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel cannot be asked; it is asked again."""
    monkeypatch.setattr(_netstate, "_RETRY_SECONDS", 0.001)
    read, failures = _dumps.read, 3

    def fails_at_first(*arguments: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError(errno.ENOBUFS, "no room")
        return read(*arguments)

    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        async with told(stack, events.RouteRemoved) as stream:
            monkeypatch.setattr(_dumps, "read", fails_at_first)
            await stack.interfaces["vde0"].down()
            event = await anext(stream)
            assert event.interface == "vde0"
            assert failures < 0
    assert "no room" in caplog.text


# Whose it is


async def test_its_sockets_are_nobodys() -> None:
    async with aioioth.Stack("null://") as stack:
        assert monitor_of(stack).filenos() == ()
        one, other = stack.events(), stack.events()
        assert len(monitor_of(stack).filenos()) == 2
        assert stack.sockets() == []
        one.close()
        one.close()
        assert len(monitor_of(stack).filenos()) == 2
        other.close()
        assert monitor_of(stack).filenos() == ()
        again = stack.events()
        await stack.aclose(strict=True)
        assert [event async for event in again] == []


async def test_it_ends_with_the_stack() -> None:
    stack = await aioioth.Stack("null://").open()
    stream = stack.events()
    interface = stack.interfaces["vde0"]
    await interface.down()
    waiting = [
        asyncio.create_task(stack.wait_ready()),
        asyncio.create_task(interface.wait_carrier()),
        asyncio.create_task(stack.wait_ready(1000)),
    ]
    await asyncio.sleep(0)
    stack.close()
    for task in waiting:
        with pytest.raises(errors.ClosedError):
            await task
    stream.close()
    monitor = monitor_of
    with pytest.raises(errors.ClosedError):
        monitor(stack)


@pytest.mark.parametrize("where", ["thread", "attached"])
async def test_where_stacks_live(where: str) -> None:
    async with aioioth.Stack("null://", pump_thread=where == "thread") as owner:
        async with contextlib.AsyncExitStack() as undo:
            stack = owner
            if where == "attached":
                stack = await undo.enter_async_context(
                    aioioth.Stack.attach(owner.share())
                )
            stream = stack.events(events.AddressEvent)
            await owner.add_address("10.0.0.7/24", dev="vde0")
            async with asyncio.timeout(20):
                assert isinstance(await anext(stream), events.AddressAdded)
            stream.close()


# Ready


async def test_an_address_is_looked_for_and_usable() -> None:
    async with aioioth.Stack("memory://lan") as stack:
        async with told(stack, events.AddressEvent) as stream:
            await stack.add_address("fd00::7/64", dev="vde0", nodad=False)
            ours = Address("fd00::7/64", "vde0")
            with pytest.raises(
                TimeoutError, match="fd00::7/64 on vde0 is being looked"
            ):
                await stack.wait_ready(0)
            with stack.socket(socket.AF_INET6) as sock, pytest.raises(OSError):
                sock.bind(("fd00::7", 80))
            await stack.wait_ready(20)
            with stack.socket(socket.AF_INET6) as sock:
                sock.bind(("fd00::7", 80))
            happened = [
                event async for event in until(stream, events.AddressUsable, ours)
            ]
            assert events.AddressAdded("vde0", ours) in happened


async def until(
    stream: aioioth.EventStream, kind: type[events.AddressEvent], address: Address
) -> AsyncIterator[events.Event]:
    async for event in stream:
        yield event
        if event == kind("vde0", address):
            return


@pytest.mark.parametrize("valid", [None, 900])
async def test_an_address_is_anothers(valid: int | None) -> None:
    """The kernel keeps one that is for ever, marked; any other it takes away."""
    async with (
        aioioth.Stack("memory://lan", ip="fd00::7/64") as owner,
        aioioth.Stack("memory://lan") as stack,
    ):
        assert owner.interfaces["vde0"].mac != stack.interfaces["vde0"].mac
        async with told(stack, events.AddressDuplicated) as stream:
            await stack.add_address("fd00::7/64", dev="vde0", nodad=False, valid=valid)
            with pytest.raises(errors.NetlinkError, match="somebody else") as caught:
                await stack.wait_ready(20)
            assert caught.value.errno == errno.EADDRINUSE
            assert "fd00::7/64" in str(caught.value)
            event = await anext(stream)
            assert event.interface == "vde0"
        there = [each.duplicated for each in await stack.addresses() if each.valid]
        if valid is None:
            assert Address("fd00::7/64", "vde0") in await stack.addresses()
            await stack.del_address("fd00::7/64", dev="vde0")
        else:
            assert there == []
        await stack.wait_ready(20)


async def test_a_carrier_is_waited_for(device: str) -> None:
    async with aioioth.Stack("memory://lan", device=device) as stack:
        interface = stack.interfaces["vde0"]
        await interface.wait_carrier(20)
        await interface.set_carrier(False)
        with pytest.raises(TimeoutError, match="vde0 has no carrier"):
            await stack.wait_ready(0)
        with pytest.raises(TimeoutError):
            await interface.wait_carrier(0)
        waiting = asyncio.create_task(interface.wait_carrier(20))
        ready = asyncio.create_task(stack.wait_ready(20))
        await asyncio.sleep(0)
        await interface.set_carrier(True)
        await waiting
        await ready


async def test_a_carrier_is_told_of(device: str) -> None:
    async with aioioth.Stack("memory://lan", device=device) as stack:
        async with told(stack, events.LinkChanged) as stream:
            for on in False, True:
                await stack.interfaces["vde0"].set_carrier(on)
                async for event in stream:
                    assert isinstance(event, events.LinkChanged)
                    if "carrier" in event.changed:
                        assert event.link.carrier == on
                        break


async def test_ready_without_a_network() -> None:
    async with aioioth.Stack() as stack:
        await stack.wait_ready(20)


async def test_many_stacks_each_with_its_own() -> None:
    async with aioioth.open_stacks(20, "null://", ip="10.0.0.1/8") as stacks:
        streams = [stack.events(events.AddressAdded) for stack in stacks]
        for number, stack in enumerate(stacks):
            await stack.add_address(f"10.7.0.{number + 1}/32", dev="vde0")
        async with asyncio.timeout(20):
            for number, stream in enumerate(streams):
                event = await anext(stream)
                assert isinstance(event, events.AddressAdded)
                assert str(event.address.address) == f"10.7.0.{number + 1}/32"


async def test_a_forked_child_has_none_of_it() -> None:
    """It can go on with the stack's sockets; the monitor is the parent's."""
    async with aioioth.Stack("null://") as stack:
        async with told(stack, events.AddressAdded) as stream:

            def child() -> None:
                stream.close()
                assert stack.sockets() == []
                with stack.socket():
                    pass

            await forked(child)
            await stack.add_address("10.0.0.7/24", dev="vde0")
            event = await anext(stream)
            assert event.interface == "vde0"


async def test_what_was_waited_for_can_be_read_afterwards() -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        monitor = monitor_of(stack)
        ours = Address("10.0.0.1/24", "vde0")
        await monitor.wait_for(lambda now: ours in now.addresses)
        assert monitor.filenos() == ()
        assert ours in monitor.addresses
        await stack.del_address("10.0.0.1/24", dev="vde0")
        await monitor.wait_for(lambda now: ours not in now.addresses)
        monitor.start()
        monitor.start()
        assert len(monitor.filenos()) == 2
        assert ours not in monitor.addresses
        at_once(stack, [ours])
        monitor.refresh()
        assert ours in monitor.addresses
        stack.events(events.KernelEvent).close()
        assert len(monitor.filenos()) == 2
    assert monitor.addresses == ()
    with pytest.raises(errors.ClosedError):
        monitor.start()
