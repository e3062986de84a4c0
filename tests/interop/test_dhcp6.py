"""Needs dnsmasq, kea-dhcp6, dhclient or dhcpcd; each test says which.

Foreign servers for our DHCPv6 client, and foreign clients for our server, each in a
stack of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth._autoconf.findings import Findings
from aioioth.servers.dhcp6 import Dhcp6Server, Lease6
from tests.interop.programs import dnsmasq, program, started
from tests.kernel.dhcp6_hosts import PATIENCE, Host, configured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

VNL = "bridge://dhcp6"
POOL = IPv6Network("fd00::100/120")
MAC = "02:00:00:00:00:09"


# Foreign servers


@pytest.fixture
async def gateway() -> AsyncIterator[aioioth.Stack]:
    async with aioioth.Stack(VNL, name="gateway", ip="fd00::1/64") as stack:
        yield stack


def lease_server(home: Path, *options: str) -> list[str]:
    return dnsmasq(
        "--port=0",
        "--interface=vde0",
        "--bind-interfaces",
        f"--dhcp-leasefile={home}/leases",
        "--domain=example",
        *options,
    )


def kea(home: Path, **subnet: Any) -> list[str]:
    settings = {
        "interfaces-config": {"interfaces": ["vde0"]},
        "lease-database": {"type": "memfile", "persist": False},
        "server-id": {"type": "EN", "identifier": "0123456789", "persist": False},
        "option-data": [
            {"name": "dns-servers", "data": "fd00::53"},
            {"name": "domain-search", "data": "lab, a.lab"},
        ],
        "subnet6": [{"id": 1, "subnet": "fd00::/64", "interface": "vde0"} | subnet],
        "loggers": [
            {
                "name": "kea-dhcp6",
                "severity": "INFO",
                "output_options": [{"output": "stdout", "flush": True}],
            }
        ],
    }
    path = home / "kea.json"
    path.write_text(json.dumps({"Dhcp6": settings}))
    return [program("kea-dhcp6"), "-c", os.fspath(path)]


def around_kea(home: Path) -> dict[str, str]:
    return os.environ | {
        "KEA_PIDFILE_DIR": os.fspath(home),
        "KEA_LOCKFILE_DIR": os.fspath(home),
        "KEA_LOGGER_DESTINATION": "stdout",
    }


READY = "DHCP6_STARTED"
SHORT = {
    "renew-timer": 1,
    "rebind-timer": 2,
    "preferred-lifetime": 3,
    "valid-lifetime": 4,
    "pools": [{"pool": "fd00::100-fd00::1ff"}],
}


async def test_dnsmasq(gateway: aioioth.Stack, home: Path) -> None:
    """dnsmasq."""
    command = lease_server(
        home,
        "--dhcp-range=fd00::100,fd00::1ff,64,2m",
        "--dhcp-option=option6:dns-server,[fd00::53]",
        "--dhcp-option=option6:domain-search,example,a.example",
    )
    async with (
        started(gateway, *command, until="DHCPv6, IP range"),
        configured(VNL, mac=MAC, fqdn="web.example") as host,
    ):
        address = await host.bound()
        assert IPv6Address(address) in POOL
        found = host.told[-1]
        assert isinstance(found, Findings)
        assert list(map(str, found.dns)) == ["fd00::53"]
        assert found.domains == ("example", "a.example")
        assert found.addresses[0].valid in {119, 120}
        # Who, and under which name (option 39).
        # It writes that down a moment after it has answered.
        line: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while address not in line:
                await asyncio.sleep(0.01)
                lines = (home / "leases").read_text().splitlines()
                line = next((e.split() for e in lines if address in e.split()), [])
        assert line[2:5] == [address, "web", "00:03:00:01:" + MAC]
        # It is still ours when it asks again.
        host.source.refresh()
        assert await host.bound(times=3) == address


async def test_dnsmasq_without_addresses(gateway: aioioth.Stack, home: Path) -> None:
    """dnsmasq."""
    command = lease_server(
        home,
        "--dhcp-range=fd00::,ra-stateless",
        "--dhcp-option=option6:dns-server,[fd00::53]",
    )
    async with (
        started(gateway, *command, until="stateless"),
        configured(VNL) as host,
    ):
        await host.until(lambda: bool(host.told))
        found = host.told[-1]
        assert isinstance(found, Findings)
        assert (found.addresses, list(map(str, found.dns))) == ((), ["fd00::53"])


async def test_dnsmasq_has_no_address_left(gateway: aioioth.Stack, home: Path) -> None:
    """dnsmasq."""
    command = lease_server(
        home,
        "--dhcp-range=fd00::100,fd00::100,64,2m",
        "--dhcp-option=option6:dns-server,[fd00::53]",
    )
    async with (
        started(gateway, *command, until="DHCPv6, IP range"),
        configured(VNL) as one,
    ):
        assert await one.bound() == "fd00::100"
        async with configured(VNL) as two:
            await two.until(lambda: bool(two.told))
            found = two.told[-1]
            assert isinstance(found, Findings)
            assert found.addresses == ()
            assert list(map(str, found.dns)) == ["fd00::53"]
            one.source.release()
            # It is still looking for one.
            two.source.refresh()
            await two.until(lambda: len(two.told) == 2)
            assert two.address == "fd00::100"


async def test_dnsmasq_gives_what_somebody_has(
    gateway: aioioth.Stack, home: Path
) -> None:
    """dnsmasq."""
    command = lease_server(home, "--dhcp-range=fd00::100,fd00::101,64,2m")
    async with (
        aioioth.Stack(VNL, ip="fd00::100/64"),
        started(gateway, *command, until="DHCPv6, IP range"),
        configured(VNL, dad=True) as host,
    ):
        # Which of both comes first is dnsmasq's choice.
        await host.until(
            lambda: (
                bool(host.told)
                and isinstance(host.told[-1], Findings)
                and host.address == "fd00::101"
            )
        )
        assert await host.in_kernel() == {"fd00::101"}


async def test_kea(gateway: aioioth.Stack, home: Path) -> None:
    """kea-dhcp6; two messages do, its leases are lost without it, and had again."""
    options: dict[str, Any] = {"until": READY, "env": around_kea(home)}
    command = kea(home, **SHORT, **{"rapid-commit": True})
    async with configured(VNL, fqdn="web.lab") as host:
        async with started(gateway, *command, **options):
            address = await host.bound()
            assert IPv6Address(address) in POOL
            found = host.told[-1]
            assert isinstance(found, Findings)
            assert list(map(str, found.dns)) == ["fd00::53"]
            assert found.domains == ("lab", "a.lab")
            assert await host.in_kernel() == {address}
        assert await host.lost() == "the lease is over"
        assert await host.in_kernel() == set()
        async with started(gateway, *command, **options):
            assert IPv6Address(await host.bound()) in POOL


async def test_kea_delegates_a_prefix(gateway: aioioth.Stack, home: Path) -> None:
    """kea-dhcp6; four messages, and it is renewed."""
    parts = [{"prefix": "fd00:1::", "prefix-len": 48, "delegated-len": 60}]
    command = kea(home, **SHORT, **{"pd-pools": parts})
    async with (
        started(gateway, *command, until=READY, env=around_kea(home)),
        configured(VNL, prefix_length=60) as host,
    ):
        await host.bound(times=2)
        found = host.told[-1]
        assert isinstance(found, Findings)
        [prefix] = found.prefixes
        assert isinstance(prefix, IPv6Network)
        assert prefix.subnet_of(IPv6Network("fd00:1::/48"))
        assert prefix.prefixlen == 60


async def test_kea_restarts_and_has_forgotten(
    gateway: aioioth.Stack, home: Path
) -> None:
    """kea-dhcp6; the lease goes on all the same."""
    longer = SHORT | {"preferred-lifetime": 30, "valid-lifetime": 30}
    command = kea(home, **longer)
    options: dict[str, Any] = {"until": READY, "env": around_kea(home)}
    async with configured(VNL) as host:
        async with started(gateway, *command, **options):
            address = await host.bound()
        async with started(gateway, *command, **options):
            host.told.clear()
            assert await host.bound(times=2) == address
            assert all(isinstance(each, Findings) for each in host.told)


# Foreign clients


class Clients:
    """What our server tells of them."""

    def __init__(self) -> None:
        self.given: asyncio.Queue[Lease6] = asyncio.Queue()
        self.ended: asyncio.Queue[Lease6] = asyncio.Queue()

    def server(self, gateway: aioioth.Stack, **options: Any) -> Dhcp6Server:
        return Dhcp6Server(
            gateway,
            dns="fd00::53",
            domain="lab",
            on_lease=self.given.put_nowait,
            on_end=self.ended.put_nowait,
            **options,
        )

    async def gave_back(self, lease: Lease6) -> None:
        """Wait until one has released a lease, which was not over yet."""
        ended = await self.ended.get()
        assert ended.address == lease.address
        assert ended.expires > asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def bare_stack(*, dad: bool = False) -> AsyncIterator[aioioth.Stack]:
    """A stack whose interface has nothing but a link-local address."""
    async with aioioth.Stack(VNL, name="client", mac=MAC) as stack:
        host = Host(stack)
        await host.prepare(dad=dad)
        host.monitor.close()
        yield stack


async def test_dhclient(gateway: aioioth.Stack, home: Path) -> None:
    """dhclient; it renews, and gives back."""
    settings = home / "dhclient.conf"
    settings.write_text('send fqdn.fqdn "web";\n')
    command = [program("dhclient"), "-6", "-d", "-v", "-sf", "/bin/true"]
    command += ["-cf", f"{settings}", "-lf", f"{home}/leases", "-pf", f"{home}/pid"]
    clients = Clients()
    async with (
        clients.server(gateway, lease_time=4) as server,
        bare_stack() as stack,
        asyncio.timeout(PATIENCE),
    ):
        async with started(stack, *command, "vde0", until="Bound to lease"):
            lease = await clients.given.get()
            assert (lease.mac, lease.name) == (MAC, "web.lab")
            again = await clients.given.get()
            assert again.address == lease.address
            assert again.expires > lease.expires
        release = await stack.create_subprocess_exec(
            *command, "-r", "vde0", stderr=asyncio.subprocess.DEVNULL
        )
        await release.wait()
        await clients.gave_back(lease)
        assert (server.leases, server.ignored) == ((), {})


async def test_dhcpcd(gateway: aioioth.Stack, home: Path) -> None:
    """dhcpcd; it takes two messages, and gives back."""
    if os.getuid():
        pytest.skip("dhcpcd needs root: it changes its user, and writes to /var/lib")
    dhcpcd = program("dhcpcd")
    settings = home / "dhcpcd.conf"
    settings.write_text(
        "duid ll\nnoipv6rs\nia_na\nrelease\noption rapid_commit\nscript /dev/null\n"
    )
    # It keeps what it knows of interfaces, whoever's they are.
    hide = "mount -t tmpfs none /var/lib/dhcpcd; mount -t tmpfs none /run"
    script = f'{hide}; exec {dhcpcd} -6 -B -d -f {settings} "$@"'
    command = [program("unshare"), "-m", "sh", "-ec", script, "sh", "vde0"]
    clients = Clients()
    async with (
        # Nothing is renewed meanwhile: while it waits for an answer, it gives nothing
        # back.
        clients.server(gateway) as server,
        bare_stack() as stack,
        asyncio.timeout(PATIENCE),
        started(stack, *command, until="renew in", start_new_session=True) as client,
    ):
        process = client.process
        try:
            lease = await clients.given.get()
            assert lease.mac == MAC
            found = [str(each.address) for each in await stack.addresses("vde0")]
            assert f"{lease.address}/128" in found
            # It (9.4.1) loses a signal now and then.
            while process.returncode is None:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 0.5)
            await clients.gave_back(lease)
        finally:
            # It has children, which need not end with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert (server.leases, server.ignored) == ((), {})
