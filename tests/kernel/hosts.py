"""Machines with an Ethernet of their own, and stacks whose links are made there.

A host is the namespace that the tests are in, which takes root, or a stack of ours
under ``activate(patch=True)``, whose links anybody may make.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import itertools
import os
import shutil
import socket
import struct
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.abc import NewInterface

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioioth.abc import FrameTransport
    from tests.kernel.conftest import Ask

IP = shutil.which("ip") or ""
PING = shutil.which("ping") or ""

INSTALLED = pytest.mark.skipif(
    not (IP and PING), reason="not installed: iproute2, iputils-ping"
)

# <linux/sockios.h>, <linux/ethtool.h>, Linux 6.1
SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM = 0x17

TEXT = b"abcdefgh" * 50_000


@dataclass
class Host:
    """A machine of its own, as far as links go.

    Attributes:
        link: Its Ethernet.
        stack: None: where the tests are.
    """

    link: str
    stack: aioioth.Stack | None

    def here(self) -> AbstractContextManager[object]:
        """What the program does in the block, it does on this host."""
        if self.stack is None:
            return nullcontext()
        return self.stack.activate(patch=True)

    async def ip(self, command: str) -> int:
        if self.stack is not None:
            return await self.stack.run(f"{IP} {command}")
        program = await asyncio.create_subprocess_exec(IP, *command.split())
        return await program.wait()

    async def names(self) -> list[str]:
        start = (
            asyncio.create_subprocess_exec
            if self.stack is None
            else self.stack.create_subprocess_exec
        )
        program = await start(IP, "-o", "link", stdout=asyncio.subprocess.PIPE)
        text, _ = await program.communicate()
        return sorted(line.split()[1] for line in text.decode().splitlines())


@asynccontextmanager
async def two_stacks() -> AsyncIterator[list[Host]]:
    async with (
        aioioth.Stack("memory://lan", ip=["192.168.0.1/24", "fd01::1/64"]) as one,
        aioioth.Stack("memory://lan", ip=["192.168.0.2/24", "fd01::2/64"]) as two,
    ):
        yield [Host("vde0", one), Host("vde0", two)]


@asynccontextmanager
async def program_and_stack() -> AsyncIterator[list[Host]]:
    if os.geteuid() or {name for _, name in socket.if_nameindex()} != {"lo"}:
        pytest.skip("takes root, in a namespace of its own: tests/isolate.py")
    async with aioioth.Stack() as far:
        one, two = Host("p0", None), Host("p1", far)
        place = f"/proc/{os.getpid()}/fd/{far.namespace}"
        assert not await one.ip(f"link add p0 type veth peer name p1 netns {place}")
        try:
            for number, host in enumerate((one, two), 1):
                for address in (f"192.168.0.{number}/24", f"fd01::{number}/64 nodad"):
                    await host.ip(f"address add {address} dev {host.link}")
                await host.ip(f"link set {host.link} up")
            yield [one, two]
        finally:
            await one.ip("link del p0")


def leave_nothing_to_hardware(host: Host) -> None:
    """Have checksums computed, ``ethtool -K LINK tx off``.

    A link without hardware, such as a veth pair, passes on what was left to it. Kernels
    do not mind; what vxlan:// is given there are frames without their checksums.
    """
    value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STXCSUM, 0))
    request = struct.pack("16sP16x", host.link.encode(), ctypes.addressof(value))
    with host.here():
        any_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)


@asynccontextmanager
async def open_on(
    *places: tuple[Host, FrameTransport], mtu: int | None = None
) -> AsyncIterator[list[aioioth.Stack]]:
    """Open stacks: 10.0.0.1, fd00::1, then .2, ::2, each on its host."""
    async with AsyncExitStack() as undo:
        stacks = []
        for number, (host, transport) in enumerate(places, 1):
            stack = aioioth.Stack(
                transport, ip=[f"10.0.0.{number}/24", f"fd00::{number}/64"], mtu=mtu
            )
            with host.here():
                await undo.enter_async_context(stack)
            stacks.append(stack)
        yield stacks


async def check(stacks: list[aioioth.Stack], ask: Ask, echo: Any) -> None:
    """All reach each other: small and large packets, TCP, both kinds of IP."""
    for one, two in itertools.permutations(range(len(stacks)), 2):
        for net in ("10.0.0.", "fd00::"):
            host = f"{net}{two + 1}"
            for size in (56, 1300):
                ping = f"{PING} -c 1 -W 10 -q -s {size} {host}"
                assert await stacks[one].run(ping) == 0
            async with await stacks[two].start_server(echo, host, 7):
                assert await ask(stacks[one], host, TEXT) == TEXT


async def wanted_in(stack: aioioth.Stack, **changes: Any) -> NewInterface:
    assert stack.namespace is not None
    usual: dict[str, Any] = {
        "name": "test0",
        "index": 77,
        "mtu": 1400,
        "mac": None,
        "namespace": stack.namespace,
        "open_socket": stack.socket,
    }
    return NewInterface(**usual | changes)
