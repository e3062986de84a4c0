"""Needs dnsmasq, kea-dhcp4, udhcpc, dhclient or libvdeplug-slirp; each test says which.

Foreign servers for our DHCPv4 client, and foreign clients for our server, each in a
stack of its own.
"""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.servers.dhcp4 import Dhcp4Server
from aioioth_transports.libvdeplug import SlirpTransport
from tests.interop.conftest import PATIENCE
from tests.interop.programs import dnsmasq, program, started
from tests.kernel.dhcp4_hosts import Host, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SERVER = "10.0.0.1"
FQDN = "web.example"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioioth._autoconf.dhcp4_machine._PROBE_PAUSE", 0.02)


@asynccontextmanager
async def lan(fqdn: str | None = None) -> AsyncIterator[tuple[aioioth.Stack, Host]]:
    """A stack for a server, and a client that has not begun."""
    async with (
        aioioth.Stack("bridge://lan", ip=f"{SERVER}/24") as far,
        aioioth.Stack("bridge://lan") as near,
    ):
        yield far, Host(near, fqdn)


def lease_server(home: Path, *options: str) -> list[str]:
    return dnsmasq(
        "--port=0",
        "--interface=vde0",
        "--bind-interfaces",
        "--no-ping",
        f"--dhcp-leasefile={home}/leases",
        "--dhcp-range=10.0.0.100,10.0.0.150,2m",
        "--domain=example",
        *options,
    )


async def test_dnsmasq(home: Path) -> None:
    """dnsmasq."""
    command = lease_server(
        home,
        "--dhcp-option=option:dns-server,10.0.0.53",
        "--dhcp-option=option:mtu,1400",
        "--dhcp-option=option:domain-search,example,a.example",
        "--dhcp-option=121,0.0.0.0/0,10.0.0.2,10.9.0.0/16,10.0.0.3",
    )
    leases = home / "leases"
    async with lan(FQDN) as (far, host):
        async with started(far, *command, until="DHCP, IP range"):
            async with running(host):
                address = await host.bound()
                assert address.startswith("10.0.0.1")
                assert host.findings is not None
                found = host.findings
                assert list(map(str, found.routes)) == [
                    f"default via 10.0.0.2 dev {host.dev} metric 1000",
                    f"10.9.0.0/16 via 10.0.0.3 dev {host.dev} metric 1000",
                ]
                assert list(map(str, found.dns)) == ["10.0.0.53"]
                assert found.domains == ("example", "a.example")
                assert found.mtu == 1400
                assert found.addresses[0].valid in {119, 120}
                # Who, and under which name (option 81).
                line = leases.read_text().split()
                assert line[1:4] == [host.interface.mac, address, "web"]
                host.source.refresh()
                assert await host.bound(times=2) == address
            async with asyncio.timeout(PATIENCE):
                while leases.read_text():  # it was released
                    await asyncio.sleep(0.01)


async def test_dnsmasq_renews(home: Path) -> None:
    """dnsmasq."""
    command = lease_server(home)
    async with lan() as (far, host), started(far, *command, until="DHCP, IP range"):
        async with running(host):
            address = await host.bound()
            # Its shortest lease is two minutes: the client is told that it is time.
            for times in (2, 3):
                host.renew()
                assert await host.bound(times=times) == address
            assert not any(isinstance(each, str) for each in host.told)


def kea(home: Path, seconds: int) -> tuple[list[str], dict[str, str]]:
    """Return kea's command and environment."""
    config = {
        "Dhcp4": {
            "interfaces-config": {"interfaces": ["vde0"], "dhcp-socket-type": "raw"},
            "lease-database": {"type": "memfile", "persist": False},
            "valid-lifetime": seconds,
            "calculate-tee-times": True,
            "subnet4": [
                {
                    "id": 1,
                    "subnet": "10.0.0.0/24",
                    "pools": [{"pool": "10.0.0.100 - 10.0.0.150"}],
                    "option-data": [{"name": "routers", "data": SERVER}],
                }
            ],
            "loggers": [
                {
                    "name": "kea-dhcp4",
                    "severity": "INFO",
                    "output_options": [{"output": "stdout", "flush": True}],
                }
            ],
        }
    }
    path = home / "kea.json"
    path.write_text(json.dumps(config))
    places = ("KEA_PIDFILE_DIR", "KEA_LOCKFILE_DIR")
    environment = {
        **dict.fromkeys(places, str(home)),
        "KEA_LOGGER_DESTINATION": "stdout",
    }
    return [program("kea-dhcp4"), "-c", str(path)], environment


async def test_kea_goes_and_comes_back(home: Path) -> None:
    """kea-dhcp4: renewed, lost after the server was killed, and got again."""
    command, env = kea(home, 2)
    async with lan(FQDN) as (far, host), running(host):
        async with started(far, *command, until="DHCP4_STARTED", env=env):
            host.source.refresh()  # it may have asked in vain, and waits
            address = await host.bound()
            assert address.startswith("10.0.0.1")
            assert await host.bound(times=2) == address
            assert not any(isinstance(each, str) for each in host.told)
        assert await host.lost() == "the lease has expired"
        assert host.findings is None
        host.told.clear()
        async with started(far, *command, until="DHCP4_STARTED", env=env):
            host.source.refresh()
            await host.bound()


async def test_kea_refuses_an_address_of_elsewhere(home: Path) -> None:
    """kea-dhcp4: another network at the same cable."""
    command, env = kea(home, 3600)
    config = home / "kea.json"
    text = config.read_text().replace("10.0.0.", "10.1.0.")
    config.write_text(text.replace('"Dhcp4": {', '"Dhcp4": {"authoritative": true,'))
    async with lan() as (far, host), running(host):
        async with Dhcp4Server(far, pool="10.0.0.10-10.0.0.20"):
            assert await host.bound() == "10.0.0.10"
        await far.del_address(f"{SERVER}/24", dev="vde0")
        await far.add_address("10.1.0.1/24", dev="vde0")
        async with started(far, *command, until="DHCP4_STARTED", env=env):
            host.source.refresh()
            assert await host.lost() == "the server refuses the lease"
            host.told.clear()
            assert (await host.bound()).startswith("10.1.0.1")


@pytest.mark.skipif(
    SlirpTransport.why_not("slirp") is not None, reason="libvdeplug-slirp is missing"
)
async def test_slirp() -> None:
    """libvdeplug-slirp."""
    async with aioioth.Stack("slirp://") as stack, running(Host(stack)) as host:
        assert await host.bound() == "10.0.2.15"
        assert host.findings is not None
        assert [str(route.via) for route in host.findings.routes] == ["10.0.2.2"]
        assert list(map(str, host.findings.dns)) == ["10.0.2.3"]


# Foreign clients

# What it is called with, and what it is told, in one line.
SCRIPT = """#!/bin/sh
echo "${reason:-$1} ${new_ip_address:-$ip} ${new_subnet_mask:-$subnet}" \
     "${new_routers:-$router} ${new_domain_name_servers:-$dns}" \
     "${new_domain_name:-$domain} ${new_dhcp_lease_time:-$lease}"
address=${new_ip_address:-$ip}
# For what is sent from it: requests for more time, and the last word.
[ -z "$address" ] || ip address replace $address/24 dev $interface
"""


@pytest.fixture
def script(home: Path) -> str:
    path = home / "script"
    path.write_text(SCRIPT)
    path.chmod(0o755)
    return str(path)


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[tuple[Dhcp4Server, aioioth.Stack]]:
    async with lan() as (far, host):
        options = {"dns": "10.0.0.53", "domain": "example", **options}
        async with Dhcp4Server(far, **options) as server:
            yield server, host.stack


async def output(stack: aioioth.Stack, *command: str, **options: Any) -> str:
    process = await stack.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        **options,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    return printed.decode()


TOLD = f"10.0.0.2 255.255.255.0 {SERVER} 10.0.0.53 example 3600"


async def test_udhcpc(script: str) -> None:
    """udhcpc."""
    command = [program("udhcpc"), "-f", "-n", "-q", "-i", "vde0", "-s", script]
    async with served() as (server, stack):
        printed = await output(stack, *command, "-F", "Web")
        assert f"bound {TOLD}" in printed, printed
        [lease] = server.leases
        assert lease.name == "web.example"
        assert lease.mac == stack.interfaces["vde0"].mac
        assert lease.client_id == b"\1" + bytes.fromhex(lease.mac.replace(":", ""))
        # The same address again.
        printed = await output(stack, *command, "-r", "10.0.0.99")
        assert f"bound {TOLD}" in printed, printed
        assert len(server.leases) == 1


async def test_udhcpc_renews_and_is_refused(script: str) -> None:
    """udhcpc."""
    command = [program("udhcpc"), "-f", "-n", "-T", "1", "-i", "vde0", "-s", script]
    async with (
        served() as (server, stack),
        # It lets a minute pass at least: it is told to renew.
        started(stack, *command, until=f"bound {TOLD}") as client,
    ):
        [before] = server.leases
        client.process.send_signal(signal.SIGUSR1)
        await client.prints(f"renew {TOLD}")
        [after] = server.leases
        assert after.expires > before.expires
        server.revoke("10.0.0.2")
        client.process.send_signal(signal.SIGUSR1)
        await client.prints("nak ")
        await client.prints("bound 10.0.0.3")
        client.process.send_signal(signal.SIGUSR2)
        await released(server)


async def released(server: Dhcp4Server) -> None:
    """Wait until nobody has an address any more."""
    async with asyncio.timeout(PATIENCE):
        while server.leases:
            await asyncio.sleep(0.01)


async def test_dhclient(home: Path, script: str) -> None:
    """dhclient."""
    config = home / "dhclient.conf"
    config.write_text(
        'send fqdn.fqdn "web.example."; send fqdn.encoded on;'
        "send fqdn.server-update on; request subnet-mask, routers,"
        "domain-name-servers, domain-name;"
    )
    files = ["-lf", f"{home}/leases", "-pf", f"{home}/pid", "-cf", str(config)]
    command = [program("dhclient"), "-4", "-d", "-1", "-v", "-sf", script, *files]
    async with served() as (server, stack):
        async with started(stack, *command, "vde0", until=f"BOUND {TOLD}") as client:
            await client.prints("bound to 10.0.0.2")  # and has written it down
            [lease] = server.leases
            assert lease.name == "web.example"
            # Ends the one that runs, too.
            release = [each for each in command if each != "-1"]
            printed = await output(stack, *release, "-r", "vde0")
            assert "DHCPRELEASE of 10.0.0.2" in printed, printed
            await released(server)
