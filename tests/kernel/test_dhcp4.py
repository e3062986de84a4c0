"""Our DHCPv4 client and server, each on a stack of its own."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth._autoconf.dhcp4_actions import State
from aioioth.errors import ClosedError, ConfigurationError
from aioioth.iproute import Neighbour
from aioioth.servers._dhcp4_leases import Standing
from aioioth.servers.dhcp4 import Dhcp4Server, Lease
from aioioth.wire.dhcp4 import REPLY, REQUEST, Message, MessageType, Option
from aioioth.wire.udpip import UdpDatagram
from tests.kernel.dhcp4_hosts import PATIENCE, Host, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

SERVER = "10.0.0.1"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioioth._autoconf.dhcp4_machine._PROBE_PAUSE", 0.02)
    monkeypatch.setattr("aioioth._autoconf.dhcp4._REFUSED_PAUSE", 0.01)
    monkeypatch.setattr("aioioth._autoconf.dhcp4_machine._DECLINED_PAUSE", 0.01)


@pytest.fixture(params=["memory://lan", "bridge://lan"])
def vnl(request: pytest.FixtureRequest) -> str:
    param: str = request.param
    return param


@pytest.fixture
async def enter() -> AsyncIterator[Callable[[Any], Awaitable[Any]]]:
    async with AsyncExitStack() as undo:
        yield undo.enter_async_context


Enter = Any


async def network(enter: Enter, vnl: str, **options: Any) -> tuple[Dhcp4Server, Host]:
    """Return a server, and a client that has not begun."""
    far = await enter(aioioth.Stack(vnl, ip=f"{SERVER}/24"))
    near = await enter(aioioth.Stack(vnl))
    server = await enter(Dhcp4Server(far, **options))
    return server, Host(near)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.005)


class Seen:
    """What a server's callbacks were told."""

    def __init__(self) -> None:
        self.leases: list[Lease] = []
        self.ended: asyncio.Queue[Lease] = asyncio.Queue()

    async def end(self) -> Lease:
        async with asyncio.timeout(PATIENCE):
            return await self.ended.get()


async def test_a_lease_and_its_end(enter: Enter, vnl: str) -> None:
    seen = Seen()
    server, host = await network(
        enter,
        vnl,
        pool="10.0.0.100-10.0.0.199",
        dns="10.0.0.53",
        domain=["example", "example.org"],
        mtu=1400,
        on_lease=seen.leases.append,
        on_end=seen.ended.put_nowait,
    )
    async with running(host):
        assert await host.bound() == "10.0.0.100"
        assert host.findings is not None
        [address] = host.findings.addresses
        assert str(address.address) == "10.0.0.100/24"
        assert address.valid is not None
        assert 3000 < address.valid <= 3600
        [route] = host.findings.routes
        words = f"default via {SERVER} dev {host.dev} metric 1000"
        assert str(route) == words
        assert host.findings.dns == (ipaddress.ip_address("10.0.0.53"),)
        assert host.findings.domains == ("example", "example.org")
        assert host.findings.mtu == 1400
        [lease] = server.leases
        assert str(lease.address) == "10.0.0.100"
        assert lease.mac == host.interface.mac
        assert seen.leases == [lease]
    # It is given back.
    assert await seen.end() == lease
    assert server.leases == ()


async def test_many_clients(enter: Enter, vnl: str) -> None:
    far = await enter(aioioth.Stack(vnl, ip=f"{SERVER}/28"))
    server = await enter(Dhcp4Server(far))
    hosts = []
    for number in range(5):
        near = await enter(aioioth.Stack(vnl))
        hosts.append(await enter(running(Host(near, f"host{number}.example"))))
    addresses = {await host.bound() for host in hosts}
    assert addresses == {f"10.0.0.{number}" for number in range(2, 7)}
    assert {lease.name for lease in server.leases} == {
        f"host{number}.example" for number in range(5)
    }
    # Over IP, from one to another.
    text = b"hello"

    async def serve(reader: Any, writer: Any) -> None:
        writer.write(await reader.readexactly(len(text)))
        writer.close()

    async with await hosts[0].stack.start_server(serve, hosts[0].address, 7):
        reader, writer = await hosts[1].stack.open_connection(hosts[0].address, 7)
        writer.write(text)
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == text
        writer.close()
        await writer.wait_closed()


async def test_a_lease_is_renewed(enter: Enter, vnl: str) -> None:
    server, host = await network(enter, vnl, lease_time=2)
    async with running(host):
        address = await host.bound()
        assert await host.bound(times=2) == address
        assert not any(isinstance(each, str) for each in host.told)
        assert len(server.leases) == 1


async def test_the_server_goes_and_comes_back(enter: Enter, vnl: str) -> None:
    server, host = await network(enter, vnl, lease_time=1)
    async with running(host):
        address = await host.bound()
        await server.aclose()
        assert await host.lost() == "the lease has expired"
        assert host.findings is None
        host.told.clear()
        await server.open()
        host.source.refresh()
        assert await host.bound() == address


async def test_a_lease_is_revoked(enter: Enter, vnl: str) -> None:
    seen = Seen()
    server, host = await network(enter, vnl, on_end=seen.ended.put_nowait)
    async with running(host):
        address = await host.bound()
        server.revoke(address)
        assert str((await seen.end()).address) == address
        host.renew()
        assert "revoked" in await host.lost()
        host.told.clear()
        assert await host.bound() != address


async def test_refreshing_keeps_the_address(enter: Enter, vnl: str) -> None:
    """As if the cable was out, and is in again."""
    _, host = await network(enter, vnl)
    async with running(host):
        address = await host.bound()
        host.source.refresh()
        assert await host.bound(times=2) == address


async def test_the_network_is_another_one(enter: Enter, vnl: str) -> None:
    """The cable is put in somewhere else, say."""
    server, host = await network(enter, vnl)
    async with running(host):
        await host.bound()
        await server.aclose()
        await server.stack.del_address(f"{SERVER}/24", dev="vde0")
        await server.stack.add_address("10.1.0.1/24", dev="vde0")
        await server.open()
        host.source.refresh()
        assert "10.0.0.2 is not in 10.1.0.0/24" in await host.lost()
        host.told.clear()
        assert await host.bound() == "10.1.0.2"


async def test_an_address_that_somebody_has(
    enter: Enter, vnl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioioth._autoconf.dhcp4_machine._PROBE_PAUSE", 0.2)
    server, host = await network(enter, vnl, pool="10.0.0.2-10.0.0.3")
    await enter(aioioth.Stack(vnl, ip="10.0.0.2/24"))
    async with running(host):
        assert await host.bound() == "10.0.0.3"
        assert server._books is not None
        entry = server._books.at(ipaddress.IPv4Address("10.0.0.2"))
        assert entry is not None
        assert entry.standing is Standing.DECLINED


async def test_an_address_that_somebody_had(enter: Enter, vnl: str) -> None:
    """Who knows him by his MAC address learns that it is another one now."""
    _, host = await network(enter, vnl, pool="10.0.0.2-10.0.0.2")
    third = await enter(aioioth.Stack(vnl, ip="10.0.0.9/24"))
    before = "02:00:00:00:00:66"
    await third.add(Neighbour("10.0.0.2", before, dev="vde0", state="reachable"))

    async def known() -> list[str | None]:
        found = await third.neighbours()
        return [each.mac for each in found if str(each.address) == "10.0.0.2"]

    assert await known() == [before]
    async with running(host):
        await host.bound()
        async with asyncio.timeout(PATIENCE):
            while await known() != [host.interface.mac]:
                await asyncio.sleep(0.01)


async def test_what_the_kernel_refuses_is_tried_again(
    enter: Enter, vnl: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, host = await network(enter, vnl)
    host.refusals = 2
    async with running(host):
        await host.bound()
        assert host.told[:2] == ["refused", "refused"]
    [warning, *_] = [each for each in caplog.records if each.levelname == "WARNING"]
    assert "ip address add: Operation not permitted" in warning.getMessage()


def hostile_frames(mac: bytes) -> list[bytes]:
    """Return frames that offer an address in every way that does not count."""

    def offer(**changes: Any) -> bytes:
        fields = {"xid": 7, "mac": mac, "yours": ipaddress.IPv4Address("10.66.0.6")}
        options = {
            Option.MESSAGE_TYPE: bytes([MessageType.OFFER]),
            Option.SERVER: bytes([10, 66, 0, 1]),
            **changes.pop("options", {}),
        }
        return Message(REPLY, options=options, **{**fields, **changes}).pack()

    def packet(data: bytes, port: int = 67) -> bytes:
        here, there = map(ipaddress.IPv4Address, ("10.66.0.1", "255.255.255.255"))
        return UdpDatagram(here, port, there, 68, data).pack()

    good = packet(offer())
    frames = [
        packet(b""),
        packet(b"nonsense" * 50),
        packet(offer(xid=8)),
        packet(offer(mac=b"\2\0\0\0\0\1")),
        packet(offer(yours=ipaddress.IPv4Address("127.0.0.1"))),
        packet(offer(options={Option.MESSAGE_TYPE: b"\x63"})),
        packet(offer(options={Option.SERVER: b""})),
        packet(offer(), port=53),
        good[:100],
        good[:26] + b"\x12\x34" + good[28:],  # UDP's checksum
    ]
    everybody = b"\xff" * 6 + b"\2\0\0\0\0\x66"
    return [
        *(everybody + b"\x08\0" + each for each in frames),
        # On another VLAN, and to another station.
        everybody + bytes.fromhex("8100 0042 0800") + good,
        b"\2\0\0\0\0\x99" + everybody[6:] + b"\x08\0" + good,
    ]


async def test_hostile_servers(enter: Enter, vnl: str) -> None:
    """Who knows the transaction, and sends what is nothing, before the right answer."""
    server, host = await network(enter, vnl)
    await server.aclose()
    mac = bytes.fromhex(host.interface.mac.replace(":", ""))
    machine = host.source._machine
    machine._new_xid = lambda: 7
    async with running(host):
        await until(lambda: machine.state is State.SELECTING)
        sock = server.stack.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        with sock:
            sock.bind(("vde0", 0))
            for frame in hostile_frames(mac) * 3:
                sock.send(frame)
        await server.open()
        host.source.refresh()
        assert await host.bound() == "10.0.0.2"
        assert len(host.told) == 1


async def test_a_right_one_among_the_hostile(enter: Enter) -> None:
    """So that the test above would see it."""
    server, host = await network(enter, "memory://lan")
    await server.aclose()
    mac = bytes.fromhex(host.interface.mac.replace(":", ""))
    machine = host.source._machine
    machine._new_xid = lambda: 7
    async with running(host):
        with server.stack.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.bind(("vde0", 0))
            good = bytearray(hostile_frames(mac)[-1])
            good[:6] = mac
            await until(lambda: machine.state is State.SELECTING)
            sock.send(good)
            await until(lambda: machine.state is State.REQUESTING)


async def test_in_a_thread(enter: Enter, vnl: str) -> None:
    """The server's stack lives in the pump thread."""
    far = await enter(aioioth.Stack(vnl, ip=f"{SERVER}/24", pump_thread=True))
    host = Host(await enter(aioioth.Stack(vnl)))
    async with Dhcp4Server(far) as server, running(host):
        address = await host.bound()
        assert [str(lease.address) for lease in server.leases] == [address]
        server.revoke(address)
        host.renew()
        assert "revoked" in await host.lost()


# The server


def request(kind: MessageType, **fields: Any) -> bytes:
    options = {Option.MESSAGE_TYPE: bytes([kind]), **fields.pop("options", {})}
    mac = bytes.fromhex("020000000009")
    return Message(REQUEST, 1, mac, options, **fields).pack()


async def test_what_is_ignored_is_counted(enter: Enter, vnl: str) -> None:
    server, host = await network(enter, vnl)
    async with running(host):
        address = await host.bound()
        sock = host.stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for data in (
                b"",
                b"nonsense" * 100,
                request(MessageType.DISCOVER, relay=ipaddress.IPv4Address(address)),
                request(MessageType.OFFER),
                request(MessageType.RELEASE),
            ):
                sock.sendto(data, (SERVER, 67))
        host.source.refresh()
        await host.bound(times=2)  # all of it has been read by then
    assert server.ignored["malformed"] == 2
    assert server.ignored["relayed"] == 1
    assert server.ignored["not a client's message"] == 1
    assert server.ignored["for another server"] == 1


async def test_informing(enter: Enter, vnl: str) -> None:
    """Somebody who has an address wants to know the rest."""
    _, host = await network(enter, vnl, domain="example")
    own = ipaddress.IPv4Address("10.0.0.77")
    await host.stack.add_address(f"{own}/24", dev=host.dev)
    loop = asyncio.get_running_loop()
    with host.stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((str(own), 68))
        await host.stack.sock_connect(sock, (SERVER, 67))
        sock.send(request(MessageType.INFORM, client=own))
        async with asyncio.timeout(PATIENCE):
            answer = Message.parse(await loop.sock_recv(sock, 2000))
    assert answer.type is MessageType.ACK
    assert answer.domains == ("example",)
    assert Option.LEASE_TIME not in answer.options
    assert int(answer.yours) == 0


@pytest.mark.parametrize(
    ("ip", "options", "complaint"),
    [
        ("fd00::1/64", {}, "has no IPv4 address"),
        ("10.0.0.1/32", {}, "no address left"),
        ("10.0.0.1/24", {"pool": "10.0.0.1-10.0.0.1"}, "no address left"),
        ("10.0.0.1/24", {"pool": "10.0.1.0/24"}, "not in 10.0.0.0/24"),
        ("10.0.0.1/24", {"reservations": {"me": "10.0.0.1"}}, "no client's address"),
    ],
    ids=str,
)
async def test_what_cannot_be_served(
    ip: str, options: dict[str, Any], complaint: str
) -> None:
    async with aioioth.Stack("null://", ip=ip) as stack:
        server = Dhcp4Server(stack, **options)
        with pytest.raises(ConfigurationError, match=complaint):
            await server.open()
        with pytest.raises(ClosedError):
            server.revoke("10.0.0.2")


async def test_which_interface() -> None:
    async with aioioth.Stack("null://", "null://", ip="10.0.0.1/24") as stack:
        with pytest.raises(ConfigurationError, match=r"'eth9'.* are: vde0, vde1"):
            await Dhcp4Server(stack, dev="eth9").open()
        async with Dhcp4Server(stack) as server:  # on the first one
            with pytest.raises(OSError) as caught:
                await Dhcp4Server(stack, dev="vde0").open()
            assert caught.value.errno == errno.EADDRINUSE
            with pytest.raises(ConfigurationError, match=r"leases are: none"):
                server.revoke("10.0.0.2")
