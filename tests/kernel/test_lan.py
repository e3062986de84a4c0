"""A network whose members get addresses and names by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.errors import (
    BrokenTransportError,
    BusyError,
    ConfigurationError,
    NotConfiguredError,
)
from aioioth.hashes import eui64_address
from aioioth.servers import DnsServer, Lan, lan as lan_module

if TYPE_CHECKING:
    from aioioth import Stack


async def addresses(stack: Stack) -> set[str]:
    """Return the addresses of the first interface, but for the link-local ones."""
    found = [each.address.ip for each in await stack.addresses("vde0")]
    return {str(each) for each in found if not each.is_link_local}


async def names_of(stack: Stack, name: str) -> set[str]:
    infos = await stack.getaddrinfo(name, 7, type=socket.SOCK_STREAM)
    return {str(info[4][0]) for info in infos}


@pytest.mark.parametrize("vnl", ["memory://lan", "bridge://lan"])
async def test_stacks_find_each_other_by_name(vnl: str, echo: Any, ask: Any) -> None:
    async with Lan(vnl) as lan:
        web, db = lan.stack("web"), lan.stack("db")
        # Both look for duplicate addresses for a second, at the same time.
        await asyncio.gather(web.open(), db.open())
        async with contextlib.aclosing(web), contextlib.aclosing(db):
            for name in ("db", "db.lan", "DB.lan."):
                assert await names_of(web, name) == await addresses(db)
            assert {ipaddress.ip_address(a).version for a in await addresses(db)} == {
                4,
                6,
            }
            async with await db.start_server(echo, None, 7):
                for address in ("db", *await addresses(db)):
                    assert await ask(web, address, b"hello") == b"hello"
            [db4] = [a for a in await addresses(db) if ":" not in a]
            assert await web.getnameinfo((db4, 7)) == ("db.lan", "echo")
            with pytest.raises(socket.gaierror):
                await names_of(web, "nobody")
            assert await names_of(web, "gateway") == {"10.0.0.1", "fd00::1"}


async def test_who_leaves_has_no_name_any_more() -> None:
    async with Lan("memory://lan", ipv6=None) as lan:
        async with lan.stack("web"):
            assert "web.lan" in lan.hosts
        # A packet of farewell: it comes, but nobody answers to it.
        while "web.lan" in lan.hosts:
            await asyncio.sleep(0.01)
    assert not lan.hosts


@pytest.mark.parametrize(
    ("options", "version"), [({"ipv6": None}, 4), ({"ipv4": None}, 6)]
)
async def test_one_family_alone(options: dict[str, Any], version: int) -> None:
    async with Lan("memory://lan", **options) as lan, lan.stack("web") as web:
        [address] = await addresses(web)
        assert ipaddress.ip_address(address).version == version
        assert await names_of(web, "web") == {address}


async def test_networks_domain_and_hosts_of_ones_own() -> None:
    hosts = aioioth.Hosts({"printer.office": "192.168.7.9"})
    lan = Lan(
        "memory://lan", ipv4="192.168.7.0/28", ipv6=None, domain="office", hosts=hosts
    )
    async with lan, lan.stack("web") as web:
        [address] = await addresses(web)
        assert ipaddress.ip_address(address) in ipaddress.ip_network("192.168.7.0/28")
        assert web.resolv_conf() == "nameserver 192.168.7.1\nsearch office\n"
        assert await names_of(web, "printer") == {"192.168.7.9"}
        hosts["late.office"] = "192.168.7.8"
        assert await names_of(web, "late") == {"192.168.7.8"}
    assert dict(hosts).keys() == {"printer.office", "late.office"}


async def test_nobody_takes_a_name_that_is_taken() -> None:
    async with Lan("memory://lan", ipv6=None) as lan:
        async with lan.stack("web") as web, lan.stack("web") as second:
            assert await names_of(second, "web") == await addresses(web)
        async with lan.stack("gateway") as impostor:
            assert await names_of(impostor, "gateway") == {"10.0.0.1"}
        hosts = dict(lan.hosts)
        assert hosts["gateway.lan"] == (ipaddress.ip_address("10.0.0.1"),)


async def test_hosts_make_their_own_addresses_if_they_may() -> None:
    """The kernel does, which asks by router solicitation only."""
    async with Lan("memory://lan", ipv4=None, slaac=True) as lan:
        async with aioioth.Stack("memory://lan") as host:
            assert lan.gateway.interfaces.keys() == {"vde0"}
            await host.sysctl("net.ipv6.conf.vde0.accept_ra", 2)
            async with asyncio.timeout(20):
                await host.set_link("vde0", up=False)
                await host.sysctl("net.ipv6.conf.vde0.addr_gen_mode", 0)
                await host.set_link("vde0", up=True)
                mac = host.interfaces["vde0"].mac
                wanted = str(eui64_address(mac, "fd00::"))
                while wanted not in await addresses(host):
                    await asyncio.sleep(0.05)


async def test_a_router_forwards(echo: Any, ask: Any) -> None:
    async with Lan("memory://lan", router=True, ipv6=None) as lan:
        await lan.gateway.add_interface("memory://wan", "wan", ip="10.9.0.1/24")
        async with (
            lan.stack("web") as web,
            aioioth.Stack("memory://wan", ip="10.9.0.2/24", gw="10.9.0.1") as far,
            await far.start_server(echo, None, 7),
        ):
            assert await ask(web, "10.9.0.2", b"far") == b"far"


async def test_no_router_no_way_out() -> None:
    async with Lan("memory://lan", ipv6=None) as lan, lan.stack("web") as web:
        with pytest.raises(OSError, match="unreachable"):
            await web.open_connection("10.9.0.2", 7)


async def test_nobody_else_hears_questions_about_our_own() -> None:
    """All else is asked of others."""
    async with (
        aioioth.Stack("memory://wan", ip="10.9.0.9/24") as far,
        DnsServer(far, records="* A 10.9.0.1\n* PTR liar.example.") as liar,
        Lan("memory://lan", forward="10.9.0.9") as lan,
    ):
        await lan.gateway.add_interface("memory://wan", "wan", ip="10.9.0.1/24")
        gateway = lan.gateway
        assert await names_of(gateway, "web.example") == {"10.9.0.1"}
        asked = liar.stats
        for address in (("10.0.0.77", 7), ("fd00::77", 7, 0, 0)):
            assert (await gateway.getnameinfo(address))[0] == address[0]
        with pytest.raises(socket.gaierror):
            await names_of(gateway, "nobody.lan")
        assert liar.stats == asked


@pytest.mark.parametrize(
    ("network", "zone"),
    [
        ("10.0.0.0/24", "0.0.10.in-addr.arpa."),
        ("192.168.7.16/28", "7.168.192.in-addr.arpa."),
        ("172.16.0.0/12", "172.in-addr.arpa."),
        ("fd00::/64", f"{'0.' * 13}0.d.f.ip6.arpa."),
    ],
)
def test_zones_of_addresses(network: str, zone: str) -> None:
    assert lan_module._reverse_zone(ipaddress.ip_network(network)) == zone


async def test_opened_again() -> None:
    lan = Lan("memory://lan", ipv6=None)
    async with lan:
        with pytest.raises(BusyError, match="lan 'lan' is open already"):
            await lan.open()
    stack = lan.stack("web", timeout=0.1)
    with pytest.raises(NotConfiguredError):
        await stack.open()


async def test_a_network_that_cannot_be_joined_leaves_nothing() -> None:
    lan = Lan("vde:///nonexistent", ipv6=None)
    for _ in range(2):
        with pytest.raises(BrokenTransportError):
            await lan.open()


async def test_many_at_once() -> None:
    async with Lan("bridge://lan", ipv6=None):
        async with aioioth.open_stacks(
            8, "bridge://lan", name="s", dhcp=True
        ) as stacks:
            found = [await addresses(stack) for stack in stacks]
            assert len(set().union(*found)) == 8
            assert await names_of(stacks[0], "s8") == found[7]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ipv4": None, "ipv6": None}, "needs ipv4= or ipv6="),
        ({"ipv4": "fd00::/64"}, "must be an IPv4 network"),
        ({"ipv6": "fd00::/48"}, "a /64 of IPv6"),
        ({"ipv4": "10.0.0.1/24"}, "is no network"),
        ({"domain": "no domain"}, "is no name"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Lan("memory://lan", **options)
