"""``macvlan://``, ``kvxlan://`` and ``wireguard://``, on hosts of two sorts.

A host is the namespace that the tests are in, which takes root, or a stack of ours
under ``activate(patch=True)``, whose links anybody may make.
"""

from __future__ import annotations

import asyncio
import base64
import ctypes
import errno
import fcntl
import itertools
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.abc import KernelTransport, NewInterface
from aioioth.errors import (
    BrokenTransportError,
    ConfigurationError,
    MissingPrivilegeError,
    NetlinkError,
)
from aioioth.testing import cancel_everywhere
from aioioth.wire import rtnetlink
from aioioth.wire.wireguard import get_family
from aioioth_transports import _hostlink, wireguard
from aioioth_transports.kvxlan import KernelVxlanTransport
from aioioth_transports.macvlan import MacvlanTransport
from aioioth_transports.vxlan import VxlanTransport
from aioioth_transports.wireguard import WireguardTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from aioioth.abc import FrameTransport

    Ask = Callable[[aioioth.Stack, str, bytes], Awaitable[bytes]]

IP = shutil.which("ip") or ""
PING = shutil.which("ping") or ""

pytestmark = pytest.mark.skipif(
    not (IP and PING), reason="not installed: iproute2, iputils-ping"
)

# <linux/sockios.h>, <linux/ethtool.h>, Linux 6.1
SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM = 0x17

MACS = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"]
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


@pytest.fixture(params=["program", "stacks"])
async def hosts(request: pytest.FixtureRequest) -> AsyncIterator[list[Host]]:
    """Two hosts on one Ethernet, 192.168.0.1 and .2, fd01::1 and ::2."""
    make = _program_and_stack if request.param == "program" else _two_stacks
    async with make() as found:
        for host in found:
            _leave_nothing_to_hardware(host)
        yield found


@asynccontextmanager
async def _two_stacks() -> AsyncIterator[list[Host]]:
    async with (
        aioioth.Stack("memory://lan", ip=["192.168.0.1/24", "fd01::1/64"]) as one,
        aioioth.Stack("memory://lan", ip=["192.168.0.2/24", "fd01::2/64"]) as two,
    ):
        yield [Host("vde0", one), Host("vde0", two)]


@asynccontextmanager
async def _program_and_stack() -> AsyncIterator[list[Host]]:
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


def _leave_nothing_to_hardware(host: Host) -> None:
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


@pytest.fixture(params=["directly", "moved"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How links get into stacks; they are moved there by kernels before 6.15."""

    def make_elsewhere(
        recipe: _hostlink.Recipe, wanted: NewInterface, *, up: bool
    ) -> None:
        with _hostlink.host_socket() as sock:
            _hostlink.make_elsewhere(sock, recipe, wanted, up=up)

    param: str = request.param
    if param == "moved":
        monkeypatch.setattr(_hostlink, "make_link", make_elsewhere)
    return param


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


def kernel_has_no(kind: str, error: OSError) -> None:
    if error.errno == errno.EOPNOTSUPP:
        pytest.skip(f"this kernel has no {kind}")
    raise error


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


# macvlan://


async def test_macvlan(hosts: list[Host], way: str, ask: Ask, echo: Any) -> None:
    here, there = hosts
    transport = MacvlanTransport(here.link)
    async with open_on((here, transport), (here, transport)) as stacks:
        await check(stacks, ask, echo)
        # They are on the LAN as well.
        await there.ip(f"address add 10.0.0.9/24 dev {there.link}")
        assert await stacks[0].run(f"{PING} -c 1 -W 10 -q 10.0.0.9") == 0
        assert not any("aio" in name for name in await here.names())


async def test_macvlans_that_are_to_be_apart(hosts: list[Host]) -> None:
    here, there = hosts
    await there.ip(f"address add 10.0.0.9/24 dev {there.link}")
    transport = MacvlanTransport(f"{here.link}[mode=private]")
    async with open_on((here, transport), (here, transport)) as (one, two):
        assert await one.run(f"{PING} -c 1 -W 10 -q 10.0.0.9") == 0
        assert await two.run(f"{PING} -c 1 -W 10 -q 10.0.0.9") == 0
        assert await one.run(f"{PING} -c 1 -W 1 -q 10.0.0.2") != 0


async def test_a_macvlan_has_its_parent_alone(hosts: list[Host]) -> None:
    here, there = hosts
    await there.ip(f"address add 10.0.0.9/24 dev {there.link}")
    alone = MacvlanTransport(f"{here.link}[mode=passthru]")
    shared = MacvlanTransport(here.link)
    async with open_on((here, alone)) as (stack,):
        assert await stack.run(f"{PING} -c 1 -W 10 -q 10.0.0.9") == 0
        for transport in (alone, shared):
            with pytest.raises(NetlinkError, match="alone") as caught:
                async with open_on((here, transport)):
                    pass
            assert caught.value.errno == errno.EINVAL


async def test_a_mac_address_that_is_taken(hosts: list[Host]) -> None:
    here, _ = hosts
    with here.here():
        one = aioioth.Stack(MacvlanTransport(here.link), mac=MACS[0], name="one")
        two = aioioth.Stack(MacvlanTransport(here.link), mac=MACS[0], name="two")
        async with one:
            with pytest.raises(NetlinkError, match="that MAC address already"):
                async with two:
                    pass
        # One that was closed just now is not there any more.
        async with two:
            assert two.interfaces["vde0"].mac == MACS[0]


async def test_there_is_no_such_parent(hosts: list[Host]) -> None:
    here, _ = hosts
    with here.here():
        with pytest.raises(BrokenTransportError, match="no interface 'eth9'") as caught:
            await MacvlanTransport("eth9").join("us")
        assert caught.value.errno == errno.ENODEV
        with pytest.raises(BrokenTransportError, match="lo is no Ethernet"):
            await MacvlanTransport("lo").join("us")


async def test_a_parent_that_goes_meanwhile(hosts: list[Host]) -> None:
    here, _ = hosts
    await here.ip("link add v0 type veth peer name v1")
    async with aioioth.Stack() as stack:
        with here.here():
            junction = await MacvlanTransport("v0").join("us")
            await here.ip("link del v0")
            with pytest.raises(NetlinkError, match="v0 is gone") as caught:
                await junction.make(await wanted_in(stack))
    assert caught.value.errno == errno.ENODEV


async def test_a_parent_that_is_a_port(hosts: list[Host]) -> None:
    here, _ = hosts
    with suppress(AssertionError):
        assert not await here.ip("link add br9 type bridge")
        await here.ip("link add v0 type veth peer name v1")
        await here.ip("link set v0 master br9")
        try:
            with here.here(), pytest.raises(NetlinkError, match="a port of a bridge"):
                async with aioioth.Stack(MacvlanTransport("v0")):
                    pass
        finally:
            await here.ip("link del v0")
            await here.ip("link del br9")


async def test_the_mtu_is_the_parents(hosts: list[Host]) -> None:
    here, _ = hosts
    await here.ip("link add v0 mtu 9000 type veth peer name v1")
    try:
        with here.here():
            junction = await MacvlanTransport("v0").join("us")
            assert junction.mtu == 9000
            transport = MacvlanTransport("v0")
            async with aioioth.Stack(transport, mtu=9000) as stack:
                assert stack.interfaces["vde0"].mtu == 9000
            with pytest.raises(ConfigurationError, match="carries 9000 at most"):
                async with aioioth.Stack(transport, mtu=9001):
                    pass
    finally:
        await here.ip("link del v0")


# kvxlan://

NETWORKS = {
    "ipv4-group": ("239.1.1.1/if=LINK/vni=42", "239.1.1.1/if=LINK/vni=42"),
    "ipv6-group": ("ff05::100/if=LINK/vni=42", "ff05::100/if=LINK/vni=42"),
    "ipv6-link": ("ff02::100/if=LINK/vni=42", "ff02::100/if=LINK/vni=42"),
    "ipv4-remote": ("192.168.0.2/vni=7/port=8472", "192.168.0.1/vni=7/port=8472"),
    "ipv6-remote": ("fd01::2/vni=7", "fd01::1/vni=7"),
}


@pytest.fixture(params=NETWORKS.values(), ids=list(NETWORKS))
def addresses(request: pytest.FixtureRequest, hosts: list[Host]) -> list[str]:
    """The address of the network, as it is on each host."""
    return [
        address.replace("LINK", host.link)
        for address, host in zip(request.param, hosts, strict=True)
    ]


@pytest.mark.parametrize("other", [KernelVxlanTransport, VxlanTransport])
async def test_kvxlan(
    hosts: list[Host], addresses: list[str], other: Any, ask: Ask, echo: Any
) -> None:
    kernels = KernelVxlanTransport(addresses[0])
    places = zip(hosts, (kernels, other(addresses[1])), strict=True)
    async with open_on(*places, mtu=1430) as stacks:
        await check(stacks, ask, echo)


async def test_kvxlan_is_moved(hosts: list[Host], way: str) -> None:
    async with open_on(
        *((host, KernelVxlanTransport(f"239.1.1.1/if={host.link}")) for host in hosts)
    ) as (one, _):
        assert one.interfaces["vde0"].mtu == 1450
        assert await one.run(f"{PING} -c 1 -W 10 -q 10.0.0.2") == 0


async def test_the_route_leads_to_the_group(hosts: list[Host]) -> None:
    here, _ = hosts
    transport = KernelVxlanTransport("239.1.1.1")
    with here.here():
        with pytest.raises(BrokenTransportError, match="no interface leads to the gr"):
            await transport.join("us")
        await here.ip(f"route add 239.0.0.0/8 dev {here.link}")
        junction = await transport.join("us")
        assert junction.mtu == 1450
    async with open_on((here, transport)):
        pass


async def test_a_vni_that_is_taken(hosts: list[Host]) -> None:
    here, _ = hosts
    transport = KernelVxlanTransport("192.168.0.2/vni=9")
    async with open_on((here, transport)):
        with pytest.raises(NetlinkError, match="VNI 9 on port 4789 already"):
            async with open_on((here, transport)):
                pass
        # Another one is another network, and shares the port.
        async with open_on((here, KernelVxlanTransport("192.168.0.2/vni=10"))):
            pass
    # One that was closed just now is not there any more.
    async with open_on((here, transport)):
        pass


async def test_a_port_that_is_taken(hosts: list[Host]) -> None:
    here, _ = hosts
    with here.here():
        plug = await VxlanTransport("192.168.0.2").open("us")
    try:
        with pytest.raises(NetlinkError, match="UDP port 4789 is taken") as caught:
            async with open_on((here, KernelVxlanTransport("192.168.0.2"))):
                pass
        assert caught.value.errno == errno.EADDRINUSE
    finally:
        plug.close()


async def test_the_socket_is_the_hosts(hosts: list[Host]) -> None:
    here, _ = hosts
    async with open_on((here, KernelVxlanTransport("192.168.0.2"))) as (stack,):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with here.here():
                theirs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            ours = stack.socket(socket.AF_INET, socket.SOCK_DGRAM, 0)
            with theirs, ours:
                ours.bind(("0.0.0.0", 4789))
                with pytest.raises(OSError) as caught:
                    theirs.bind(("0.0.0.0", 4789))
                assert caught.value.errno == errno.EADDRINUSE
            assert sock.fileno() >= 0


async def test_the_frames_of_kvxlan_are_vxlans(hosts: list[Host]) -> None:
    here, _ = hosts
    with here.here():
        plug = await KernelVxlanTransport("192.168.0.2/vni=3").open("us")
    assert plug.mtu == 9216
    plug.close()


# All of them


@pytest.fixture(params=["macvlan", "kvxlan"])
def transport(request: pytest.FixtureRequest, hosts: list[Host]) -> KernelTransport:
    made: KernelTransport
    if request.param == "macvlan":
        made = MacvlanTransport(hosts[0].link)
    else:
        made = KernelVxlanTransport("192.168.0.2")
    return made


async def test_a_name_or_number_that_is_taken(
    hosts: list[Host], transport: KernelTransport, way: str
) -> None:
    here, _ = hosts
    before = await here.names()
    async with aioioth.Stack("null://") as stack:
        number = stack.interfaces["vde0"].index
        with here.here():
            junction = await transport.join("us")
            for changes in ({"name": "vde0"}, {"index": number}):
                with pytest.raises(NetlinkError, match="of that name, or number"):
                    await junction.make(await wanted_in(stack, **changes))
            assert await here.names() == before
            await junction.make(await wanted_in(stack))
        names = await stack.run(f"{IP} link show dev test0 up")
        assert names == 0
        assert await here.names() == before


async def test_a_carrier_is_not_set(
    hosts: list[Host], transport: KernelTransport
) -> None:
    async with open_on((hosts[0], transport)) as (stack,):
        with pytest.raises(ConfigurationError, match="'ip link set' in the stack"):
            await stack.interfaces["vde0"].set_carrier(on=False)


async def test_cancellation(hosts: list[Host], transport: KernelTransport) -> None:
    before = await hosts[0].names()

    async def open_one() -> aioioth.Stack:
        with hosts[0].here():
            return await aioioth.Stack(transport, ip="10.0.0.1/24").__aenter__()

    async def close(stack: aioioth.Stack) -> None:
        await stack.aclose()

    assert await cancel_everywhere(open_one, undo=close) > 0
    assert await hosts[0].names() == before


TAKEN = {errno.EEXIST, errno.EINVAL, errno.EADDRINUSE}

PROGRAM = """
import asyncio, sys, aioioth
from aioioth_transports.{module} import {name}

async def main():
    async with aioioth.Stack({name}("{address}"), mac="02:00:00:00:00:0a"):
        print("open", flush=True)
        await asyncio.sleep(100)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("module", "name", "address"),
    [
        ("macvlan", "MacvlanTransport", "p0[mode=passthru]"),
        ("macvlan", "MacvlanTransport", "p0"),
        ("kvxlan", "KernelVxlanTransport", "192.168.0.2"),
    ],
)
async def test_nothing_stays_of_a_program_that_is_killed(
    module: str, name: str, address: str
) -> None:
    text = PROGRAM.format(module=module, name=name, address=address)
    async with _program_and_stack() as (here, _):
        before = await here.names()
        with subprocess.Popen(
            [sys.executable, "-c", text],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        ) as program:
            assert program.stdout is not None
            assert await asyncio.to_thread(program.stdout.readline) == b"open\n"
            program.send_signal(signal.SIGKILL)
            program.wait()
        scope: dict[str, Any] = {}
        exec(f"from aioioth_transports.{module} import {name} as kind", scope)
        async with asyncio.timeout(20):
            while True:  # its keeper ends after it
                stack = aioioth.Stack(scope["kind"](address), mac=MACS[0])
                try:
                    await stack.__aenter__()
                    break
                except NetlinkError as error:
                    if error.errno not in TAKEN:
                        raise
        await stack.aclose()
        assert await here.names() == before


async def test_without_privileges() -> None:
    if not os.geteuid():
        pytest.skip("root may")
    for transport, advice in (
        (MacvlanTransport("lo"), "making a macvlan of lo: .* It takes root: .*macvtap"),
        (KernelVxlanTransport("127.0.0.1"), "making a vxlan link: .* take vxlan://"),
        (WireguardTransport("/nowhere"), "making a wireguard link: .* seal://"),
    ):
        with pytest.raises(MissingPrivilegeError, match=advice) as caught:
            await transport.join("us")
        assert caught.value.errno == errno.EPERM
        assert isinstance(transport, KernelTransport)


# wireguard://

GET_FAMILY = get_family()


def configuration(path: Path, own: bytes, text: str) -> str:
    path.touch(0o600)
    path.write_text(
        f"[Interface]\nPrivateKey = {base64.b64encode(own).decode()}\n{text}"
    )
    return str(path)


async def test_wireguard(
    hosts: list[Host], tmp_path: Path, way: str, ask: Ask, echo: Any
) -> None:
    x25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.x25519")
    keys = [secrets.token_bytes(32) for _ in hosts]
    public = [
        base64.b64encode(
            x25519.X25519PrivateKey.from_private_bytes(key)
            .public_key()
            .public_bytes_raw()
        ).decode()
        for key in keys
    ]
    transports = []
    for own, other in ((1, 2), (2, 1)):
        text = (
            f"ListenPort = 5180{own}\nAddress = 10.0.0.{own}/24, fd00::{own}/64\n"
            f"[Peer]\nPublicKey = {public[other - 1]}\n"
            f"AllowedIPs = 10.0.0.{other}/32, fd00::{other}/128, 10.9.0.0/16\n"
            f"Endpoint = 192.168.0.{other}:5180{other}\n"
        )
        path = configuration(tmp_path / f"wg{own}.conf", keys[own - 1], text)
        transports.append(WireguardTransport(path))
    stacks = []
    async with AsyncExitStack() as undo:
        for host, transport in zip(hosts, transports, strict=True):
            with host.here():
                try:
                    stacks.append(
                        await undo.enter_async_context(aioioth.Stack(transport))
                    )
                except NetlinkError as error:
                    kernel_has_no("wireguard", error)
        await check(stacks, ask, echo)


@pytest.fixture
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a bridge without ports in a WireGuard link's place."""

    def new_bridge(body: bytes) -> bytes:
        return rtnetlink.new_link(body + rtnetlink.link_info("bridge"))

    monkeypatch.setattr(wireguard, "_new_wireguard", new_bridge)


@pytest.mark.usefixtures("_stand_in")
async def test_nothing_stays_of_a_link_that_cannot_be_configured(
    hosts: list[Host], tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = hosts
    monkeypatch.setattr(wireguard, "get_family", unknown_family)
    path = configuration(tmp_path / "wg0.conf", secrets.token_bytes(32), "")
    before = await here.names()
    async with aioioth.Stack() as stack:
        with here.here():
            junction = await WireguardTransport(path).join("us")
            with pytest.raises(NetlinkError, match="wg setconf test0: No such file"):
                await junction.make(await wanted_in(stack))
        assert await Host("", stack).names() == ["lo:"]
    assert await here.names() == before


@pytest.mark.usefixtures("_stand_in")
async def test_what_the_file_gives_the_stack(
    hosts: list[Host], tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = hosts
    monkeypatch.setattr(wireguard, "configure", lambda *_: ())
    monkeypatch.setattr(wireguard, "get_family", known_family)
    monkeypatch.setattr(wireguard, "family_number", lambda _: 0)
    text = (
        f"Address = 10.0.0.1/24, fd00::1/64\nMTU = 1300\n"
        f"[Peer]\nPublicKey = {base64.b64encode(bytes(32)).decode()}\n"
        f"AllowedIPs = 10.0.0.0/24, 10.9.0.0/16, 0.0.0.0/0, ::/0\n"
    )
    path = configuration(tmp_path / "wg0.conf", secrets.token_bytes(32), text)
    async with AsyncExitStack() as undo:
        with here.here():
            stack = aioioth.Stack(WireguardTransport(path))
            await undo.enter_async_context(stack)
        for address in ("10.0.0.1", "fd00::1"):
            assert await stack.run(f"{PING} -c 1 -q {address}") == 0
        interface = stack.interfaces["vde0"]
        assert interface.mtu == 1300
        program = await stack.create_subprocess_exec(
            IP, "route", "show", stdout=asyncio.subprocess.PIPE
        )
        routes, _ = await program.communicate()
        assert [line.split()[:3] for line in routes.decode().splitlines()] == [
            ["default", "dev", "vde0"],
            ["10.0.0.0/24", "dev", "vde0"],
            ["10.9.0.0/16", "dev", "vde0"],
        ]


def unknown_family() -> bytes:
    return GET_FAMILY.replace(b"wireguard", b"wireguarb")


def known_family() -> bytes:
    return GET_FAMILY.replace(b"wireguard\0", b"nlctrl\0\0\0\0")


async def test_a_kernel_without_wireguard(hosts: list[Host], tmp_path: Path) -> None:
    here, _ = hosts
    if not await here.ip("link add wg9 type wireguard"):
        await here.ip("link del wg9")
        pytest.skip("this kernel has wireguard")
    path = configuration(tmp_path / "wg0.conf", secrets.token_bytes(32), "")
    before = await here.names()
    with here.here():
        with pytest.raises(NetlinkError, match="'modprobe wireguard'") as caught:
            async with aioioth.Stack(WireguardTransport(path)):
                pass
        assert caught.value.errno == errno.EOPNOTSUPP
    assert await here.names() == before
