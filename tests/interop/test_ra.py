"""Needs radvd, dnsmasq, rdisc6, libvdeplug-slirp; each test says which."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

import aioioth
from aioioth.hashes import eui64_address, hash_address
from aioioth.servers.ra import RouterAdvertiser
from aioioth_transports.libvdeplug import SlirpTransport
from tests.interop.conftest import PATIENCE
from tests.interop.programs import dnsmasq, program, started
from tests.kernel.routers import hurry, leap, listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aioioth import Stack
    from aioioth._autoconf.findings import Findings

NETWORK = ipaddress.IPv6Network("fd00::/64")
ROUTER = eui64_address("02:00:00:00:00:01")

RADVD = """
interface vde0 {
    AdvSendAdvert on;
    MinRtrAdvInterval 3;
    MaxRtrAdvInterval 4;
    AdvDefaultLifetime 9;
    AdvDefaultPreference high;
    AdvLinkMTU 1400;
    prefix fd00::/64 { AdvValidLifetime 3000; AdvPreferredLifetime 2000; };
    prefix fd01::/64 { AdvAutonomous off; };
    route fd77::/48 { AdvRoutePreference low; AdvRouteLifetime 600; };
    RDNSS fd00::53 fd00::54 { AdvRDNSSLifetime 600; };
    DNSSL lab.example example.org { AdvDNSSLLifetime 600; };
};
"""


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@asynccontextmanager
async def two_stacks() -> AsyncIterator[tuple[Stack, Stack]]:
    """A router, fd00::1, and a host."""
    mac = "02:00:00:00:00:01"
    async with (
        aioioth.Stack("memory://lan", ip="fd00::1/64", mac=mac) as one,
        aioioth.Stack("memory://lan", ip="fe80::2/64") as two,
    ):
        await one.sysctl("net.ipv6.conf.all.forwarding", 1)
        yield one, two


def metrics(found: Findings) -> dict[str, int]:
    return {str(each.destination): each.metric for each in found.routes}


async def test_radvd_tells_and_takes_back(tmp_path: Path) -> None:
    """radvd."""
    radvd = program("radvd")
    config = tmp_path / "radvd.conf"
    config.write_text(RADVD)
    options = ["-n", "-C", str(config), "-p", str(tmp_path / "pid"), "-m", "stderr"]
    async with two_stacks() as (one, two), listening(two, fqdn="two.lab") as host:
        async with started(one, radvd, *options) as server:
            found = await host.until(lambda found: found.addresses)
            addresses = [each.address for each in found.addresses]
            assert [each.ip for each in addresses] == [
                hash_address("two.lab", NETWORK),
                hash_address("two.lab", "fd01::/64"),
            ]
            assert (found.addresses[0].valid, found.addresses[0].preferred) in {
                (3000, 2000),
                (2999, 1999),
            }
            assert metrics(found) == {
                "::/0": 984,
                "fd00::/64": 983,
                "fd01::/64": 983,
                "fd77::/48": 1016,
            }
            assert {each.via for each in found.routes} == {ROUTER, None}
            assert list(map(str, found.dns)) == ["fd00::53", "fd00::54"]
            assert found.domains == ("lab.example", "example.org")
            assert found.mtu == 1400
            # It goes politely.
            server.process.terminate()
            found = await host.until(lambda found: not found.dns)
            assert set(metrics(found)) == {"fd00::/64", "fd01::/64"}
            assert not found.domains
            assert len(found.addresses) == 2
        # And it comes back.
        async with started(one, radvd, *options):
            await host.until(lambda found: found.dns)


async def test_dnsmasq_goes_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dnsmasq."""
    command = dnsmasq(
        "--port=0",
        f"--dhcp-leasefile={tmp_path / 'leases'}",
        "--enable-ra",
        "--dhcp-range=::,constructor:vde0,ra-only,64,600",
        "--dhcp-option=option6:dns-server,[fd00::53]",
        "--dhcp-option=option6:domain-search,lab.example",
        "--ra-param=vde0,mtu:1400,low,4,5",
    )
    async with two_stacks() as (one, two), listening(two) as host:
        async with started(one, *command):
            found = await host.until(lambda found: found.addresses)
            assert len(found.addresses) == 1
            assert metrics(found) == {"::/0": 1016, "fd00::/64": 983}
            assert list(map(str, found.dns)) == ["fd00::53"]
            assert found.domains == ("lab.example",)
            assert found.mtu == 1400
        leap(monkeypatch, host, 6)
        await host.until(lambda found: metrics(found) == {"fd00::/64": 983})
        assert host.said[-1][1] == "no router has said so for too long"
        async with started(one, *command):
            await host.until(lambda found: "::/0" in metrics(found))


async def test_rdisc6_understands_us() -> None:
    """rdisc6."""
    rdisc6 = program("rdisc6")
    async with two_stacks() as (one, two):
        async with RouterAdvertiser(
            one,
            dns="fd00::53",
            domain=["lab.example"],
            mtu=1400,
            routes=["fd77::/48"],
            preference="low",
            other=True,
        ):
            async with asyncio.timeout(PATIENCE):
                process = await two.create_subprocess_exec(
                    rdisc6, "-1", "vde0", stdout=subprocess.PIPE
                )
                output = (await process.communicate())[0].decode()
    told = [" ".join(line.split()) for line in output.splitlines()]
    assert "Stateful address conf. : No" in told
    assert "Stateful other conf. : Yes" in told
    assert "Router preference : low" in told
    assert "Router lifetime : 1800 (0x00000708) seconds" in told
    assert "Source link-layer address: 02:00:00:00:00:01" in told
    assert "MTU : 1400 bytes (valid)" in told
    assert "Prefix : fd00::/64" in told
    assert "Valid time : 86400 (0x00015180) seconds" in told
    assert "Pref. time : 14400 (0x00003840) seconds" in told
    assert "Route : fd77::/48" in told
    assert "Recursive DNS server : fd00::53" in told
    assert "DNS search list : lab.example" in told
    assert f"from {ROUTER}" in told


@pytest.mark.skipif(
    SlirpTransport.why_not("slirp") is not None, reason="libvdeplug-slirp is missing"
)
async def test_slirp_is_a_router() -> None:
    """libvdeplug-slirp."""
    async with aioioth.Stack("slirp://") as stack, listening(stack) as host:
        found = await host.until(lambda found: found.addresses)
        assert metrics(found) == {"::/0": 1000, "fd00::/64": 983}
        [address] = found.addresses
        assert address.address.network == NETWORK
        with stack.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.connect(("2001:db8::1", 9))
            assert sock.getsockname()[0] == str(address.address.ip)
