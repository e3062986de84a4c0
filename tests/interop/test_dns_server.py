"""Needs dig, getent, ping, dnsmasq: real programs that ask our DNS server."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.servers.dns import DnsFault, DnsServer, HashZone
from tests.interop.conftest import PATIENCE, need
from tests.interop.programs import name_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MANY = [f"10.1.0.{number}" for number in range(1, 201)]
ZONE = """
$ORIGIN lab.
$TTL 60
@    SOA ns root 1 3600 600 86400 30
@    NS  ns
@    MX  10 mail
ns   A   10.0.0.1
mail A   10.0.0.2
www  CNAME mail
text TXT "two words" more
_sip._udp SRV 1 2 5060 mail
"""


@pytest.fixture
async def stacks() -> AsyncIterator[tuple[aioioth.Stack, aioioth.Stack]]:
    """A stack for a server, 10.0.0.1, and one that asks it."""
    async with (
        aioioth.Stack("memory://dns", ip=["10.0.0.1/24", "fd00::1/64"]) as far,
        aioioth.Stack(
            "memory://dns",
            ip=["10.0.0.9/24", "fd00::9/64"],
            dns="10.0.0.1",
            domain="lab",
        ) as asks,
    ):
        yield far, asks


async def output(stack: aioioth.Stack, *command: str) -> str:
    process = await stack.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(3 * PATIENCE):
        printed, _ = await process.communicate()
    return printed.decode()


async def dig(stack: aioioth.Stack, *arguments: str) -> list[str]:
    """Return the lines that dig prints."""
    need("dig")
    printed = await output(stack, "dig", "+tries=1", *arguments)
    return [line for line in printed.splitlines() if line]


async def short(stack: aioioth.Stack, *arguments: str) -> list[str]:
    return sorted(await dig(stack, "@10.0.0.1", "+short", *arguments))


@pytest.mark.parametrize("way", ["", "+tcp", "+noedns"])
async def test_dig(stacks: tuple[aioioth.Stack, aioioth.Stack], way: str) -> None:
    far, asks = stacks
    options = [way] if way else []
    async with DnsServer(
        far, hosts={"db.lab": ["10.0.0.5", "fd00::5"], "many.lab": MANY}, records=ZONE
    ):
        for arguments, wanted in [
            (["db.lab"], ["10.0.0.5"]),
            (["DB.Lab", "AAAA"], ["fd00::5"]),
            (["lab", "MX"], ["10 mail.lab."]),
            (["lab", "NS"], ["ns.lab."]),
            (["lab", "SOA"], ["ns.lab. root.lab. 1 3600 600 86400 30"]),
            (["www.lab"], ["10.0.0.2", "mail.lab."]),
            (["text.lab", "TXT"], ['"two words" "more"']),
            (["_sip._udp.lab", "SRV"], ["1 2 5060 mail.lab."]),
            (["-x", "10.0.0.5"], ["db.lab."]),
            (["-x", "fd00::5"], ["db.lab."]),
            (["no.lab"], []),
            (["many.lab"], sorted([*MANY])),
        ]:
            found = await short(asks, *options, *arguments)
            wanted_too = [";; Truncated, retrying in TCP mode."]
            assert [each for each in found if each not in wanted_too] == wanted
        for server in "fd00::1", "10.0.0.1":
            assert await dig(asks, f"@{server}", "+short", *options, "db.lab") == [
                "10.0.0.5"
            ]


async def test_dig_sees_nothing_wrong(
    stacks: tuple[aioioth.Stack, aioioth.Stack],
) -> None:
    far, asks = stacks
    async with DnsServer(far, hosts={"db.lab": "10.0.0.5"}, records=ZONE):
        for name, status, counts in [
            ("db.lab", "NOERROR", "ANSWER: 1, AUTHORITY: 0"),
            ("ns.lab", "NOERROR", "ANSWER: 1, AUTHORITY: 0"),
            ("no.lab", "NXDOMAIN", "ANSWER: 0, AUTHORITY: 1"),
            ("lab", "NOERROR", "ANSWER: 0, AUTHORITY: 1"),
        ]:
            # Also a cookie, as dig sends it by default.
            printed = "\n".join(await dig(asks, "@10.0.0.1", name))
            assert f"status: {status}" in printed
            assert "flags: qr aa rd ra; QUERY: 1, " + counts in printed
            assert "WARNING" not in printed
            assert "malformed" not in printed.lower()
            assert "EDNS: version: 0, flags:; udp: 1232" in printed


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["+edns=1", "+noednsnegotiation", "ns.lab"], "BADVERS"),
        (["+opcode=UPDATE", "ns.lab"], "NOTIMP"),
        (["+opcode=NOTIFY", "ns.lab"], "NOTIMP"),
        (["CH", "TXT", "version.bind"], "REFUSED"),
        (["+header-only", "ns.lab"], "FORMERR"),
        (["+ednsopt=100:aabb", "+ednsflags=0x8040", "ns.lab"], "NOERROR"),
        (["+subnet=10.0.0.0/24", "ns.lab"], "NOERROR"),
        (["+dnssec", "+cdflag", "+adflag", "ns.lab"], "NOERROR"),
        (["+norecurse", "ns.lab"], "NOERROR"),
        (["ANY", "+notcp", "ns.lab"], "NOERROR"),
        (["ANY", "ns.lab"], "NOERROR"),
        (["-t", "TYPE65000", "ns.lab"], "NOERROR"),
        (["."], "NOERROR"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
async def test_dig_s_stranger_questions(
    stacks: tuple[aioioth.Stack, aioioth.Stack], arguments: list[str], status: str
) -> None:
    far, asks = stacks
    async with DnsServer(far, records=ZONE):
        printed = "\n".join(await dig(asks, "@10.0.0.1", *arguments))
        assert f"status: {status}" in printed


async def test_no_zone_is_given_away(
    stacks: tuple[aioioth.Stack, aioioth.Stack],
) -> None:
    far, asks = stacks
    async with DnsServer(far, records=ZONE):
        for kind in "AXFR", "IXFR=1":
            printed = "\n".join(await dig(asks, "@10.0.0.1", "lab", kind))
            assert "Transfer failed." in printed


async def test_dig_over_one_connection(
    stacks: tuple[aioioth.Stack, aioioth.Stack],
) -> None:
    far, asks = stacks
    hosts = {f"h{number}": f"10.1.0.{number}" for number in range(20)}
    async with DnsServer(far, hosts=hosts):
        lines = await dig(
            asks, "+tcp", "+keepopen", "+short", "@10.0.0.1", *hosts, "-q", "h1"
        )
        assert lines == [*hosts.values(), "10.1.0.1"]


async def test_dig_and_faults(stacks: tuple[aioioth.Stack, aioioth.Stack]) -> None:
    far, asks = stacks
    async with DnsServer(far, hosts={"db": "10.0.0.5"}) as server:
        fault = DnsFault(truncate=True)
        server.add_fault(fault)
        assert "10.0.0.5" in await short(asks, "db")
        printed = "\n".join(await dig(asks, "@10.0.0.1", "+ignore", "db"))
        assert "flags: qr tc rd ra" in printed
        server.remove_fault(fault)
        server.add_fault(DnsFault(drop=True))
        printed = "\n".join(await dig(asks, "@10.0.0.1", "+timeout=1", "db"))
        assert "no servers could be reached" in printed
        assert server.stats.ignored == {"fault": 1}


async def test_iothnamed_names(stacks: tuple[aioioth.Stack, aioioth.Stack]) -> None:
    """The published addresses; and names of addresses that were asked for."""
    far, asks = stacks
    zones: dict[str, HashZone | str] = {
        "hash.local": "fc00::/64",
        "v2.cs.unibo.it": HashZone("2000:760::/64"),
    }
    async with DnsServer(far, hash_zones=zones):
        for name, address in [
            ("renzo.hash.local", "fc00::4cc:8049:6765:d03a"),
            ("hic_sunt_leones.hash.local", "fc00::9c8f:74b4:705f:6512"),
            ("test.v2.cs.unibo.it", "2000:760::68d6:2fac:95a:5a2e"),
        ]:
            assert await short(asks, name, "AAAA") == [address]
            assert await short(asks, "-x", address) == [f"{name}."]


# The C library's resolver


async def test_getent_and_ping(stacks: tuple[aioioth.Stack, aioioth.Stack]) -> None:
    need("getent", "ping")
    far, asks = stacks
    hosts: dict[str, Any] = {
        "ns.lab": ["10.0.0.1", "fd00::1"],
        "many.lab": MANY,
    }
    async with DnsServer(far, hosts=hosts, records="www.lab CNAME ns.lab"):
        assert (await output(asks, "getent", "ahostsv4", "ns")).startswith("10.0.0.1 ")
        assert (await output(asks, "getent", "ahostsv6", "www")).startswith("fd00::1 ")
        assert "ns.lab" in await output(asks, "getent", "hosts", "10.0.0.1")
        assert "ns.lab" in await output(asks, "getent", "hosts", "fd00::1")
        assert await output(asks, "getent", "hosts", "no.such.name") == ""
        many = await output(asks, "getent", "ahostsv4", "many")
        assert set(MANY) <= set(many.split())
        for version in "-4", "-6":
            printed = await output(asks, "ping", version, "-c1", "-W5", "www")
            assert "1 received" in printed, printed


# dnsmasq


async def look_up(stack: aioioth.Stack, host: str, **wanted: int) -> list[str]:
    infos = await stack.getaddrinfo(host, 80, type=socket.SOCK_STREAM, **wanted)
    return [str(info[4][0]) for info in infos]


async def test_dnsmasq_is_asked() -> None:
    records = [
        "--host-record=db.example,10.0.0.5,fd00::5,300",
        "--cname=www.example,db.example",
        *(f"--host-record=many.example,{address}" for address in MANY),
        "--local=/example/",
    ]
    async with (
        aioioth.Stack("memory://dns", ip="10.0.0.2/24") as far,
        aioioth.Stack("memory://dns", ip="10.0.0.1/24") as near,
        aioioth.Stack("memory://dns", ip="10.0.0.9/24", dns="10.0.0.1") as asks,
        name_server(far, "10.0.0.2", *records),
        DnsServer(near, hosts={"db.lab": "10.0.0.6"}, forward="10.0.0.2") as server,
    ):
        assert await look_up(asks, "db.lab") == ["10.0.0.6"]
        assert set(await look_up(asks, "www.example")) == {"10.0.0.5", "fd00::5"}
        assert set(await look_up(asks, "many.example")) == set(MANY)
        assert await asks.getnameinfo(("10.0.0.5", 80)) == ("db.example", "http")
        for host, code in [
            ("no.example", socket.EAI_NONAME),
            ("elsewhere.org", socket.EAI_AGAIN),  # dnsmasq refuses
        ]:
            with pytest.raises(socket.gaierror) as caught:
                await look_up(asks, host)
            assert caught.value.errno == code
        before = server.stats.forwarded["questions"]
        first = await dig(asks, "@10.0.0.1", "+noall", "+answer", "db.example")
        assert first[0].split()[2:] == ["IN", "A", "10.0.0.5"]
        assert 0 < int(first[0].split()[1]) <= 300
        await short(asks, "db.example")
        assert server.stats.forwarded["questions"] == before + 1


async def test_dnsmasq_asks() -> None:
    async with (
        aioioth.Stack("memory://dns", ip=["10.0.0.2/24"]) as far,
        aioioth.Stack("memory://dns", ip=["10.0.0.1/24"]) as near,
        aioioth.Stack("memory://dns", ip=["10.0.0.9/24"], dns="10.0.0.2") as asks,
        DnsServer(
            near,
            hosts={"db.lab": ["10.0.0.5", "fd00::5"], "many.lab": MANY},
            records=ZONE,
            hash_zones={"hash.local": "fc00::/64"},
        ),
        name_server(far, "10.0.0.2", "--server=10.0.0.1", "--cache-size=100"),
    ):
        assert set(await look_up(asks, "db.lab")) == {"10.0.0.5", "fd00::5"}
        assert await look_up(asks, "www.lab") == ["10.0.0.2"]
        assert set(await look_up(asks, "many.lab")) == set(MANY)
        assert await look_up(asks, "renzo.hash.local") == ["fc00::4cc:8049:6765:d03a"]
        assert await asks.getnameinfo(("10.0.0.5", 80)) == ("db.lab", "http")
        with pytest.raises(socket.gaierror) as caught:
            await look_up(asks, "no.lab")
        assert caught.value.errno == socket.EAI_NONAME


async def test_dnsmasq_gone_and_back() -> None:
    record = "--host-record=db.example,10.0.0.5"
    async with (
        aioioth.Stack("memory://dns", ip="10.0.0.2/24") as far,
        aioioth.Stack("memory://dns", ip="10.0.0.1/24") as near,
        aioioth.Stack("memory://dns", ip="10.0.0.9/24", dns="10.0.0.1") as asks,
        DnsServer(near, forward="10.0.0.2", cache=False) as server,
    ):
        for _ in range(2):
            with pytest.raises(socket.gaierror) as caught:
                await look_up(asks, "db.example")
            assert caught.value.errno == socket.EAI_AGAIN
            async with name_server(far, "10.0.0.2", record):
                assert await look_up(asks, "db.example", family=2) == ["10.0.0.5"]
        assert server.stats.forwarded["errors"] > 0
