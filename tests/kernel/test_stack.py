"""A stack's life: opened, configured, used, closed."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

import aioioth
from aioioth import errors


@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1"])
async def test_two_stacks_talk(device: str, host: str, echo: Any, ask: Any) -> None:
    left_ip, right_ip = ["10.0.0.1/24", "fd00::1/64"], ["10.0.0.2/24", "fd00::2/64"]
    async with (
        aioioth.Stack("memory://lan", ip=left_ip, device=device) as left,
        aioioth.Stack("memory://lan", ip=right_ip, device=device) as right,
    ):
        assert left.interfaces["vde0"].device == device
        async with await left.start_server(echo, host, 7):
            text = b"hello" * 20000
            assert await ask(right, host, text) == text
        assert aioioth.stacks() == (left, right)
    assert aioioth.stacks() == ()


async def test_lo_is_up_without_a_network(echo: Any, ask: Any) -> None:
    async with aioioth.Stack(ip={"lo": "10.9.9.9/32"}) as stack:
        assert dict(stack.interfaces) == {}
        for host in "127.0.0.1", "::1", "localhost", "10.9.9.9":
            async with await stack.start_server(echo, host, 7):
                assert await ask(stack, host, b"self") == b"self"


async def test_the_host_does_not_see_the_port(echo: Any) -> None:
    async with aioioth.Stack() as stack, await stack.start_server(echo, None, 7777):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", 7777)


async def test_several_interfaces(device: str, echo: Any, ask: Any) -> None:
    async with (
        aioioth.Stack(
            "memory://one",
            "eth1:memory://two",
            ip={"vde0": "10.1.0.1/24", "eth1": ["10.2.0.1/24", "fd02::1/64"]},
            mtu={"eth1": 1400},
            mac={"eth1": "02:00:00:00:00:17"},
            device=device,
        ) as middle,
        aioioth.Stack("memory://two", ip="10.2.0.2/24", device=device) as far,
    ):
        assert list(middle.interfaces) == ["vde0", "eth1"]
        assert middle.interfaces["vde0"].mtu == 1500
        assert middle.interfaces["eth1"].mtu == 1400
        assert middle.interfaces["eth1"].mac == "02:00:00:00:00:17"
        async with await middle.start_server(echo, "10.2.0.1", 7):
            assert await ask(far, "10.2.0.1", b"x") == b"x"
        assert middle.stats()["eth1"].received.frames > 0
        with pytest.raises(OSError, match=r"unreachable|Connect call failed") as caught:
            await far.open_connection("10.1.0.1", 7)
        assert caught.value.errno == errno.ENETUNREACH


async def test_the_same_address_on_two_networks(echo: Any, ask: Any) -> None:
    """Two servers with one address and port, in one process, and no cross talk."""

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    async with (
        aioioth.Stack("memory://quiet", ip="10.0.0.1/24") as quiet,
        aioioth.Stack("memory://loud", ip="10.0.0.1/24") as loud,
        aioioth.Stack("memory://quiet", ip="10.0.0.2/24") as quiet_client,
        aioioth.Stack("memory://loud", ip="10.0.0.2/24") as loud_client,
        await quiet.start_server(echo, "10.0.0.1", 7),
        await loud.start_server(shout, "10.0.0.1", 7),
    ):
        assert await ask(quiet_client, "10.0.0.1", b"Hello") == b"Hello"
        assert await ask(loud_client, "10.0.0.1", b"Hello") == b"HELLO"


async def test_through_a_gateway(device: str, echo: Any, ask: Any) -> None:
    async with (
        aioioth.Stack(
            "memory://left",
            ip=["10.1.0.2/24", "fd01::2/64"],
            gw=["10.1.0.1", "fd01::1"],
            device=device,
        ) as left,
        aioioth.Stack(
            "memory://left",
            "memory://right",
            ip={
                "vde0": ["10.1.0.1/24", "fd01::1/64"],
                "vde1": ["10.2.0.1/24", "fd02::1/64"],
            },
            device=device,
        ) as router,
        aioioth.Stack("memory://right", ip=["10.2.0.2/24", "fd02::2/64"]) as right,
    ):
        await right.add_route("10.1.0.0/24", via="10.2.0.1")
        await right.add_route("fd01::/64", via="fd02::1", dev="vde0")
        await router.sysctl("net.ipv4.ip_forward", 1)
        await router.sysctl("net/ipv6/conf/all/forwarding", 1)
        for host in "10.2.0.2", "fd02::2":
            async with await right.start_server(echo, host, 7):
                assert await ask(left, host, b"far") == b"far"


async def test_a_switch_as_network(device: str, echo: Any, ask: Any) -> None:
    switch = aioioth.Switch(name="the lab")
    seen: list[bytes] = []
    unwatch = switch.watch(seen.append)
    async with (
        aioioth.Stack(switch, ip="10.0.0.1/24", name="one", device=device) as one,
        aioioth.Stack(switch, ip="10.0.0.2/24", device=device) as two,
    ):
        assert next(port.label for port in switch.ports) == "aioioth one"
        async with await one.start_server(echo, "10.0.0.1", 7):
            assert await ask(two, "10.0.0.1", b"seen by all") == b"seen by all"
    unwatch()
    assert any(b"seen by all" in frame for frame in seen)
    assert switch.ports == ()


async def test_what_the_switch_lost_is_counted(device: str) -> None:
    switch = aioioth.Switch()
    flood = await switch.open("flood")
    async with aioioth.Stack(switch, ip="10.0.0.1/24", device=device) as stack:
        for _ in range(3000):  # with no turn of the loop in between
            flood.send(b"\xff" * 6 + b"\x02" + bytes(53))
        assert stack.stats()["vde0"].received.drops == {"queue full": 3000 - 2048}
    flood.close()


async def test_link_local_addresses(device: str, echo: Any, ask: Any) -> None:
    """An interface has one as soon as it has any IPv6 address, and not before."""
    async with (
        aioioth.Stack(
            "memory://lan", ip="fd00::1/64", mac="02:00:00:00:00:01", device=device
        ) as one,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24", device=device) as two,
    ):
        async with await one.start_server(echo, "fe80::ff:fe00:1%vde0", 7):
            with pytest.raises(OSError):
                await two.open_connection("fe80::ff:fe00:1%vde0", 7)
            await two.add_address("fd00::2/64", dev="vde0")
            assert await ask(two, "fe80::ff:fe00:1%vde0", b"ll") == b"ll"


async def test_addresses_and_routes_come_and_go() -> None:
    async with aioioth.Stack("null://") as stack:

        async def addresses() -> set[str]:
            return {
                message.get("address")
                async for message in await stack.netlink.get_addr(family=socket.AF_INET)
            }

        await stack.add_address("10.0.0.1/24", dev="vde0")
        assert await addresses() == {"127.0.0.1", "10.0.0.1"}
        with pytest.raises(
            errors.NetlinkError,
            match=r"ip address add 10.0.0.1/24 dev vde0: File exists",
        ) as caught:
            await stack.add_address("10.0.0.1/24", dev="vde0")
        assert caught.value.errno == errno.EEXIST
        await stack.add_route("10.5.0.0/16", via="10.0.0.254")
        with pytest.raises(errors.NetlinkError, match="File exists"):
            await stack.add_route("10.5.0.0/16", via="10.0.0.254")
        await stack.del_route("10.5.0.0/16", via="10.0.0.254")
        with pytest.raises(errors.NetlinkError, match="No such process"):
            await stack.del_route("10.5.0.0/16", via="10.0.0.254")
        await stack.del_address("10.0.0.1/24", dev="vde0")
        assert await addresses() == {"127.0.0.1"}
        with pytest.raises(errors.NetlinkError, match="dev nope: No such device"):
            await stack.add_address("10.0.0.1/24", dev="nope")
        with pytest.raises(errors.ConfigurationError, match="no network"):
            await stack.add_route("10.0.0.1/8")


async def test_one_link_local_address_made_of_the_mac(device: str) -> None:
    async with aioioth.Stack(
        "null://", ip="fd00::1/64", mac="02:00:00:00:00:05", device=device
    ) as stack:
        addresses = {
            message.get("address")
            async for message in await stack.netlink.get_addr(
                family=socket.AF_INET6, index=stack.interfaces["vde0"].index
            )
        }
        assert addresses == {"fd00::1", "fe80::ff:fe00:5"}


async def test_sysctls() -> None:
    async with aioioth.Stack() as stack:
        with pytest.raises(FileNotFoundError, match="sysctl net/ipv4/nope=1"):
            await stack.sysctl("net.ipv4.nope", 1)
        for name in "kernel.hostname", "net/../kernel/hostname", "net.x\ny":
            with pytest.raises(errors.ConfigurationError, match="no sysctl of a stack"):
                await stack.sysctl(name, 1)


async def test_strict_close_names_what_is_open(echo: Any) -> None:
    stack = await aioioth.Stack(name="held").open()
    sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with pytest.raises(
        errors.BusyError, match=f"fd {sock.fileno()}: AF_INET"
    ) as caught:
        await stack.aclose(strict=True)
    assert caught.value.errno == errno.EBUSY
    sock.close()
    server = await stack.start_server(echo, "127.0.0.1", 7)
    with pytest.raises(errors.BusyError, match=r"'127\.0\.0\.1', 7"):
        await stack.aclose(strict=True)
    server.close()
    await server.wait_closed()
    await stack.aclose(strict=True)
    await stack.aclose(strict=True)


async def test_accepted_and_duplicated_sockets_count() -> None:
    async with aioioth.Stack() as stack:
        with stack.socket() as listener, stack.socket() as client:
            listener.bind(("127.0.0.1", 7))
            listener.listen()
            client.setblocking(True)
            client.connect(("127.0.0.1", 7))
            with listener.accept()[0], client.dup():
                assert len(stack.sockets()) == 4
        assert stack.sockets() == []


async def test_sockets_survive_the_stack(echo: Any) -> None:
    """A close that is not strict leaves sockets to their owners."""
    stack = await aioioth.Stack().open()
    with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 9))
        await stack.aclose()
        assert sock.getsockname() == ("127.0.0.1", 9)


async def test_a_closed_stack_says_so(echo: Any) -> None:
    stack = aioioth.Stack(name="shut")
    with pytest.raises(errors.ClosedError, match="stack 'shut' is not open: use"):
        stack.socket()
    await stack.open()
    with pytest.raises(errors.BusyError, match="stack 'shut' is open already"):
        await stack.open()
    await stack.aclose()
    await stack.aclose()
    for use in (stack.socket, stack.sockets, stack.stats, stack.events):
        with pytest.raises(errors.ClosedError, match="stack 'shut' is closed: make"):
            use()
    for coroutine in (
        stack.open(),
        stack.open_connection("127.0.0.1", 7),
        stack.start_server(echo, "127.0.0.1", 7),
        stack.add_address("10.0.0.1/24", dev="vde0"),
        stack.add_route("10.0.0.0/8", dev="vde0"),
    ):
        with pytest.raises(errors.ClosedError, match="stack 'shut' is closed: make"):
            await coroutine


async def test_another_loop_is_refused(echo: Any) -> None:
    """What opens sockets is for every loop; what configures, for the stack's own."""
    async with aioioth.Stack(name="mine") as stack:

        def elsewhere() -> None:
            stack.socket().close()

            async def serve() -> None:
                server = await stack.start_server(echo, "127.0.0.1", 7)
                _, writer = await stack.open_connection("127.0.0.1", 7)
                writer.close()
                await writer.wait_closed()
                server.close()
                await server.wait_closed()

            asyncio.run(serve())

            async def events() -> None:
                stack.events()

            for use in (
                lambda: stack.add_address("10.0.0.1/24", dev="vde0"),
                lambda: stack.sysctl("net.ipv4.ip_forward", 1),
                events,
                stack.aclose,
            ):
                with pytest.raises(errors.WrongLoopError, match="another event loop"):
                    asyncio.run(use())

        await asyncio.to_thread(elsewhere)
        assert stack in aioioth.stacks()


async def test_sockets_of_every_family() -> None:
    async with aioioth.Stack() as stack:
        for family, kind, proto in (
            (socket.AF_INET, socket.SOCK_STREAM, 0),
            (socket.AF_INET6, socket.SOCK_DGRAM, 0),
            (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            (socket.AF_PACKET, socket.SOCK_RAW, 0),
            (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE),
            (socket.AF_UNIX, socket.SOCK_STREAM, 0),
        ):
            with stack.socket(family, kind, proto) as sock:
                assert (sock.family, sock.type) == (family, kind)
                assert sock.getblocking() is False
                assert sock.get_inheritable() is False
        with pytest.raises(OSError, match="Address family not supported") as caught:
            stack.socket(12345, 1, 0)
        assert caught.value.errno == errno.EAFNOSUPPORT
        assert stack.sockets() == []


async def test_privileged_ports_and_nothing_inheritable(echo: Any) -> None:
    before = set(os.listdir("/proc/self/fd"))
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24") as stack,
        await stack.start_server(echo, "10.0.0.1", 80),
    ):
        for name in set(os.listdir("/proc/self/fd")) - before:
            if Path(f"/proc/self/fd/{name}").exists():
                assert not os.get_inheritable(int(name)), name


async def test_a_packet_socket_where_tap_is_refused(tap_opens: bool) -> None:
    """The choice is automatic, and forcing a TAP says what to do."""
    async with aioioth.Stack("null://") as stack:
        assert stack.interfaces["vde0"].device == ("tap" if tap_opens else "packet")
    if not tap_opens:
        with pytest.raises(
            errors.MissingPrivilegeError, match=r"chmod 0666 /dev/net/tun"
        ):
            await aioioth.Stack("null://", device="tap").open()


async def test_more_mtu_than_the_network_carries(device: str) -> None:
    class Narrow:
        async def open(self, label: str) -> Any:
            port = await aioioth.Switch().open(label)
            port.mtu = 1000
            return port

    async with aioioth.Stack(Narrow(), device=device) as stack:
        assert stack.interfaces["vde0"].mtu == 1000
    with pytest.raises(
        errors.ConfigurationError, match=r"mtu=1001 for vde0: .* 1000 at"
    ):
        await aioioth.Stack(Narrow(), mtu=1001, device=device).open()


@pytest.mark.parametrize("mtu", [576, 9000, 65517])
async def test_frames_of_every_size(device: str, mtu: int, echo: Any, ask: Any) -> None:
    async with (
        aioioth.Stack("memory://m", ip="10.0.0.1/24", mtu=mtu, device=device) as one,
        aioioth.Stack("memory://m", ip="10.0.0.2/24", mtu=mtu, device=device) as two,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        assert await ask(two, "10.0.0.1", bytes(300_000)) == bytes(300_000)
        stats = one.stats()["vde0"]
        assert stats.received.drops == stats.sent.drops == {}


async def test_an_interface_that_is_deleted(device: str) -> None:
    """`ip link del` under our feet: an event says so, and closing still works."""
    async with aioioth.Stack("memory://lan", ip="10.0.0.1/24", device=device) as stack:
        events = stack.events(aioioth.events.StackEvent)
        interface = stack.interfaces["vde0"]
        async with aioioth.Stack(
            "memory://lan", ip="10.0.0.2/24", device=device
        ) as two:
            await stack.netlink.link("del", index=interface.index)
            with two.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sock.sendto(b"anybody?", ("10.0.0.255", 9))
                async with asyncio.timeout(10):
                    event = await anext(events)
            assert isinstance(event, aioioth.CarrierDown)
            assert "interface is gone" in event.cause
        assert not interface.attached


async def test_kernel_kind_is_the_hosts_own_stack(echo: Any) -> None:
    async with aioioth.Stack(kind="kernel") as stack:
        async with await stack.start_server(echo, "127.0.0.1", 7777):
            reader, writer = await asyncio.open_connection("127.0.0.1", 7777)
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            writer.close()
            await writer.wait_closed()
        sock = stack.socket()
        with pytest.raises(errors.BusyError):
            await stack.aclose(strict=True)
        sock.close()
    with pytest.raises(errors.ConfigurationError, match="leave out VNLs"):
        await aioioth.Stack("null://", kind="kernel").open()
