"""Needs vdens, vde_switch, vde_plug, and gcc with libvdestack: who talks to whom."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

import aioioth

if TYPE_CHECKING:
    from tests.interop.conftest import Peer

OURS = ["10.0.0.1/24", "fd00::1/64"]
OUR_HOSTS = [pytest.param("10.0.0.1", id="ipv4"), pytest.param("fd00::1", id="ipv6")]
THEIR_HOSTS = [pytest.param("10.0.0.2", id="ipv4"), pytest.param("fd00::2", id="ipv6")]

# A few segments, and within what a pipe holds.
TEXT = "abcdefgh" * 1000


@pytest.fixture(params=["vdens", "vdens_on_node", "vdestack"])
def peer(request: pytest.FixtureRequest) -> Peer:
    found: Peer = request.getfixturevalue(request.param)
    return found


async def ping(stack: aioioth.Stack, host: str) -> None:
    """Ask for one ICMP echo.

    Source: RFC 792 page 14, RFC 4443 section 4; raw(7), ipv6(7).
    """
    loop = asyncio.get_running_loop()
    if ":" in host:
        family, protocol = socket.AF_INET6, socket.IPPROTO_ICMPV6
        request, reply = 128, 129
    else:
        family, protocol = socket.AF_INET, socket.IPPROTO_ICMP
        request, reply = 8, 0
    content = struct.pack("!HH", 4711, 1) + b"aioioth!"
    message = struct.pack("!BBH", request, 0, checksum(request, content)) + content
    with stack.socket(family, socket.SOCK_RAW, protocol) as sock:
        sock.connect((host, 0))
        async with asyncio.timeout(10):
            await loop.sock_sendall(sock, message)
            while True:
                answer = await loop.sock_recv(sock, 2048)
                if family == socket.AF_INET:
                    answer = answer[20:]  # the IP header, without options
                if answer[0] == reply:
                    break
    assert answer[4:] == content


def checksum(kind: int, content: bytes) -> int:
    """Return an ICMP checksum (RFC 1071); the kernel makes ICMPv6's itself."""
    words = struct.unpack(f"!{len(content) // 2}H", content)
    total: int = sum(words, kind << 8)
    return ~(total + (total >> 16)) & 0xFFFF


def our_stack(peer: Peer, device: str) -> aioioth.Stack:
    return aioioth.Stack(f"vde://{peer.directory}", ip=OURS, device=device)


@pytest.mark.parametrize("host", OUR_HOSTS)
async def test_the_peer_pings_us(peer: Peer, device: str, host: str) -> None:
    async with our_stack(peer, device):
        assert "1 received" in await peer.ping(host)


@pytest.mark.parametrize("host", THEIR_HOSTS)
async def test_we_ping_the_peer(peer: Peer, device: str, host: str) -> None:
    async with our_stack(peer, device) as stack, peer.serving(host, 7):
        await ping(stack, host)


@pytest.mark.parametrize("host", OUR_HOSTS)
async def test_the_peer_connects_to_us(
    peer: Peer, device: str, host: str, echo: Any
) -> None:
    async with (
        our_stack(peer, device) as stack,
        await stack.start_server(echo, host, 7),
    ):
        assert await peer.ask(host, 7, TEXT) == TEXT


@pytest.mark.parametrize("host", THEIR_HOSTS)
async def test_we_connect_to_the_peer(peer: Peer, device: str, host: str) -> None:
    async with our_stack(peer, device) as stack, peer.serving(host, 7):
        async with asyncio.timeout(10):
            reader, writer = await stack.open_connection(host, 7)
            writer.write(TEXT.encode())
            assert (await reader.readexactly(len(TEXT))).decode() == TEXT
            writer.close()
            await writer.wait_closed()
