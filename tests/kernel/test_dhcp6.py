"""Our DHCPv6 client and server, each on a stack of its own."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING

import pytest

import aioioth
from aioioth._autoconf.findings import Findings
from aioioth._receiver import Receiver
from aioioth.errors import ConfigurationError
from aioioth.servers.dhcp6 import Dhcp6Server, Lease6
from aioioth.wire.dhcp6 import Association, Kind, LeasedAddress, Message, duid_of
from tests.kernel.dhcp6_hosts import PATIENCE, Host, configured, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioioth._receiver import Datagram

POOL = IPv6Network("fd00::1:0/112")
MAC = "02:00:00:00:00:09"


@pytest.fixture
def vnl(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "memory://dhcp6")


@pytest.fixture
async def gateway(vnl: str) -> AsyncIterator[aioioth.Stack]:
    async with aioioth.Stack(vnl, name="gateway", ip="fd00::1/64") as stack:
        yield stack


class Journal:
    """What a server tells."""

    def __init__(self) -> None:
        self.given: list[Lease6] = []
        self.ended: list[Lease6] = []
        self._news = asyncio.Event()

    def on_lease(self, lease: Lease6) -> None:
        self.given.append(lease)
        self._news.set()

    def on_end(self, lease: Lease6) -> None:
        self.ended.append(lease)
        self._news.set()

    async def until(self, *, given: int = 0, ended: int = 0) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.given) < given or len(self.ended) < ended:
                self._news.clear()
                await self._news.wait()


@pytest.mark.parametrize("vnl", ["memory://dhcp6", "bridge://dhcp6"], indirect=True)
async def test_an_address_and_names(vnl: str, gateway: aioioth.Stack) -> None:
    journal = Journal()
    async with (
        Dhcp6Server(
            gateway,
            dns=["fd00::53", "fe80::53"],
            domain="lab",
            on_lease=journal.on_lease,
            on_end=journal.on_end,
        ) as server,
        configured(vnl, mac=MAC, fqdn="web.lab") as host,
    ):
        address = await host.bound()
        assert IPv6Address(address) in POOL
        assert await host.in_kernel() == {address}
        found = host.told[-1]
        assert isinstance(found, Findings)
        assert [str(each) for each in found.dns] == ["fd00::53", "fe80::53%vde0"]
        assert (found.domains, found.routes) == (("lab",), ())
        [kept] = [
            each
            for each in await host.stack.addresses(host.dev)
            if str(each.address.ip) == address
        ]
        assert kept.valid is not None
        assert kept.valid > 3000
        [lease] = server.leases
        assert str(lease.address) == address
        assert (lease.mac, lease.name, lease.prefix) == (MAC, "web.lab", None)
        assert (lease.duid, lease.iaid) == ("00030001" + MAC.replace(":", ""), 9)
        await journal.until(given=1)
        assert journal.given == [lease]
        assert server.ignored == {}
        host.source.release()
        await journal.until(ended=1)
        assert journal.ended == [lease]
        assert server.leases == ()


async def test_four_messages(vnl: str, gateway: aioioth.Stack) -> None:
    async with (
        Dhcp6Server(gateway, rapid_commit=False),
        configured(vnl) as host,
    ):
        assert IPv6Address(await host.bound()) in POOL


async def test_renewals(vnl: str, gateway: aioioth.Stack) -> None:
    journal = Journal()
    async with (
        Dhcp6Server(gateway, lease_time=2, on_lease=journal.on_lease) as server,
        configured(vnl) as host,
    ):
        address = await host.bound(times=3)
        assert await host.in_kernel() == {address}
        await journal.until(given=3)
        assert len(server.leases) == 1
        assert all(isinstance(each, Findings) for each in host.told)


async def test_a_server_that_goes_and_comes_back(
    vnl: str, gateway: aioioth.Stack
) -> None:
    async with configured(vnl) as host:
        async with Dhcp6Server(gateway, lease_time=1):
            address = await host.bound()
        assert await host.lost() == "the lease is over"
        assert await host.in_kernel() == set()
        async with Dhcp6Server(gateway) as server:
            assert await host.bound() == address
            # It knows it again after it was opened again, too.
            await server.aclose()
            await server.open()
            host.told.clear()
            host.source.refresh()
            assert await host.bound(times=2) == address
            assert [str(each.address) for each in server.leases] == [address]


async def test_revoked(vnl: str, gateway: aioioth.Stack) -> None:
    async with (
        Dhcp6Server(gateway, pool="fd00::5-fd00::5", lease_time=3) as server,
        configured(vnl) as host,
    ):
        assert await host.bound() == "fd00::5"
        with pytest.raises(ConfigurationError, match="leases are: fd00::5"):
            server.revoke("fd00::6")
        server.revoke("fd00::5")
        assert server.leases == ()
        assert await host.lost() == "the server does not give it any more"
        assert await host.bound() == "fd00::5"


async def test_reserved(vnl: str, gateway: aioioth.Stack) -> None:
    async with (
        Dhcp6Server(gateway, reservations={MAC: "fd00::77"}),
        configured(vnl, mac=MAC) as host,
    ):
        assert await host.bound() == "fd00::77"


async def test_somebody_else_has_the_address(vnl: str, gateway: aioioth.Stack) -> None:
    """It is declined, and another one is asked for."""
    journal = Journal()
    async with (
        aioioth.Stack(vnl, ip="fd00::5/64"),
        Dhcp6Server(
            gateway, reservations={MAC: "fd00::5"}, on_end=journal.on_end
        ) as server,
        configured(vnl, mac=MAC, dad=True) as host,
    ):
        assert await host.lost() == "somebody else has fd00::5"
        address = await host.bound()
        assert IPv6Address(address) in POOL
        assert await host.in_kernel() == {address}
        assert [str(each.address) for each in server.leases] == [address]
        assert [str(each.address) for each in journal.ended] == ["fd00::5"]


async def test_a_prefix_for_others(vnl: str, gateway: aioioth.Stack) -> None:
    async with (
        Dhcp6Server(gateway, prefixes="fd00:1::/48", delegated_length=60) as server,
        configured(vnl, prefix_length=60) as host,
    ):
        await host.bound()
        found = host.told[-1]
        assert isinstance(found, Findings)
        [prefix] = found.prefixes
        assert isinstance(prefix, IPv6Network)
        assert prefix.subnet_of(IPv6Network("fd00:1::/48"))
        assert prefix.prefixlen == 60
        assert [each.prefix for each in server.leases] == [None, prefix]


async def test_information_only(vnl: str, gateway: aioioth.Stack) -> None:
    async with (
        Dhcp6Server(gateway, pool=(), dns="fd00::53") as server,
        configured(vnl) as host,
    ):
        await host.until(lambda: bool(host.told))
        found = host.told[-1]
        assert isinstance(found, Findings)
        assert found.addresses == ()
        assert [str(each) for each in found.dns] == ["fd00::53"]
        assert server.leases == ()


async def test_several_clients(vnl: str, gateway: aioioth.Stack) -> None:
    async with (
        Dhcp6Server(gateway) as server,
        configured(vnl) as one,
        configured(vnl) as two,
    ):
        addresses = {await one.bound(), await two.bound()}
        assert {str(each.address) for each in server.leases} == addresses
        assert len(addresses) == 2


async def test_on_a_stack_in_a_thread_of_its_own(vnl: str) -> None:
    async with (
        aioioth.Stack(vnl, ip="fd00::1/64", pump_thread=True) as gateway,
        Dhcp6Server(gateway, lease_time=3) as server,
        configured(vnl) as host,
    ):
        address = await host.bound()
        assert [str(each.address) for each in server.leases] == [address]
        server.revoke(address)
        assert server.leases == ()
        assert await host.lost() == "the server does not give it any more"


# What should not be there


def hostile_socket(host: Host, port: int) -> socket.socket:
    sock = host.space.socket(socket.AF_INET6, socket.SOCK_DGRAM, 0)
    index = host.interface.index
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    sock.bind(("::", port))
    return sock


async def test_hostile_clients(vnl: str, gateway: aioioth.Stack) -> None:
    async with (
        Dhcp6Server(gateway) as server,
        configured(vnl) as host,
    ):
        await host.bound()
        solicit = Message(
            Kind.SOLICIT, 1, client_id=b"someone", associations=(Association(1),)
        )
        messages = {
            "malformed": [b"", b"\x01", b"\0" * 1200, solicit.pack()[:-1]],
            "no client ID": [Message(Kind.REBIND, 1).pack()],
            "for another server": [
                Message(Kind.RENEW, 1, client_id=b"abc", server_id=b"def").pack()
            ],
            "not for servers": [Message(Kind.REPLY, 1, client_id=b"abc").pack()],
        }
        with hostile_socket(host, 1000) as sock:
            for data in (each for some in messages.values() for each in some):
                sock.sendto(data, ("ff02::1:2", 547))
            # Anything else than a link-local address may be from far away.
            await host.stack.add_address("fd00::99/64", dev=host.dev)
            sock.sendto(solicit.pack(), ("fd00::1", 547))
            wanted = {cause: len(some) for cause, some in messages.items()}
            wanted |= {"not from a link-local address": 1}
            # What comes last is answered: so all else was read.
            host.told.clear()
            host.source.refresh()
            await host.bound()
        assert server.ignored == wanted
        assert len(server.leases) == 1


async def test_hostile_servers(vnl: str, gateway: aioioth.Stack) -> None:
    """Neither from another port nor from far away, nor with other IDs."""
    index = gateway.interfaces["vde0"].index
    with ExitStack() as undo:
        heard: asyncio.Queue[Datagram] = asyncio.Queue()
        ear = gateway.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        undo.callback(Receiver(ear, heard.put_nowait).close)
        ear.bind(("::", 547))
        group = IPv6Address("ff02::1:2").packed + index.to_bytes(4, "little")
        ear.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        elsewhere = undo.enter_context(
            gateway.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        )
        far = undo.enter_context(gateway.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        far.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        far.bind(("fd00::1", 547))
        async with configured(vnl, mac=MAC) as host:
            async with asyncio.timeout(PATIENCE):
                datagram = await heard.get()
            solicit = Message.parse(datagram.data)
            assert solicit.kind == Kind.SOLICIT
            assert solicit.client_id == duid_of(host.mac)
            good = Message(
                Kind.REPLY,
                solicit.transaction,
                client_id=solicit.client_id,
                server_id=duid_of(b"\2\0\0\0\0\xee"),
                associations=(giving("fd00::900"),),
                rapid_commit=True,
            )
            bad = replace(good, associations=(giving("fd00::bad"),))
            elsewhere.sendto(bad.pack(), datagram.source)
            far.sendto(bad.pack(), datagram.source)
            for wrong in (
                {"transaction": solicit.transaction ^ 1},
                {"client_id": duid_of(b"\2\0\0\0\0\xee")},
                {"client_id": None},
                {"server_id": None},
                {"kind": Kind.REQUEST},
            ):
                ear.sendto(replace(bad, **wrong).pack(), datagram.source)
            for number in range(200):
                ear.sendto(bad.pack()[: -1 - number % 20], datagram.source)
            ear.sendto(good.pack(), datagram.source)
            assert await host.bound() == "fd00::900"
            assert len(host.told) == 1


def giving(address: str) -> Association:
    return Association(9, leased=(LeasedAddress(IPv6Address(address), 60, 90),))


# What cannot be


async def test_where_a_server_cannot_be(vnl: str, gateway: aioioth.Stack) -> None:
    async with aioioth.Stack(vnl, ip="10.0.0.1/24") as bare:
        with pytest.raises(ConfigurationError, match="ip='fd00::1/64'"):
            await Dhcp6Server(bare).open()
        with pytest.raises(ConfigurationError, match="'vde7'; there are: vde0"):
            await Dhcp6Server(bare, dev="vde7").open()
        async with Dhcp6Server(bare, pool="fd00::100-fd00::1ff"):
            pass
    with pytest.raises(ConfigurationError, match="fd00::1 is the interface's own"):
        await Dhcp6Server(gateway, reservations={MAC: "fd00::1"}).open()
    async with aioioth.Stack(name="lonely") as lonely:
        with pytest.raises(ConfigurationError, match="has no interface; give it a VNL"):
            await Dhcp6Server(lonely).open()
    async with Dhcp6Server(gateway):
        with pytest.raises(OSError) as caught:
            await Dhcp6Server(gateway).open()
        assert caught.value.errno == errno.EADDRINUSE


async def test_one_server_for_each_interface() -> None:
    async with (
        aioioth.Stack(
            "memory://one",
            "memory://two",
            ip={"vde0": "fd01::1/64", "vde1": "fd02::1/64"},
        ) as gateway,
        Dhcp6Server(gateway, dev="vde0"),
        Dhcp6Server(gateway, dev="vde1"),
        configured("memory://one") as one,
        configured("memory://two") as two,
    ):
        assert (await one.bound()).startswith("fd01::1:")
        assert (await two.bound()).startswith("fd02::1:")


async def test_what_callbacks_raise_is_the_loops(
    vnl: str, gateway: aioioth.Stack
) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: complaints.append(context.get("exception"))
    )

    def on_lease(lease: Lease6) -> None:
        raise RuntimeError(str(lease.address))

    async with (
        Dhcp6Server(gateway, on_lease=on_lease) as server,
        configured(vnl) as host,
    ):
        address = await host.bound()
        assert len(server.leases) == 1
    assert [str(each) for each in complaints] == [address]


async def test_a_client_without_a_link_local_address_goes_on() -> None:
    """What cannot be sent is as if it were lost."""
    async with (
        aioioth.Stack("memory://bare", name="gateway", ip="fd00::1/64") as gateway,
        Dhcp6Server(gateway),
        aioioth.Stack("memory://bare") as stack,
    ):
        host = Host(stack)
        async with running(host):
            await asyncio.sleep(0)
            await host.prepare()
            host.source.refresh()
            await host.bound()


async def test_a_kernel_that_refuses(
    vnl: str, gateway: aioioth.Stack, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Dhcp6Server(gateway, lease_time=1),
        aioioth.Stack(vnl) as stack,
    ):
        host = Host(stack)
        await host.prepare()
        host.refusals = 1
        async with running(host):
            await host.bound()
    assert "Permission denied" in caplog.text
