"""``tap://``, ``macvtap://`` and ``pcap://`` on interfaces of our own namespace."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aioioth
from aioioth import abc
from aioioth.errors import BrokenTransportError
from aioioth.networks import find_network
from aioioth_transports.macvtap import MacvtapTransport
from aioioth_transports.pcap import PcapTransport
from aioioth_transports.tap import TapTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aioioth_transports._tun import TunPlug

MAC = "02:00:00:00:00:10"
# From neither side's own address: macvtap takes what is from its own for an echo.
TO_ALL = b"\xff" * 6 + bytes.fromhex("020000000020 88b5")
FRAME = TO_ALL + b"hello".ljust(46, b"\0")
BUFFER = memoryview(bytearray(65554))

# <linux/if_packet.h>; the first says in a packet socket's address where a frame goes.
PACKET_OUTGOING = 4
SOL_PACKET, PACKET_VNET_HDR = 263, 15

# Devices of macvtaps are found by index, in one directory for all namespaces.
INDEX = 100_000 + os.getpid()


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


@pytest.fixture(autouse=True)
def _interfaces_may_be_made() -> Iterator[None]:
    """Interfaces of the host, that is, of the namespace that the tests are in."""
    try:
        ip("link add v0 type veth peer name v1")
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("needs root, and 'ip': interfaces of the kernel's")
    for end in ("v0", "v1"):
        Path(f"/proc/sys/net/ipv6/conf/{end}/disable_ipv6").write_text("1")
        ip(f"link set {end} up")
    yield
    ip("link del v0")


@pytest.fixture
def macvtap() -> str:
    """Over v0, with MAC; goes with v0."""
    ip(f"link add link v0 name mv0 index {INDEX} address {MAC} type macvtap")
    ip("link set mv0 up")
    if not Path(f"/dev/tap{INDEX}").exists():
        pytest.skip("no /dev/tapN for macvtap: devtmpfs is not mounted here")
    return "mv0"


def names() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


async def until_gone(name: str) -> None:
    """Wait until the kernel has removed an interface."""
    async with asyncio.timeout(10):
        while name in names():
            await asyncio.sleep(0.005)


async def until_attached(stack: aioioth.Stack, attached: bool) -> None:
    async with asyncio.timeout(20):
        while stack.interfaces["vde0"].attached is not attached:
            await asyncio.sleep(0.005)


# <linux/if_packet.h>, Linux 6.1
SOL_PACKET = 263
PACKET_QDISC_BYPASS = 20


def host_socket(name: str) -> socket.socket:
    """The host's end: everything that goes through an interface."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.settimeout(10)
    # For some milliseconds after an interface is up its queue throws everything away.
    sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    sock.bind((name, 3))
    return sock


async def receive(plug: abc.Plug) -> bytes:
    """Return the next frame that is one of ours."""
    async with asyncio.timeout(10):
        while True:
            try:
                frame = bytes(BUFFER[: plug.recv_into(BUFFER) or 0])
            except BlockingIOError:
                frame = b""
            if frame[:12] == TO_ALL[:12]:
                return frame
            await asyncio.sleep(0 if frame else 0.001)


def nothing_comes(plug: abc.Plug) -> bool:
    while True:
        try:
            length = plug.recv_into(BUFFER)
        except BlockingIOError:
            return True
        if length is None:
            return True
        if BUFFER[:12] == TO_ALL[:12]:
            return False


# What they have in common


@pytest.fixture(params=["tap", "macvtap", "pcap"])
def vnl(request: pytest.FixtureRequest) -> Iterator[str]:
    """A network with the host on it, as 10.0.0.2 and fd00::2."""
    host = "v1"
    vnl = "pcap://v0"
    if request.param == "macvtap":
        vnl = f"macvtap://{request.getfixturevalue('macvtap')}"
    elif request.param == "tap":
        host = "tap0"
        vnl = "tap://tap0"
        ip("tuntap add dev tap0 mode tap")
        ip("link set tap0 up")
    Path(f"/proc/sys/net/ipv6/conf/{host}/disable_ipv6").write_text("0")
    ip(f"addr add 10.0.0.2/24 dev {host}")
    ip(f"addr add fd00::2/64 dev {host} nodad")
    yield vnl
    if request.param == "tap":
        ip("link del tap0")


@pytest.fixture
async def stack(vnl: str) -> AsyncIterator[aioioth.Stack]:
    ours = ["10.0.0.1/24", "fd00::1/64"]
    async with aioioth.Stack(vnl, ip=ours, mac=MAC) as made:
        yield made


TEXT = bytes(range(256)) * 4000


async def say_and_hear(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send and receive TEXT at the same time."""

    async def say() -> None:
        writer.write(TEXT)
        await writer.drain()
        writer.write_eof()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(say())
        assert await reader.read(-1) == TEXT
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("version", [4, 6])
async def test_the_stack_and_the_host_connect(
    stack: aioioth.Stack, version: int
) -> None:
    us, host = ("10.0.0.1", "10.0.0.2") if version == 4 else ("fd00::1", "fd00::2")
    # Whoever is served has the end before the server's task is done.
    served: asyncio.Queue[None] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say_and_hear(reader, writer)
        served.put_nowait(None)

    async with asyncio.timeout(30):
        async with await stack.start_server(serve, us, 7):
            await say_and_hear(*await asyncio.open_connection(us, 7))
            await served.get()
        async with await asyncio.start_server(serve, host, 7):
            await say_and_hear(*await stack.open_connection(host, 7))
            await served.get()
    # Frames were cut, not refused.
    assert set(stack.stats()["vde0"].received.drops) <= {"queue full"}


async def test_frames_at_the_plug(vnl: str) -> None:
    plug = await find_network(vnl).transport.open("us")
    assert isinstance(plug, abc.Plug)
    with host_socket("tap0" if vnl.startswith("tap") else "v1") as host:
        for frame in (FRAME, TO_ALL.ljust(1514, b"x")):
            assert plug.send(frame) == plug.send(memoryview(frame)) == len(frame)
            for _ in range(2):
                while (heard := host.recv(2000))[:12] != TO_ALL[:12]:
                    pass
                assert heard == frame
            host.send(frame)
            assert await receive(plug) == frame
        # Ours do not come back to us.
        plug.send(FRAME)
        assert nothing_comes(plug)
    plug.close()
    plug.close()
    assert plug.fileno() == -1


async def test_a_forked_child_closes_only_its_own(vnl: str) -> None:
    plug = await find_network(vnl).transport.open("us")
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        status = 1
        try:
            plug.close()
            status = 0
        finally:
            os._exit(status)
    with host_socket("tap0" if vnl.startswith("tap") else "v1") as host:
        host.send(FRAME)
        assert await receive(plug) == FRAME
    plug.close()


# tap


async def open_tap(address: str) -> TunPlug:
    return await TapTransport(address).open("us")


async def test_a_tap_is_made_and_removed() -> None:
    plug = await open_tap("t0")
    assert plug.name == "t0"
    assert "t0" in names()
    assert not os.get_inheritable(plug.fileno())
    plug.close()
    await until_gone("t0")
    plug = await open_tap("")
    assert plug.name in names()
    plug.close()
    await until_gone(plug.name)


async def test_a_tap_opens_again_right_after() -> None:
    for _ in range(5):
        (await open_tap("t0")).close()
    await until_gone("t0")


async def test_a_persistent_tap_stays() -> None:
    ip("tuntap add dev t0 mode tap")
    ip("link set t0 mtu 9000")
    plug = await open_tap("t0")
    assert plug.mtu == 9000
    plug.close()
    plug = await open_tap("t0")
    plug.close()
    assert "t0" in names()
    ip("link del t0")


async def test_a_tap_that_is_in_use() -> None:
    plug = await open_tap("t0")
    with pytest.raises(BrokenTransportError, match="t0 is in use") as caught:
        await open_tap("t0")
    assert caught.value.errno == errno.EBUSY
    plug.close()
    await until_gone("t0")


async def test_what_is_no_tap() -> None:
    with pytest.raises(BrokenTransportError, match="take another name") as caught:
        await open_tap("v0")
    assert caught.value.errno == errno.EINVAL


async def test_a_tap_that_is_down_drops() -> None:
    plug = await open_tap("t0")
    with pytest.raises(OSError) as caught:
        plug.send(FRAME)
    assert caught.value.errno == errno.ENETDOWN
    assert nothing_comes(plug)
    ip("link set t0 up")
    plug.send(FRAME)
    with pytest.raises(OSError) as caught:
        plug.send(FRAME[:13])
    assert caught.value.errno == errno.ENOMSG
    plug.close()
    await until_gone("t0")


async def test_a_tap_that_leaves_a_bridge_is_not_gone() -> None:
    plug = await open_tap("t0")
    ip("link add br0 type bridge")
    ip("link set t0 master br0")
    ip("link set t0 nomaster")
    ip("link del br0")
    assert not select.select([plug.hangup_fileno()], [], [], 0)[0]
    ip("link del t0")
    assert select.select([plug.hangup_fileno()], [], [], 10)[0]
    with pytest.raises(OSError) as caught:
        plug.send(FRAME)
    assert caught.value.errno == errno.EBADFD
    with pytest.raises(OSError) as caught:
        plug.recv_into(BUFFER)
    assert caught.value.errno == errno.EBADFD
    plug.close()


async def test_a_stack_notices_that_its_tap_was_deleted() -> None:
    """And makes it again. libuv hides the descriptor's error from uvloop."""
    async with aioioth.Stack("tap://t0", ip="10.0.0.1/24") as stack:
        before = socket.if_nametoindex("t0")
        ip("link del t0")
        await until_attached(stack, False)
        await until_attached(stack, True)
        assert socket.if_nametoindex("t0") != before
    await until_gone("t0")


# macvtap


async def test_what_is_no_macvtap() -> None:
    with pytest.raises(BrokenTransportError, match="v0 is veth, not macvtap"):
        await MacvtapTransport("v0").open("us")


async def test_a_macvtap_that_was_deleted_is_gone(macvtap: str) -> None:
    """Neither reading nor writing tells."""
    plug = await MacvtapTransport(macvtap).open("us")
    ip("link del mv0")
    assert nothing_comes(plug)
    assert plug.send(FRAME) == len(FRAME)
    assert select.select([plug.hangup_fileno()], [], [], 10)[0]
    plug.close()


async def test_all_multicasts_come(macvtap: str) -> None:
    frame = bytes.fromhex("333300000099") + FRAME[6:]
    plug = await MacvtapTransport(macvtap).open("us")
    with host_socket("v1") as host:
        host.send(frame)
    async with asyncio.timeout(10):
        while bytes(BUFFER[: plug.recv_into(BUFFER) or 0]) != frame:
            await asyncio.sleep(0.001)
    plug.close()


# pcap


@pytest.mark.parametrize(
    ("name", "advice", "code"),
    [
        ("nothing0", "there is no interface nothing0", errno.ENODEV),
        ("lo", "lo is no Ethernet interface", errno.EPROTOTYPE),
        ("v0", "v0 is down: 'ip link set v0 up'", errno.ENETDOWN),
    ],
)
async def test_where_there_is_nothing_to_capture(
    name: str, advice: str, code: int
) -> None:
    ip("link set v0 down")
    with pytest.raises(BrokenTransportError, match=advice) as caught:
        await PcapTransport(name).open("us")
    assert caught.value.errno == code


async def test_the_interface_is_promiscuous_as_long_as_the_plug_is_open() -> None:
    def promiscuity() -> str:
        shown = subprocess.check_output(["ip", "-d", "link", "show", "v0"], text=True)
        return shown.partition("promiscuity ")[2].split()[0]

    plug = await PcapTransport("v0").open("us")
    assert promiscuity() == "1"
    plug.close()
    assert promiscuity() == "0"


@pytest.mark.parametrize(
    "tags", ["81000005", "8100e005", "88a80006", "88a80006 81000005"]
)
async def test_vlan_tags_are_kept_both_ways(tags: str) -> None:
    frame = FRAME[:12] + bytes.fromhex(tags) + FRAME[12:]
    plug = await PcapTransport("v0").open("us")
    with host_socket("v1") as host:
        host.send(frame)
        assert await receive(plug) == frame
    other = await PcapTransport("v1").open("them")
    plug.send(frame)
    assert await receive(other) == frame
    # The kernel allows for one tag, and not for the other kind.
    longest = frame.ljust(1514 + 4 * tags.startswith("8100"), b"x")
    plug.send(longest)
    assert await receive(other) == longest
    with pytest.raises(OSError) as caught:
        plug.send(longest + b"x")
    assert caught.value.errno == errno.EMSGSIZE
    plug.close()
    other.close()


async def test_what_the_host_sends_is_not_shown() -> None:
    plug = await PcapTransport("v0").open("us")
    twin = await PcapTransport("v0").open("twin")
    with host_socket("v0") as host, host_socket("v1") as wire:
        host.send(FRAME)
        twin.send(FRAME)
        for _ in range(2):
            while wire.recv(2000)[:12] != FRAME[:12]:
                pass
        # Nor does the host hear us: we are on the wire, not in it.
        plug.send(FRAME)
        while wire.recv(2000)[:12] != FRAME[:12]:
            pass
        host.setblocking(False)
        while True:
            try:
                frame, where = host.recvfrom(2000)
            except BlockingIOError:
                break
            assert frame[:12] != FRAME[:12] or where[2] == PACKET_OUTGOING
    assert nothing_comes(plug)
    plug.close()
    twin.close()


async def test_a_full_queue_is_counted() -> None:
    plug = await PcapTransport("v0").open("us")
    assert plug.drops == {}
    long = TO_ALL.ljust(1514, b"x")
    with host_socket("v1") as host:
        for _ in range(6000):
            host.send(long)
    lost = plug.drops["queue full"]
    assert 0 < lost < 6000
    heard = 0
    while not nothing_comes(plug):
        heard += 1
    assert heard + lost == 6000
    plug.close()
    assert plug.drops == {"queue full": lost}


async def test_a_long_frame_wakes_the_loop_for_each_part() -> None:
    """A pump that leaves after a part has to be woken for the others."""
    plug = await PcapTransport("v0").open("us")
    payload = os.urandom(30_000)
    ipv4 = struct.pack("!BBHHHBBH", 0x45, 0, 20 + 20 + 30_000, 1, 0, 64, 6, 0)
    ipv4 += socket.inet_aton("10.0.0.2") + socket.inet_aton("10.0.0.1")
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x10, 5, 0, 0)
    frame = TO_ALL[:12] + b"\x08\0" + ipv4 + tcp + payload
    header = struct.pack("=BBHHHH", 1, 1, 54, 1400, 34, 16)
    with host_socket("v1") as host:
        host.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        host.send(header + frame)
    heard = b""
    while len(heard) < len(payload):
        assert select.select([plug.fileno()], [], [], 10)[0]
        length = plug.recv_into(BUFFER)
        if BUFFER[:12] == TO_ALL[:12]:
            assert length <= 1454
            heard += BUFFER[54:length]
    assert heard == payload
    assert nothing_comes(plug)
    assert not select.select([plug.fileno()], [], [], 0)[0]
    plug.close()


async def test_an_interface_that_goes_down_takes_the_network_away() -> None:
    """An error of the socket, which libuv must not see."""
    ip("addr add 10.0.0.2/24 dev v1")
    async with aioioth.Stack("pcap://v0", ip="10.0.0.1/24", mac=MAC) as stack:
        ip("link set v0 down")
        await until_attached(stack, False)
        ip("link set v0 up")
        await until_attached(stack, True)
        async with await stack.start_server(
            lambda _, writer: writer.close(), "10.0.0.1", 7
        ):
            async with asyncio.timeout(20):
                reader, writer = await asyncio.open_connection("10.0.0.1", 7)
                assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
