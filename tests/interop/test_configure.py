"""Needs dnsmasq or libvdeplug-slirp; each test says which.

Whole stacks, which are told all that they know by somebody else's program.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING

import pytest

import aioioth
from aioioth.configuration import Achieved
from aioioth.events import Configured, Unconfigured
from aioioth.hashes import hash_address
from aioioth_transports.libvdeplug import SlirpTransport
from tests.interop.conftest import PATIENCE
from tests.interop.programs import dnsmasq, started

if TYPE_CHECKING:
    from pathlib import Path

    from aioioth import Stack

ALL = Achieved.DHCP | Achieved.DHCP6 | Achieved.RA
NAME = "web.example"


def lease_server(home: Path) -> list[str]:
    return dnsmasq(
        "--no-resolv",
        "--no-hosts",
        "--interface=vde0",
        "--bind-interfaces",
        "--no-ping",
        f"--dhcp-leasefile={home}/leases",
        "--enable-ra",
        "--dhcp-range=10.0.0.100,10.0.0.150,2m",
        "--dhcp-range=fd00::100,fd00::200,slaac,64,2m",
        "--domain=example",
        "--local=/example/",
    )


async def addresses(stack: Stack) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    found = {each.address.ip for each in await stack.addresses("vde0")}
    return {each for each in found if not each.is_link_local}


async def test_all_of_it_from_dnsmasq(home: Path) -> None:
    """dnsmasq."""
    async with aioioth.Stack("memory://lan", ip=["10.0.0.1/24", "fd00::1/64"]) as there:
        async with started(there, *lease_server(home), until="started"):
            async with aioioth.Stack(
                "memory://lan", fqdn=NAME, dhcp=True, dhcp6=True, ra=True
            ) as stack:
                assert stack.achieved == {"vde0": ALL}
                found = await addresses(stack)
                [four] = [each for each in found if each.version == 4]
                six = found - {four}
                by_name = hash_address(NAME, "fd00::/64")
                assert by_name in six
                [leased] = six - {by_name}
                assert leased in ipaddress.ip_network("fd00::/64")
                # It knows by DNS whom it gave a lease to.
                infos = await stack.getaddrinfo("web", 7, type=socket.SOCK_STREAM)
                assert {info[4][0] for info in infos} == {str(four), str(leased)}
                assert stack.resolv_conf().splitlines()[-1] == "search example"


async def test_dnsmasq_comes_late_and_goes(home: Path) -> None:
    """dnsmasq."""
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24") as there,
        aioioth.Stack("memory://lan", dhcp=True, timeout=0) as stack,
    ):
        events = stack.events(Configured, Unconfigured)
        async with started(there, *lease_server(home), until="started") as server:
            async with asyncio.timeout(PATIENCE):
                assert await anext(events) == Configured("vde0", "dhcp")
                [address] = await addresses(stack)
                # The cable was out: the same server says that all still holds.
                await stack.interfaces["vde0"].set_carrier(False)
                await stack.interfaces["vde0"].set_carrier(True)
                await server.prints("DHCPREQUEST")
                await server.prints(f"DHCPACK(vde0) {address}")
                # And it hears of it when the stack does not want it any more.
                await stack.configure("-dhcp")
                await server.prints(f"DHCPRELEASE(vde0) {address}")
                assert await anext(events) == Unconfigured("vde0", "dhcp", "undone")
                assert await addresses(stack) == set()


@pytest.mark.skipif(
    SlirpTransport.why_not("slirp") is not None, reason="libvdeplug-slirp is missing"
)
async def test_all_of_it_from_slirp() -> None:
    """libvdeplug-slirp."""
    async with aioioth.Stack("slirp://", dhcp=True, ra=True) as stack:
        assert stack.achieved == {"vde0": Achieved.DHCP | Achieved.RA}
        found = {str(each) for each in await addresses(stack) if each.version == 4}
        assert found == {"10.0.2.15"}
        assert "nameserver 10.0.2.3\n" in stack.resolv_conf()
        for family, far in (
            (socket.AF_INET, "192.0.2.1"),
            (socket.AF_INET6, "2001:db8::1"),
        ):
            with stack.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((far, 9))  # there is a way; nothing is sent
                assert ipaddress.ip_address(sock.getsockname()[0]) in await addresses(
                    stack
                )
