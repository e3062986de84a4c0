"""Needs vdens and vde_plug 4.0, vde_switch, nc, ping: each scheme with Debian's own.

One table. Each row is a network as we call it and as vdens does, or the kernel; each is
opened by us first and by them first. Then both sides ping and connect, with IPv4 and
IPv6, with frames as long as the network takes.

Where vdens may not open /dev/net/tun, vde_plug joins the same network to a switch, and
a second stack on that switch is where the other side's programs run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

import aioioth
from tests.interop.conftest import (
    THEIRS,
    Shell,
    a_shell,
    ip,
    may_configure_networks,
    need,
    running,
    until_listening,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

OURS = ["10.0.0.1/24", "fd00::1/64"]
OUR_MAC = "02:00:00:00:00:01"
OUR_HOSTS = ["10.0.0.1", "fd00::1"]
THEIR_HOSTS = ["10.0.0.2", "fd00::2"]

LINE = "abcdefg"

WE, THEY = "we first", "they first"

# Where a vde_plug has its switch, by the fixture of that name.
NODE = "HOME/node"

# Where the fixture `distant` has its namespace.
THERE = ("nsenter", "--net=/proc/DISTANT/ns/net")


@dataclass(frozen=True)
class Row:
    """One network.

    In all texts ``HOME`` is a directory that is empty at first; fixtures that give a
    mapping have more such words.

    Attributes:
        name: In the test's name.
        ours: Our VNL.
        theirs: Their VNL; empty if the kernel is the other side.
        needs: Fixtures.
        first: Who may open first.
        mtu: The largest that both sides carry.
        lines: How much goes through each connection. Usually more than one side's
            queues hold: all of them fill up and empty again.
        socket: Where they listen before we may come, if it takes them a moment.
        where: What runs a command on the kernel's side.
        make: What the kernel's side runs first.
        interface: The kernel's interface.
    """

    name: str
    ours: str
    theirs: str = ""
    needs: tuple[str, ...] = ()
    first: tuple[str, ...] = (WE, THEY)
    mtu: int = field(default=9000, kw_only=True)
    lines: int = field(default=40_000, kw_only=True)
    socket: str = field(default="", kw_only=True)
    where: tuple[str, ...] = field(default=(), kw_only=True)
    make: str = field(default="", kw_only=True)
    interface: str = field(default="far1", kw_only=True)


ROWS = (
    Row("vde", "vde://HOME/sw", "vde://HOME/sw", ("vde_switch",), mtu=1500),
    Row("vde_plug's node", f"vde://{NODE}", f"vde://{NODE}", ("node",)),
    *(
        Row(f"our {kind}", f"{kind}://{NODE}", f"vde://{NODE}", first=(WE,))
        for kind in ("switch", "hub", "multi", "bonding")
    ),
    *(
        Row(f"their {kind}", f"vde://{NODE}", f"{kind}://{NODE}", first=(THEY,))
        for kind in ("switch", "hub", "multi", "bonding")
    ),
    Row("vxvde", "vxvde://234.0.0.1/if=lo/vni=7", "vxvde://234.0.0.1/if=lo/vni=7"),
    Row("vxvde, defaults", "vxvde:///if=lo", "vxvde:///if=lo"),
    Row(
        "vxvde, IPv6",
        "vxvde:///v6/if=lo",
        "vxvde:///v6/if=lo",
        ("ipv6_multicast_on_lo",),
    ),
    Row(
        "udp",
        "udp://127.0.0.1:5001->127.0.0.1:5002",
        "udp://127.0.0.1:5002->127.0.0.1:5001",
    ),
    Row("udp, IPv6", "udp://[::1]:5001->[::1]:5002", "udp://::1:5002->::1:5001"),
    Row("ptp", "ptp://HOME/ptp", "ptp://HOME/ptp"),
    Row("seqpacket", "seqpacket://OUR_FD", "seqpacket://THEIR_FD", ("seqpacket",)),
    Row("cmd", f'cmd://"vde_plug vde://{NODE}"', f"vde://{NODE}", ("node",)),
    # vde_plug loses its place in a stream for ever when a piece of it ends between the
    # two bytes of a length, so it is not given much.
    Row(
        "stream, we listen",
        "stream://127.0.0.1:5003[listen]",
        "=nc 127.0.0.1 5003",
        first=(WE,),
        lines=1000,
    ),
    Row(
        "stream, they listen",
        "stream://HOME/stream",
        "=nc -lU HOME/stream",
        first=(THEY,),
        socket="HOME/stream",
        lines=1000,
    ),
    Row("vlan", f"vlan://4{{vde://{NODE}}}", f"vlan://4{{vde://{NODE}}}", ("node",)),
    Row(
        "vlan, qinq",
        f"vlan://4{{vlan://5/qinq{{vde://{NODE}}}}}",
        f"vlan://4{{vlan://5/qinq{{vde://{NODE}}}}}",
        ("node",),
    ),
    Row(
        "agno",
        f"agno://HOME/key{{vde://{NODE}}}",
        f"agno://HOME/key{{vde://{NODE}}}",
        ("node", "key"),
    ),
    Row("capture", f"capture://HOME/f{{vde://{NODE}}}", f"vde://{NODE}", ("node",)),
    Row("tap", "tap://far1", needs=("new_tap",), first=(WE,), mtu=1500),
    Row("tap that is there", "tap://far1", needs=("tap",)),
    Row(
        "macvtap",
        "macvtap://near1",
        needs=("distant", "macvtap"),
        where=THERE,
        interface="far0",
    ),
    Row("pcap", "pcap://near0", needs=("distant",), where=THERE, interface="far0"),
    Row(
        "vxlan",
        "vxlan://239.0.0.7/vni=7/if=near0",
        needs=("distant", "no_offloads"),
        where=THERE,
        make="ip link add far1 type vxlan id 7 group 239.0.0.7 dev far0 dstport 4789",
    ),
    Row(
        "vxlan, IPv6",
        "vxlan://ff05:56de::7/if=near0/port=8472",
        needs=("distant", "no_offloads"),
        where=THERE,
        make="ip link add far1 type vxlan id 1 group ff05:56de::7 dev far0 "
        "local fd09::2 dstport 8472",
    ),
)


@pytest.fixture
def seqpacket() -> Iterator[Mapping[str, str]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield {"OUR_FD": str(ours.fileno()), "THEIR_FD": str(theirs.fileno())}


@pytest.fixture
def key(home: Path) -> None:
    (home / "key").write_text("00112233445566778899aabbccddeeff\n")


@pytest.fixture
def new_tap(tap_opens: bool) -> None:
    """Whoever opens a TAP may make one."""
    if not (tap_opens and may_configure_networks()):
        pytest.skip("needs root: a TAP of the kernel's")


@pytest.fixture
def tap(new_tap: None) -> Iterator[None]:
    """A TAP that nobody has opened."""
    ip("tuntap add far1 mode tap")
    ip("link set far1 mtu 9000")
    yield
    ip("link del far1")


@pytest.fixture
def no_offloads(distant: int) -> None:
    """The far end sends what a wire would carry.

    Between veth interfaces the kernel leaves checksums out, those of what is inside of
    a tunnel too, and programs that take datagrams from there never learn of it.
    """
    program = """
import socket
from aioioth._linux.netdevice import switch_offloads_off
with socket.socket() as sock:
    switch_offloads_off(sock.fileno(), "far0")
"""
    space = f"--net=/proc/{distant}/ns/net"
    subprocess.run(["nsenter", space, sys.executable, "-c", program], check=True)


@pytest.fixture
def macvtap(distant: int) -> None:
    """It goes with the cable."""
    ip(f"link add link near0 name near1 address {OUR_MAC} type macvtap mode bridge")
    ip("link set near1 up")


@pytest.fixture
def words(row: Row, home: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """What stands for the words in the row's texts."""
    found = {"HOME": os.fspath(home)}
    for name in row.needs:
        value = request.getfixturevalue(name)
        if isinstance(value, dict):
            found |= value
        if name == "distant":
            found["DISTANT"] = str(value)
    return found


def filled(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


@contextlib.asynccontextmanager
async def vdens(row: Row, words: Mapping[str, str]) -> AsyncIterator[tuple[Shell, str]]:
    """Gives a shell on their network, and its interface."""
    need("vdens")
    vnl = filled(row.theirs, words)
    inherited = [int(words["THEIR_FD"])] if "THEIR_FD" in words else []
    async with a_shell("vdens", vnl, "sh", pass_fds=inherited) as shell:
        assert await shell.run(":") == ""  # the network is open before the shell runs
        yield shell, "vde0"


@contextlib.asynccontextmanager
async def vde_plug(
    row: Row, words: Mapping[str, str]
) -> AsyncIterator[tuple[Shell, str]]:
    """As `vdens`, with what an ordinary user may do without /dev/net/tun."""
    need("vde_plug")
    vnl, far = filled(row.theirs, words), f"switch://{words['HOME']}/far"
    inherited = [int(words["THEIR_FD"])] if "THEIR_FD" in words else []
    cable = ["--", far, "=", *vnl[1:].split()] if vnl.startswith("=") else [vnl, far]
    with running("vde_plug", *cable, pass_fds=inherited) as process:
        await until_listening(f"{words['HOME']}/far/ctl", process)
        async with (
            aioioth.Stack(f"vde://{words['HOME']}/far", name="far") as stack,
            a_shell("sh", start=stack.create_subprocess_exec) as shell,
        ):
            yield shell, "vde0"


@contextlib.asynccontextmanager
async def kernel(
    row: Row, words: Mapping[str, str]
) -> AsyncIterator[tuple[Shell, str]]:
    command = [filled(word, words) for word in row.where]
    async with a_shell(*command, "sh") as shell:
        assert await shell.run(row.make or ":") == ""
        yield shell, row.interface


CASES = [
    pytest.param(row, first, id=f"{row.name}-{first}")
    for row in ROWS
    for first in row.first
]


@pytest.mark.parametrize(("row", "first"), CASES)
async def test_a_network_with_both_on_it(
    row: Row, first: str, words: dict[str, str], tap_opens: bool
) -> None:
    need("ip", "nc", "ping")
    plugged = vdens if tap_opens else vde_plug
    their_side = plugged if row.theirs else kernel
    us = aioioth.Stack(filled(row.ours, words), ip=OURS, mac=OUR_MAC, mtu=row.mtu)
    async with AsyncExitStack() as until_end:
        if first == WE:
            await until_end.enter_async_context(us)
        there, interface = await until_end.enter_async_context(their_side(row, words))
        if first == THEY:
            if row.socket:
                await until_listening(filled(row.socket, words))
            await until_end.enter_async_context(us)
        await configure(there, interface, row.mtu)
        here = await until_end.enter_async_context(
            a_shell("sh", start=us.create_subprocess_exec)
        )
        await ping(here, THEIR_HOSTS, row.mtu)
        await ping(there, OUR_HOSTS, row.mtu)
        for host in THEIR_HOSTS:
            await we_connect(us, there, host, row.lines)
        for host in OUR_HOSTS:
            await they_connect(us, there, host, row.lines)


async def configure(shell: Shell, interface: str, mtu: int) -> None:
    ipv4, ipv6 = THEIRS
    said = await shell.run(f"""
        ip address add {ipv4} dev {interface}
        ip address add {ipv6} dev {interface} nodad
        ip link set {interface} up mtu {mtu}
    """)
    assert said == ""


async def ping(shell: Shell, hosts: list[str], mtu: int) -> None:
    """Send the shortest frames and the longest, which may not be fragmented."""
    for host in hosts:
        largest = mtu - (48 if ":" in host else 28)
        said = await shell.run(f"""
            for size in 0 {largest}; do
                ping -n -c 1 -W 5 -M do -s $size {host}
            done
        """)
        assert said.count("1 received") == 2, said


async def we_connect(us: aioioth.Stack, there: Shell, host: str, lines: int) -> None:
    text = f"{LINE}\n" * lines
    there.begin(f"yes {LINE} | head -n {lines} | nc -nlvN {host} 7")
    assert (await there.line()).startswith("Listening")
    async with asyncio.timeout(10):
        reader, writer = await us.open_connection(host, 7)
        writer.write(text.encode())
        # An nc that listens ends when we do, no matter what it has still to say.
        assert (await reader.read()).decode() == text
        writer.close()
        await writer.wait_closed()
    assert (await there.line()).startswith("Connection received")
    assert await there.rest() == text


async def they_connect(us: aioioth.Stack, there: Shell, host: str, lines: int) -> None:
    text = f"{LINE}\n" * lines
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text.encode())
        writer.write_eof()
        said = await reader.read()
        writer.close()
        await writer.wait_closed()
        heard.set_result(said.decode())

    async with await us.start_server(serve, host, 7), asyncio.timeout(10):
        said = await there.run(f"yes {LINE} | head -n {lines} | nc -nN {host} 7")
        assert said == text
        assert await heard == text


@pytest.mark.parametrize("row", [Row("null", "null://", "null://")])
async def test_nobody_is_on_null(
    row: Row, words: dict[str, str], tap_opens: bool
) -> None:
    their_side = vdens if tap_opens else vde_plug
    async with (
        aioioth.Stack(row.ours, ip=OURS) as us,
        their_side(row, words) as (there, interface),
    ):
        await configure(there, interface, 1500)
        assert "1 received" not in await there.run("ping -n -c 1 -W 0.1 10.0.0.1")
        assert us.stats()["vde0"].received.frames == 0
