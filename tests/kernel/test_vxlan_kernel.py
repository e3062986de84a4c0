"""vxlan:// and the kernel's own VXLAN device, on two hosts that are stacks of ours."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import aioioth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

IP = shutil.which("ip")
PING = shutil.which("ping")

pytestmark = pytest.mark.skipif(
    IP is None or PING is None, reason="not installed: iproute2, iputils-ping"
)

# What we are given, and what the kernel's device is.
NETWORKS = {
    "ipv4-group": ("239.1.1.1/if=vde0/vni=42", "group 239.1.1.1 id 42 dstport 4789"),
    "ipv6-group": ("ff05::100/if=vde0/vni=42", "group ff05::100 id 42 dstport 4789"),
    "ipv6-link": ("ff02::100/if=vde0/vni=42", "group ff02::100 id 42 dstport 4789"),
    "ipv4-remote": (
        "192.168.0.2/vni=7/port=8472",
        "remote 192.168.0.1 id 7 dstport 8472",
    ),
    "ipv6-remote": ("fd01::2/vni=7", "remote fd01::1 id 7 dstport 4789"),
}


@pytest.fixture(params=NETWORKS.values(), ids=list(NETWORKS))
def network(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


@asynccontextmanager
async def both(
    network: tuple[str, str], device: str
) -> AsyncIterator[tuple[aioioth.Stack, aioioth.Stack]]:
    """Give our stack on the network, and the host where the kernel's device is."""
    ours, theirs = network
    async with (
        aioioth.Stack(
            "memory://lan", ip=["192.168.0.1/24", "fd01::1/64"], device=device
        ) as here,
        aioioth.Stack(
            "memory://lan", ip=["192.168.0.2/24", "fd01::2/64"], device=device
        ) as there,
    ):
        made = await there.run(f"{IP} link add vx0 type vxlan {theirs} dev vde0 ttl 1")
        if made:
            pytest.skip("this kernel has no vxlan")
        for command in (
            "addr add 10.0.0.2/24 dev vx0",
            "addr add fd00::2/64 dev vx0 nodad",
            "link set vx0 up",
        ):
            assert await there.run(f"{IP} {command}") == 0
        # What carries us is as large as what it carries.
        ip = ["10.0.0.1/24", "fd00::1/64"]
        stack = aioioth.Stack(f"vxlan://{ours}", ip=ip, mtu=1430, device=device)
        async with AsyncExitStack() as undo:
            with here.activate(patch=True):
                await undo.enter_async_context(stack)
            yield stack, there


async def test_ping(network: tuple[str, str], device: str) -> None:
    async with both(network, device) as (ours, theirs):
        for stack, hosts in (
            (theirs, ("10.0.0.1", "fd00::1")),
            (ours, ("10.0.0.2", "fd00::2")),
        ):
            for host in hosts:
                for size in (56, 1300):
                    ping = f"{PING} -c 1 -W 10 -q -s {size} {host}"
                    assert await stack.run(ping) == 0


@pytest.mark.parametrize("net", ["10.0.0.", "fd00::"])
async def test_tcp(network: tuple[str, str], device: str, net: str, echo: Any) -> None:
    text = b"abcdefgh" * 50_000
    async with both(network, device) as (ours, theirs), asyncio.timeout(20):
        for server, client, host in (
            (ours, theirs, f"{net}1"),
            (theirs, ours, f"{net}2"),
        ):
            async with await server.start_server(echo, host, 7):
                reader, writer = await client.open_connection(host, 7)
                writer.write(text)
                writer.write_eof()
                assert await reader.read() == text
                writer.close()
                await writer.wait_closed()
        drops = ours.stats()["vde0"].received.drops
        assert drops.get("wrong network", 0) == drops.get("stranger", 0) == 0
